/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON text to JsonNode and back: a recursive-descent parser whose depth is
 * bounded, and a printer.
 */
#include "util/json-text.h"

#include <math.h>
#include <string.h>

#include "util/error.h"

typedef struct Parser {
    const char *p;   /* the next byte */
    const char *end; /* behind the last one */
    int depth;
} Parser;

static JsonNode *parse_value(Parser *parser, GError **errp);

static void skip_space(Parser *parser)
{
    while (parser->p < parser->end &&
           memchr(" \t\r\n", *parser->p, sizeof(" \t\r\n") - 1)) {
        parser->p++;
    }
}

/* The next byte that is not white space, or 0 at the end */
static char peek(Parser *parser)
{
    skip_space(parser);
    return parser->p < parser->end ? *parser->p : 0;
}

static bool at_end(Parser *parser)
{
    skip_space(parser);
    return parser->p == parser->end;
}

static void *parse_error(GError **errp, const char *what)
{
    error_setg(errp, "JSON parse error, %s", what);
    return NULL;
}

/* Where a token that is no string ends: at the next separator */
static const char *word_end(Parser *parser)
{
    const char *s = parser->p;

    while (s < parser->end && (guchar)*s > ' ' && !strchr("{}[],:\"'", *s)) {
        s++;
    }
    return s;
}

static bool parse_hex4(Parser *parser, unsigned *value)
{
    unsigned v = 0;
    int i;

    if (parser->end - parser->p < 4) {
        return false;
    }
    for (i = 0; i < 4; i++) {
        int digit = g_ascii_xdigit_value(parser->p[i]);

        if (digit < 0) {
            return false;
        }
        v = v << 4 | digit;
    }
    parser->p += 4;
    *value = v;
    return true;
}

/* What follows \u, surrogate pairs included. U+0000 has no place in a C
 * string. */
static bool parse_unicode_escape(Parser *parser, GString *out, GError **errp)
{
    unsigned high, low;

    if (!parse_hex4(parser, &high)) {
        return parse_error(errp, "invalid hex escape '\\u' in string");
    }
    if (high >= 0xd800 && high < 0xdc00) {
        if (parser->end - parser->p < 6 || parser->p[0] != '\\' ||
            parser->p[1] != 'u') {
            return parse_error(errp, "half a surrogate pair in string");
        }
        parser->p += 2;
        if (!parse_hex4(parser, &low)) {
            return parse_error(errp, "invalid hex escape '\\u' in string");
        }
        if (low < 0xdc00 || low > 0xdfff) {
            return parse_error(errp, "half a surrogate pair in string");
        }
        high = 0x10000 + ((high & 0x3ff) << 10 | (low & 0x3ff));
    }
    if (high == 0 || (high >= 0xdc00 && high < 0xe000)) {
        error_setg(errp,
                   "JSON parse error, \\u%04x is not a valid Unicode "
                   "character",
                   high);
        return false;
    }
    g_string_append_unichar(out, high);
    return true;
}

/* What follows a backslash */
static bool parse_escape(Parser *parser, GString *out, GError **errp)
{
    static const char from[] = "\"'\\/bfnrt";
    static const char to[] = "\"'\\/\b\f\n\r\t";
    const char *match;
    char c;

    if (parser->p == parser->end) {
        return parse_error(errp, "unterminated string");
    }
    c = *parser->p++;
    if (c == 'u') {
        return parse_unicode_escape(parser, out, errp);
    }
    match = c ? strchr(from, c) : NULL;
    if (!match) {
        return parse_error(errp, "invalid escape sequence in string");
    }
    g_string_append_c(out, to[match - from]);
    return true;
}

/* A string, whose quote is the next byte */
static char *parse_string(Parser *parser, GError **errp)
{
    g_autoptr(GString) out = g_string_new(NULL);
    char quote = *parser->p++;

    while (parser->p < parser->end && *parser->p != quote) {
        const char *start = parser->p;

        if (*start == '\\') {
            parser->p++;
            if (!parse_escape(parser, out, errp)) {
                return NULL;
            }
            continue;
        }
        while (parser->p < parser->end && *parser->p != quote &&
               *parser->p != '\\') {
            if ((guchar)*parser->p < ' ') {
                return parse_error(errp, "control character in string");
            }
            parser->p++;
        }
        g_string_append_len(out, start, parser->p - start);
    }
    if (parser->p == parser->end) {
        return parse_error(errp, "unterminated string");
    }
    parser->p++;
    if (!g_utf8_validate(out->str, out->len, NULL)) {
        return parse_error(errp, "invalid UTF-8 sequence in string");
    }
    return g_strndup(out->str, out->len);
}

/* -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)? and nothing behind it */
static bool is_number(const char *s, bool *integer)
{
    *integer = true;
    s += *s == '-';
    if (!g_ascii_isdigit(*s) || (*s == '0' && g_ascii_isdigit(s[1]))) {
        return false;
    }
    s += strspn(s, "0123456789");
    if (*s == '.') {
        *integer = false;
        s++;
        if (!g_ascii_isdigit(*s)) {
            return false;
        }
        s += strspn(s, "0123456789");
    }
    if (*s == 'e' || *s == 'E') {
        *integer = false;
        s++;
        s += *s == '-' || *s == '+';
        if (!g_ascii_isdigit(*s)) {
            return false;
        }
        s += strspn(s, "0123456789");
    }
    return *s == 0;
}

static JsonNode *parse_word(Parser *parser, GError **errp)
{
    const char *end = word_end(parser);
    g_autofree char *word = g_strndup(parser->p, end - parser->p);
    bool integer;
    gint64 value;
    double number;

    if (end == parser->p) {
        return parse_error(errp, "expecting value");
    }
    parser->p = end;
    if (!strcmp(word, "null")) {
        return json_node_init_null(json_node_alloc());
    }
    if (!strcmp(word, "true") || !strcmp(word, "false")) {
        return json_node_init_boolean(json_node_alloc(), word[0] == 't');
    }
    if (is_number(word, &integer)) {
        if (integer && g_ascii_string_to_signed(word, 10, G_MININT64,
                                                G_MAXINT64, &value, NULL)) {
            return json_node_init_int(json_node_alloc(), value);
        }
        number = g_ascii_strtod(word, NULL);
        if (!isfinite(number)) {
            error_setg(errp, "JSON parse error, number '%.40s' is too large",
                       word);
            return NULL;
        }
        return json_node_init_double(json_node_alloc(), number);
    }
    if (g_utf8_validate(word, -1, NULL)) {
        error_setg(errp, "JSON parse error, invalid keyword '%.*s'",
                   (int)(g_utf8_offset_to_pointer(
                             word, MIN(g_utf8_strlen(word, -1), 40)) -
                         word),
                   word);
        return NULL;
    }
    return parse_error(errp, "invalid UTF-8 sequence");
}

static JsonNode *parse_array(Parser *parser, GError **errp)
{
    g_autoptr(JsonArray) array = json_array_new();

    parser->p++;
    if (peek(parser) != ']') {
        for (;;) {
            JsonNode *element = parse_value(parser, errp);

            if (!element) {
                return NULL;
            }
            json_array_add_element(array, element);
            if (peek(parser) == ']') {
                break;
            }
            if (peek(parser) != ',') {
                return parse_error(errp, at_end(parser)
                                             ? "premature EOI"
                                             : "expected separator in list");
            }
            parser->p++;
        }
    }
    parser->p++;
    return json_node_init_array(json_node_alloc(), array);
}

static bool parse_pair(Parser *parser, JsonObject *object, GError **errp)
{
    g_autofree char *key = NULL;
    JsonNode *value;

    if (peek(parser) != '"' && peek(parser) != '\'') {
        return parse_error(errp, at_end(parser)
                                     ? "premature EOI"
                                     : "key is not a string in object");
    }
    key = parse_string(parser, errp);
    if (!key) {
        return false;
    }
    if (json_object_has_member(object, key)) {
        error_setg(errp, "JSON parse error, duplicate key '%s'", key);
        return false;
    }
    if (peek(parser) != ':') {
        return parse_error(errp, at_end(parser) ? "premature EOI"
                                                : "missing : in object pair");
    }
    parser->p++;
    value = parse_value(parser, errp);
    if (!value) {
        return false;
    }
    json_object_set_member(object, key, value);
    return true;
}

static JsonNode *parse_object(Parser *parser, GError **errp)
{
    g_autoptr(JsonObject) object = json_object_new();

    parser->p++;
    if (peek(parser) != '}') {
        for (;;) {
            if (!parse_pair(parser, object, errp)) {
                return NULL;
            }
            if (peek(parser) == '}') {
                break;
            }
            if (peek(parser) != ',') {
                return parse_error(errp, at_end(parser)
                                             ? "premature EOI"
                                             : "expected separator in dict");
            }
            parser->p++;
        }
    }
    parser->p++;
    return json_node_init_object(json_node_alloc(), object);
}

static JsonNode *parse_value(Parser *parser, GError **errp)
{
    JsonNode *node = NULL;
    g_autofree char *string = NULL;
    char c = peek(parser);

    if (at_end(parser)) {
        return parse_error(errp, "premature EOI");
    }
    switch (c) {
    case '{':
    case '[':
        if (parser->depth == JSON_TEXT_MAX_NESTING) {
            return parse_error(errp, "nesting is too deep");
        }
        parser->depth++;
        node =
            c == '{' ? parse_object(parser, errp) : parse_array(parser, errp);
        parser->depth--;
        return node;
    case '"':
    case '\'':
        string = parse_string(parser, errp);
        if (!string) {
            return NULL;
        }
        return json_node_init_string(json_node_alloc(), string);
    default:
        return parse_word(parser, errp);
    }
}

JsonNode *json_text_parse(const char *text, size_t len, GError **errp)
{
    Parser parser = { .p = text, .end = text + len };
    g_autoptr(JsonNode) node = parse_value(&parser, errp);

    if (node && !at_end(&parser)) {
        return parse_error(errp, "expecting at most one JSON value");
    }
    return g_steal_pointer(&node);
}

static void append_escape(GString *out, gunichar c)
{
    if (c > 0xffff) {
        c -= 0x10000;
        g_string_append_printf(out, "\\u%04X", 0xd800 | c >> 10);
        c = 0xdc00 | (c & 0x3ff);
    }
    g_string_append_printf(out, "\\u%04X", c);
}

/* Nothing but ASCII, so that no client has to know about encodings */
static void append_string(GString *out, const char *s)
{
    static const char from[] = "\"\\\b\f\n\r\t";
    static const char to[] = "\"\\bfnrt";
    const char *match, *start;
    gunichar c;

    g_string_append_c(out, '"');
    while (*s) {
        for (start = s; *s >= ' ' && *s <= '~' && *s != '"' && *s != '\\';) {
            s++;
        }
        g_string_append_len(out, start, s - start);
        if (!*s) {
            break;
        }
        match = strchr(from, *s);
        c = g_utf8_get_char_validated(s, -1);
        if (match) {
            g_string_append_c(out, '\\');
            g_string_append_c(out, to[match - from]);
            s++;
        } else if (c == (gunichar)-1 || c == (gunichar)-2) {
            /* Not UTF-8: the name of a file, perhaps */
            append_escape(out, 0xfffd);
            s++;
        } else {
            append_escape(out, c);
            s = g_utf8_next_char(s);
        }
    }
    g_string_append_c(out, '"');
}

static void append_scalar(GString *out, JsonNode *node)
{
    char buf[G_ASCII_DTOSTR_BUF_SIZE];
    double number;

    if (JSON_NODE_HOLDS_NULL(node)) {
        g_string_append(out, "null");
        return;
    }
    switch (json_node_get_value_type(node)) {
    case G_TYPE_STRING:
        append_string(out, json_node_get_string(node));
        break;
    case G_TYPE_BOOLEAN:
        g_string_append(out, json_node_get_boolean(node) ? "true" : "false");
        break;
    case G_TYPE_INT64:
        g_string_append_printf(out, "%" G_GINT64_FORMAT,
                               json_node_get_int(node));
        break;
    case G_TYPE_DOUBLE:
        number = json_node_get_double(node);
        /* JSON has no word for what is not finite */
        g_string_append(out, isfinite(number)
                                 ? g_ascii_dtostr(buf, sizeof(buf), number)
                                 : "null");
        break;
    default:
        g_assert_not_reached();
    }
}

static void append_break(GString *out, bool pretty, int depth)
{
    if (pretty) {
        g_string_append_printf(out, "\n%*s", depth * 4, "");
    }
}

static void append_node(GString *out, JsonNode *node, bool pretty, int depth)
{
    const char *separator = pretty ? "," : ", ";

    switch (json_node_get_node_type(node)) {
    case JSON_NODE_OBJECT: {
        JsonObject *object = json_node_get_object(node);
        g_autoptr(GList) names = json_object_get_members(object);
        GList *l;

        g_string_append_c(out, '{');
        for (l = names; l; l = l->next) {
            append_break(out, pretty, depth + 1);
            append_string(out, l->data);
            g_string_append(out, ": ");
            append_node(out, json_object_get_member(object, l->data), pretty,
                        depth + 1);
            g_string_append(out, l->next ? separator : "");
        }
        if (names) {
            append_break(out, pretty, depth);
        }
        g_string_append_c(out, '}');
        break;
    }
    case JSON_NODE_ARRAY: {
        JsonArray *array = json_node_get_array(node);
        guint i, length = json_array_get_length(array);

        g_string_append_c(out, '[');
        for (i = 0; i < length; i++) {
            append_break(out, pretty, depth + 1);
            append_node(out, json_array_get_element(array, i), pretty,
                        depth + 1);
            g_string_append(out, i + 1 < length ? separator : "");
        }
        if (length) {
            append_break(out, pretty, depth);
        }
        g_string_append_c(out, ']');
        break;
    }
    default:
        append_scalar(out, node);
        break;
    }
}

void json_text_append(GString *out, JsonNode *node, bool pretty)
{
    append_node(out, node, pretty, 0);
}
