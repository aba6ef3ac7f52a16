/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes the daemon's QMP commands: each line of the input is one, and they are carried
 * out one after the other, with jobs, exports and nodes that are real, in a folder that has
 * two images at the beginning. Whatever is done, in the end there is nothing left.
 *
 * Nothing gets out of the folder: no text may have a slash in it, and nobody listens
 * or connects but on Unix sockets. The mutator makes lines of what the tables say
 * of commands.
 *
 * What must be true: what a command returns fits its schema; and when jobs are
 * cancelled, exports removed and nodes closed, none of them is there any more.
 */
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "block/block-int.h"
#include "block/export.h"
#include "block/job.h"
#include "block/monitor/monitor-int.h"
#include "block/nbd-client-int.h"
#include "fuzz.h"
#include "monitor/monitor.h"
#include "util/fdset.h"
#include "util/json-text.h"
#include "util/object.h"

#define MAX_LINES 24
#define MAX_LINE 4000
#define MAX_FILE (INT64_C(4) << 20)
#define MAX_CACHE (INT64_C(4) << 20) /* that a line may ask for, bytes */
#define MAX_DEPTH 5                  /* of what is made */

/* Names that lines have in common */
static const char *const names[] = { "disk0", "copy0", "base0", "overlay0",
                                     "n0",    "job0",  "e0",    "b0",
                                     "b1",    "g0",    "img0",  "img1",
                                     "new0",  "file",  "sock0" };

/* ---- the folder ------------------------------------------------------------ */

static char *folder;
static GBytes *image;

static void empty_folder(void)
{
    GDir *dir = g_dir_open(".", 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        unlink(name);
    }
    g_clear_pointer(&dir, g_dir_close);
}

static void fill_folder(void)
{
    g_autofree char *zeroes = g_malloc0(65536);

    memset(zeroes + 8192, 0x55, 5000);
    fuzz_assert(g_file_set_contents("img0", zeroes, 65536, NULL) &&
                g_file_set_contents("img1", g_bytes_get_data(image, NULL),
                                    g_bytes_get_size(image), NULL));
}

static void at_exit(void)
{
    management_stop();
    empty_folder();
    rmdir(folder);
    g_free(folder);
    g_bytes_unref(image);
}

static void start(void)
{
    struct rlimit limit = { MAX_FILE, MAX_FILE };
    const char *base = FUZZ_FOLDER "/base/plain";
    char *data;
    gsize size;

    fuzz_quiet();
    fuzz_assert(g_file_get_contents(base, &data, &size, NULL));
    image = g_bytes_new_take(data, size);
    folder = g_strdup("/dev/shm/fuzz-qmp-XXXXXX");
    fuzz_assert(mkdtemp(folder) && chdir(folder) == 0);
    /* A file that is made enormous ends here. */
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    nbd_client_times.connect = nbd_client_times.handshake = 20000;
    nbd_client_times.goodbye = 20000;
    fuzz_assert(monitor_init(NULL));
    bdrv_set_management_queue(management_queue);
    atexit(at_exit);
}

/* ---- what is not for here -------------------------------------------------- */

static bool is_tame(JsonNode *node, const char *name);

static bool is_tame_object(JsonObject *object)
{
    g_autoptr(GList) members = json_object_get_members(object);
    GList *l;

    for (l = members; l; l = l->next) {
        if (!is_tame(json_object_get_member(object, l->data), l->data)) {
            return false;
        }
    }
    return true;
}

static bool is_tame(JsonNode *node, const char *name)
{
    guint i;

    if (JSON_NODE_HOLDS_OBJECT(node)) {
        return is_tame_object(json_node_get_object(node));
    }
    if (JSON_NODE_HOLDS_ARRAY(node)) {
        JsonArray *array = json_node_get_array(node);

        for (i = 0; i < json_array_get_length(array); i++) {
            if (!is_tame(json_array_get_element(array, i), name)) {
                return false;
            }
        }
        return true;
    }
    if (json_node_get_value_type(node) == G_TYPE_STRING) {
        const char *s = json_node_get_string(node);

        return !strchr(s, '/') && !g_str_equal(s, "inet") &&
               !g_str_equal(s, "vsock") && !g_str_equal(s, "quit") &&
               !g_str_equal(s, "..");
    }
    /* Memory, and time, that somebody asks for is his. */
    if (g_str_has_suffix(name, "cache-size") || g_str_equal(name, "buf-size")) {
        return json_node_get_int(node) <= MAX_CACHE;
    }
    return !g_str_has_suffix(name, "-timeout") &&
           !g_str_equal(name, "reconnect-delay");
}

/* ---- lines ----------------------------------------------------------------- */

static void execute(QmpRequest *req)
{
    bool graph = req->cmd && req->cmd->thread == QMP_MANAGEMENT;

    if (graph) {
        bdrv_graph_lock();
    }
    qmp_request_execute(req);
    if (graph) {
        bdrv_graph_unlock();
    }
}

static void check_reply(const QmpRequest *req)
{
    g_autoptr(JsonNode) reply =
        json_text_parse(req->reply->str, req->reply->len, NULL);
    g_autoptr(GError) err = NULL;
    JsonNode *value;

    fuzz_assert(reply, "%s", req->reply->str);
    value = json_object_get_member(json_node_get_object(reply), "return");
    if (value && req->cmd) {
        fuzz_assert(schema_check(req->cmd->ret ? req->cmd->ret : &schema_empty,
                                 value, "", false, &err),
                    "%s: %s: %s", req->cmd->name, err->message,
                    req->reply->str);
    }
}

static void run_line(const char *line, size_t length)
{
    QmpCapabilities caps = { .negotiated = true, .oob = true };
    JsonNode *node = json_text_parse(line, length, NULL);
    QmpRequest *req;

    if (!node || !is_tame(node, "")) {
        g_clear_pointer(&node, json_node_unref);
        return;
    }
    req = qmp_request_new(node, NULL);
    qmp_request_resolve(req, &caps);
    execute(req);
    if (g_getenv("FUZZ_VERBOSE")) {
        g_printerr("%.*s\n%s", (int)length, line, req->reply->str);
    }
    check_reply(req);
    qmp_request_free(req);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

/* As the daemon does at its end */
static void clean_up(void)
{
    g_autoptr(GPtrArray) nodes = NULL;
    g_autoptr(JsonArray) jobs = NULL;

    block_export_close_all();
    job_cancel_all_sync();
    bdrv_close_all();
    object_del_all();
    fdset_close_all();
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    nodes = bdrv_all_nodes();
    jobs = job_query();
    fuzz_assert(nodes->len == 0 && json_array_get_length(jobs) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *line = (const char *)data, *end = line + size;
    unsigned n = 0;

    if (!folder) {
        start();
    }
    fill_folder();
    while (line < end && n++ < MAX_LINES) {
        const char *stop = memchr(line, '\n', end - line);
        size_t length = (stop ? stop : end) - line;

        if (length <= MAX_LINE) {
            run_line(line, length);
        }
        line += length + 1;
    }
    clean_up();
    empty_folder();
    return 0;
}

/* ---- lines that are made --------------------------------------------------- */

static void make_value(GString *out, const SchemaType *type, uint64_t *state,
                       int depth);

static void make_members(GString *out, const SchemaType *type, const char *tag,
                         uint64_t *state, int depth)
{
    const SchemaMember *m;

    for (m = type->members; m && m->name; m++) {
        bool is_tag =
            type->discriminator && g_str_equal(type->discriminator, m->name);

        if (m->optional && !is_tag &&
            (depth == 0 || fuzz_random(state, 4) > 0)) {
            continue;
        }
        g_string_append_printf(
            out, "%s\"%s\":", out->str[out->len - 1] == '{' ? "" : ",",
            m->name);
        if (is_tag) {
            g_string_append_printf(out, "\"%s\"", tag);
        } else {
            make_value(out, m->type, state, depth - 1);
        }
    }
}

static void make_object(GString *out, const SchemaType *type, uint64_t *state,
                        int depth)
{
    const SchemaType *branch = NULL;
    const char *tag = "";
    size_t n = 0;

    while (type->branch && type->branch(n, &tag, &branch)) {
        n++;
    }
    if (n > 0) {
        type->branch(fuzz_random(state, n), &tag, &branch);
    }
    g_string_append_c(out, '{');
    make_members(out, type, tag, state, depth);
    if (n > 0 && branch) {
        make_members(out, branch, "", state, depth);
    }
    g_string_append_c(out, '}');
}

static void make_value(GString *out, const SchemaType *type, uint64_t *state,
                       int depth)
{
    static const char *const numbers[] = {
        "0",  "1", "512",     "4096",       "65536",
        "-1", "3", "1048576", "2147483648", "9223372036854775807"
    };
    unsigned n;

    switch (type->kind) {
    case SCHEMA_STR:
    case SCHEMA_ANY:
        g_string_append_printf(out, "\"%s\"",
                               names[fuzz_random(state, G_N_ELEMENTS(names))]);
        break;
    case SCHEMA_BOOL:
        g_string_append(out, fuzz_random(state, 2) ? "true" : "false");
        break;
    case SCHEMA_ENUM:
        n = g_strv_length((char **)type->values);
        g_string_append_printf(out, "\"%s\"",
                               type->values[fuzz_random(state, n)]);
        break;
    case SCHEMA_OBJECT:
        make_object(out, type, state, MAX(depth, 0));
        break;
    case SCHEMA_ARRAY:
        g_string_append_c(out, '[');
        for (n = depth <= 0 ? 0 : fuzz_random(state, 3); n > 0; n--) {
            make_value(out, type->element, state, depth - 1);
            g_string_append(out, n > 1 ? "," : "");
        }
        g_string_append_c(out, ']');
        break;
    case SCHEMA_ALTERNATE:
        for (n = 0; type->alternatives[n]; n++) {
        }
        /* What comes first is a name mostly, and ends it. */
        make_value(out,
                   type->alternatives[depth <= 0 ? 0 : fuzz_random(state, n)],
                   state, depth - 1);
        break;
    case SCHEMA_NULL:
        g_string_append(out, "null");
        break;
    default:
        g_string_append(out,
                        numbers[fuzz_random(state, G_N_ELEMENTS(numbers))]);
        break;
    }
}

static const QmpCommand *pick_command(uint64_t *state)
{
    const QmpCommand *const *table, *cmd;
    const QmpCommand *picked = NULL;
    unsigned n = 0;

    for (table = qmp_command_tables; *table; table++) {
        for (cmd = *table; cmd->name; cmd++) {
            if (fuzz_random(state, ++n) == 0) {
                picked = cmd;
            }
        }
    }
    return picked;
}

static GString *make_line(uint64_t *state)
{
    const QmpCommand *cmd = pick_command(state);
    GString *out = g_string_new("{\"execute\":\"");

    g_string_append_printf(out, "%s\",\"arguments\":", cmd->name);
    if (cmd->example && fuzz_random(state, 3) == 0) {
        g_string_append(out, cmd->example);
    } else {
        make_value(out, cmd->args ? cmd->args : &schema_empty, state,
                   1 + fuzz_random(state, MAX_DEPTH));
    }
    g_string_append(out, "}\n");
    return out;
}

/* The beginning of a line, and how long it is */
static size_t pick_line(const uint8_t *data, size_t size, uint64_t *state,
                        size_t *length)
{
    size_t at = fuzz_random(state, size + 1), end;

    while (at > 0 && data[at - 1] != '\n') {
        at--;
    }
    for (end = at; end < size && data[end] != '\n'; end++) {
    }
    *length = end + (end < size) - at;
    return at;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                               unsigned seed)
{
    uint64_t state = seed;
    g_autoptr(GString) line = NULL;
    g_autofree uint8_t *copy = NULL;
    size_t at, length, other, ignored;

    at = pick_line(data, size, &state, &length);
    switch (fuzz_random(&state, 8)) {
    case 0:
        return fuzz_remove(data, size, at, length);
    case 1:
        copy = g_memdup2(data + at, length);
        other = pick_line(data, size, &state, &ignored);
        return copy ? fuzz_insert(data, size, max_size, other, copy, length)
                    : size;
    case 2:
    case 3:
        return LLVMFuzzerMutate(data, size, max_size);
    default:
        line = make_line(&state);
        return fuzz_insert(data, size, max_size, at + length,
                           (uint8_t *)line->str, line->len);
    }
}
