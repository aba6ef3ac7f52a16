/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes dirty bitmaps in qcow2 images: those of images that somebody has tampered
 * with are loaded, used, stored and loaded again. qcow2-input.h has the form of inputs;
 * more steps than qcow2-session.h has are commands about bitmaps.
 *
 * Besides what qcow2-session.h says it must be true that an image in which the check finds
 * no corruption has, opened again, the same bitmaps.
 */
#include "block/dirty-bitmap.h"
#include "mem-file.h"
#include "monitor/qmp.h"
#include "qcow2-session.h"
#include "util/json-text.h"

static const char *const bases[] = {
    "bitmap",          "bitmaps", "bitmap-ones", "bitmaps-1k",
    "bitmap-snapshot", "plain",   "version-2",   NULL,
};

static const char *const names[] = { "one",   "two",
                                     "three", "a-name-that-is-longer",
                                     "four",  "five" };

enum {
    STEP_ADD = SESSION_STEPS + 1,
    STEP_REMOVE,
    STEP_CLEAR,
    STEP_ENABLE,
    STEP_DISABLE,
    STEP_MERGE,
    ALL_STEPS
};

/* ---- commands -------------------------------------------------------------- */

static bool run_command(const char *command, const char *arguments)
{
    g_autoptr(JsonNode) args =
        json_text_parse(arguments, strlen(arguments), NULL);
    const QmpCommand *const *table, *cmd;
    g_autoptr(JsonNode) result = NULL;
    g_autoptr(GError) err = NULL;

    for (table = qmp_command_tables; *table; table++) {
        for (cmd = *table; cmd->name; cmd++) {
            if (g_str_equal(cmd->name, command)) {
                fuzz_assert(schema_check(cmd->args, args, "", false, &err),
                            "%s", err->message);
                bdrv_graph_lock();
                result = cmd->handler(json_node_get_object(args), &err);
                bdrv_graph_unlock();
                return !err;
            }
        }
    }
    g_assert_not_reached();
}

static void run_step(const Qcow2Step *step)
{
    const char *name = names[step->where % G_N_ELEMENTS(names)];
    const char *other = names[step->length % G_N_ELEMENTS(names)];
    static const char *const commands[] = {
        "block-dirty-bitmap-remove",
        "block-dirty-bitmap-clear",
        "block-dirty-bitmap-enable",
        "block-dirty-bitmap-disable",
    };
    g_autofree char *args = NULL;

    if (g_getenv("FUZZ_VERBOSE")) {
        g_printerr("step %d: bitmaps '%s', '%s'\n", step->what - STEP_ADD, name,
                   other);
    }
    switch (step->what) {
    case STEP_ADD:
        args = g_strdup_printf("{\"node\":\"q\",\"name\":\"%s\","
                               "\"granularity\":%d,\"persistent\":%s,"
                               "\"disabled\":%s}",
                               name, 512 << step->length % 10,
                               step->how & 1 ? "false" : "true",
                               step->how & 2 ? "true" : "false");
        run_command("block-dirty-bitmap-add", args);
        break;
    case STEP_MERGE:
        args = g_strdup_printf("{\"node\":\"q\",\"target\":\"%s\","
                               "\"bitmaps\":[\"%s\"]}",
                               name, other);
        run_command("block-dirty-bitmap-merge", args);
        break;
    default:
        args = g_strdup_printf("{\"node\":\"q\",\"name\":\"%s\"}", name);
        run_command(commands[step->what - STEP_REMOVE], args);
        break;
    }
}

/* ---- what they are --------------------------------------------------------- */

static void describe(GString *out, BdrvDirtyBitmap *bitmap, int64_t length)
{
    int64_t offset = 0, bytes;

    g_string_append_printf(
        out, "%s, %u, %s, %s:", bdrv_dirty_bitmap_name(bitmap),
        bdrv_dirty_bitmap_granularity(bitmap),
        bdrv_dirty_bitmap_enabled(bitmap) ? "on" : "off",
        bdrv_dirty_bitmap_inconsistent(bitmap) ? "bad" : "good");
    while (!bdrv_dirty_bitmap_inconsistent(bitmap) &&
           bdrv_dirty_bitmap_next_area(bitmap, offset, length, INT64_MAX,
                                       &offset, &bytes)) {
        g_string_append_printf(out, " %" G_GINT64_FORMAT "+%" G_GINT64_FORMAT,
                               offset, bytes);
        offset += bytes;
    }
    g_string_append_c(out, '\n');
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(bdrv_dirty_bitmap_name(*(BdrvDirtyBitmap *const *)a),
                  bdrv_dirty_bitmap_name(*(BdrvDirtyBitmap *const *)b));
}

/* All that are in the image, or are to be */
static GString *describe_all(const Session *s)
{
    g_autoptr(GPtrArray) bitmaps = NULL;
    GString *out = g_string_new(NULL);
    guint i;

    bdrv_graph_lock();
    bitmaps = bdrv_named_dirty_bitmaps(s->bs);
    g_ptr_array_sort(bitmaps, compare_names);
    for (i = 0; i < bitmaps->len; i++) {
        if (bdrv_dirty_bitmap_persistent(bitmaps->pdata[i])) {
            describe(out, bitmaps->pdata[i], s->length);
        }
    }
    bdrv_graph_unlock();
    return out;
}

/* What a read-only node was given is not stored, as in QEMU. */
static void open_again(Session *s, bool read_only)
{
    g_autoptr(GString) before = describe_all(s), after = NULL;
    bool stored = !s->read_only;

    if (session_open_again(s, read_only) && stored && s->trusted &&
        !mem_file_failed()) {
        after = describe_all(s);
        fuzz_assert(g_string_equal(before, after), "\n%sthen\n%s", before->str,
                    after->str);
    }
}

/* ---------------------------------------------------------------------------- */

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                               unsigned seed)
{
    return qcow2_input_mutate(bases, ALL_STEPS, data, size, max_size, seed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Session session;
    Qcow2Input input;
    unsigned i;

    fuzz_quiet();
    qcow2_input_parse(&input, bases, data, size);
    if (session_start(&session, &input)) {
        for (i = 0; session.bs && i < input.n_steps; i++) {
            Qcow2Step *step = &input.steps[i];

            step->what %= ALL_STEPS;
            if (step->what >= STEP_ADD) {
                run_step(step);
            } else if (step->what == STEP_OPEN_AGAIN) {
                open_again(&session, session.read_only);
            } else {
                session_step(&session, step);
            }
        }
        if (session.bs) {
            open_again(&session, true);
        }
        session_end(&session);
    }
    qcow2_input_clear(&input);
    return 0;
}
