/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Cuts a stream of bytes into JSON values: a state machine that looks at each
 * byte once, and knows of JSON only strings and brackets. Whether a value is
 * one is for json_text_parse() to say.
 */
#include "util/json-framer.h"

#include <string.h>

#include "util/error.h"
#include "util/json-text.h"

/* A buffer larger than this is given back after use. */
#define KEEP_BYTES (64 * 1024)

typedef enum State {
    BETWEEN, /* values */
    WORD,    /* in a value that is neither string, object nor array */
    NESTED,  /* in one that is */
    GARBAGE, /* that belongs to no value, has been reported */
    SKIP,    /* the rest of a value that has been reported */
} State;

struct JsonFramer {
    size_t max_bytes;
    GByteArray *in; /* pushed and, from @pos on, not yet looked at */
    guint pos;
    bool ended;

    State state;
    GString *value;     /* WORD, NESTED: so far */
    GByteArray *nested; /* NESTED: the closing brackets that are due */
    size_t depth;       /* NESTED, SKIP: their number */
    char quote;         /* NESTED, SKIP: of the string we are in, or 0 */
    bool escaped;       /* by a backslash just before */
    bool sound;         /* SKIP: brackets and strings can be trusted */
};

JsonFramer *json_framer_new(size_t max_bytes)
{
    JsonFramer *framer = g_new0(JsonFramer, 1);

    framer->max_bytes = max_bytes;
    framer->in = g_byte_array_new();
    framer->value = g_string_new(NULL);
    framer->nested = g_byte_array_new();
    return framer;
}

void json_framer_free(JsonFramer *framer)
{
    g_byte_array_unref(framer->in);
    g_byte_array_unref(framer->nested);
    g_string_free(framer->value, TRUE);
    g_free(framer);
}

void json_framer_push(JsonFramer *framer, const void *data, size_t bytes)
{
    g_assert(!framer->ended);
    if (framer->pos) {
        g_byte_array_remove_range(framer->in, 0, framer->pos);
        framer->pos = 0;
    }
    g_byte_array_append(framer->in, data, bytes);
}

void json_framer_end(JsonFramer *framer)
{
    framer->ended = true;
}

static bool is_reset(guchar c)
{
    return c == 0xfe || c == 0xff;
}

static bool is_space(guchar c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Nothing is begun. */
static void reset(JsonFramer *framer)
{
    framer->state = BETWEEN;
    if (framer->value->allocated_len > KEEP_BYTES) {
        g_string_free(framer->value, TRUE);
        framer->value = g_string_new(NULL);
    }
    g_string_truncate(framer->value, 0);
    g_byte_array_set_size(framer->nested, 0);
    framer->depth = 0;
    framer->quote = 0;
    framer->escaped = false;
}

/* Report what is begun as broken, and skip the rest of it. */
static void skip_rest(JsonFramer *framer, bool sound)
{
    size_t depth = framer->depth;
    char quote = framer->quote;
    bool escaped = framer->escaped;

    reset(framer);
    framer->state = SKIP;
    framer->depth = depth;
    framer->quote = quote;
    framer->escaped = escaped;
    framer->sound = sound;
}

static void stray(guchar c, GError **err)
{
    if (c > ' ' && c < 0x7f) {
        error_setg(err, "JSON parse error, stray '%c'", c);
    } else {
        error_setg(err, "JSON parse error, stray '\\x%02x'", c);
    }
}

/* The value is complete. Always true: there is a value or an error. */
static bool finish(JsonFramer *framer, JsonNode **node, GError **err)
{
    *node = json_text_parse(framer->value->str, framer->value->len, err);
    reset(framer);
    return true;
}

/*
 * The functions for one byte @c in each state return true when there is
 * something to report. They may leave the byte to be looked at again by the
 * next state by clearing *@eaten.
 */
static bool feed_between(JsonFramer *framer, guchar c, GError **err)
{
    if (is_space(c)) {
        return false;
    }
    g_string_append_c(framer->value, c);
    switch (c) {
    case '{':
    case '[':
        framer->state = NESTED;
        framer->depth = 1;
        c = c == '{' ? '}' : ']';
        g_byte_array_append(framer->nested, &c, 1);
        return false;
    case '"':
    case '\'':
        framer->state = NESTED;
        framer->quote = c;
        return false;
    case '}':
    case ']':
    case ':':
    case ',':
        break;
    default:
        if (c > ' ' && !is_reset(c)) {
            framer->state = WORD;
            return false;
        }
    }
    reset(framer);
    framer->state = is_reset(c) ? BETWEEN : GARBAGE;
    stray(c, err);
    return true;
}

static bool too_long(JsonFramer *framer, GError **err)
{
    if (framer->value->len < framer->max_bytes) {
        return false;
    }
    error_setg(err, "JSON parse error, value has more than %zu bytes",
               framer->max_bytes);
    return true;
}

static bool feed_word(JsonFramer *framer, guchar c, bool *eaten,
                      JsonNode **node, GError **err)
{
    if (c > ' ' && !is_reset(c) && !strchr("{}[],:\"'", c)) {
        if (too_long(framer, err)) {
            reset(framer);
            framer->state = GARBAGE;
            return true;
        }
        g_string_append_c(framer->value, c);
        return false;
    }
    *eaten = false;
    finish(framer, node, err);
    if (!*node) {
        framer->state = GARBAGE;
    }
    return true;
}

/* Step over @c, which is a byte within a string. True at the end of it. */
static bool string_step(JsonFramer *framer, guchar c)
{
    if (framer->escaped) {
        framer->escaped = false;
    } else if (c == '\\') {
        framer->escaped = true;
    } else if (c == (guchar)framer->quote) {
        framer->quote = 0;
        return true;
    }
    return false;
}

/* A bracket or quote outside of strings; false with @err if it is wrong. */
static bool bracket_step(JsonFramer *framer, guchar c, GError **err)
{
    guchar closing;

    switch (c) {
    case '"':
    case '\'':
        framer->quote = c;
        return true;
    case '{':
    case '[':
        if (framer->depth == JSON_TEXT_MAX_NESTING) {
            framer->depth++;
            error_setg(err, "JSON parse error, nesting is too deep");
            return false;
        }
        framer->depth++;
        closing = c == '{' ? '}' : ']';
        g_byte_array_append(framer->nested, &closing, 1);
        return true;
    case '}':
    case ']':
        if (framer->nested->data[framer->depth - 1] != c) {
            stray(c, err);
            return false;
        }
        framer->depth--;
        g_byte_array_set_size(framer->nested, framer->depth);
        return true;
    default:
        return true;
    }
}

static bool feed_nested(JsonFramer *framer, guchar c, bool *eaten,
                        JsonNode **node, GError **err)
{
    if (is_reset(c) || (c == '\n' && framer->quote)) {
        reset(framer);
        stray(c, err);
        return true;
    }
    if (c < ' ' && (framer->quote || !is_space(c))) {
        skip_rest(framer, false);
        stray(c, err);
        return true;
    }
    if (too_long(framer, err)) {
        skip_rest(framer, true);
        *eaten = false;
        return true;
    }
    g_string_append_c(framer->value, c);
    if (framer->quote) {
        string_step(framer, c);
    } else if (!bracket_step(framer, c, err)) {
        skip_rest(framer, false);
        return true;
    }
    if (framer->depth == 0 && !framer->quote) {
        return finish(framer, node, err);
    }
    return false;
}

static void feed_skip(JsonFramer *framer, guchar c)
{
    bool quoted = framer->quote;

    if (is_reset(c) || (c == '\n' && (quoted || !framer->sound))) {
        reset(framer);
        return;
    }
    if (quoted) {
        string_step(framer, c);
    } else if (c == '"' || c == '\'') {
        framer->quote = c;
    } else if (c == '{' || c == '[') {
        framer->depth++;
    } else if (c == '}' || c == ']') {
        framer->depth -= framer->depth > 0;
    }
    if (framer->depth == 0 && !framer->quote) {
        reset(framer);
    }
}

static bool feed(JsonFramer *framer, guchar c, bool *eaten, JsonNode **node,
                 GError **err)
{
    switch (framer->state) {
    case BETWEEN:
        return feed_between(framer, c, err);
    case WORD:
        return feed_word(framer, c, eaten, node, err);
    case NESTED:
        return feed_nested(framer, c, eaten, node, err);
    case GARBAGE:
        if (c == '{' || c == '\n' || is_reset(c)) {
            reset(framer);
            *eaten = c != '{';
        }
        return false;
    case SKIP:
        feed_skip(framer, c);
        return false;
    }
    g_assert_not_reached();
}

bool json_framer_is_within(const JsonFramer *framer)
{
    return framer->state != BETWEEN;
}

bool json_framer_next(JsonFramer *framer, JsonNode **node, GError **err)
{
    *node = NULL;
    while (framer->pos < framer->in->len) {
        bool eaten = true;
        bool report =
            feed(framer, framer->in->data[framer->pos], &eaten, node, err);

        framer->pos += eaten;
        if (report) {
            return true;
        }
    }
    if (framer->ended && (framer->state == WORD || framer->state == NESTED)) {
        return finish(framer, node, err);
    }
    return false;
}
