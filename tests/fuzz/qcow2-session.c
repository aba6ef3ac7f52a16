/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qcow2-session.h"

#include <errno.h>

#include "block/qcow2.h"
#include "mem-file.h"
#include "monitor/qmp.h"
#include "util/json-text.h"

#define NODE "q"
#define MAX_BYTES (16 * 1024) /* of one request */

/* ---- the node -------------------------------------------------------------- */

static JsonNode *make_options(const Session *s)
{
    g_autofree char *text = g_strdup_printf(
        "{\"driver\":\"qcow2\",\"node-name\":\"" NODE "\",\"file\":"
        "\"" MEM_FILE_NODE "\",\"backing\":null,\"read-only\":%s,"
        "\"discard\":\"%s\"}",
        s->read_only ? "true" : "false", s->unmap ? "unmap" : "ignore");

    return json_text_parse(text, strlen(text), NULL);
}

static uint64_t permissions(const Session *s)
{
    return BLK_PERM_CONSISTENT_READ | (s->read_only ? 0 : BLK_PERM_WRITE);
}

static bool open_node(Session *s)
{
    g_autoptr(JsonNode) options = make_options(s);

    bdrv_graph_lock();
    s->bs = bdrv_open(json_node_get_object(options), NULL);
    if (s->bs) {
        s->blk = blk_new("fuzzer", false, permissions(s), BLK_PERM_ALL);
        fuzz_assert(blk_attach(s->blk, s->bs, NULL));
        s->length = bdrv_getlength(s->bs);
    }
    bdrv_graph_unlock();
    return s->bs != NULL;
}

static void close_node(Session *s)
{
    bdrv_graph_lock();
    g_clear_pointer(&s->blk, blk_free);
    fuzz_assert(bdrv_monitor_del(NODE, NULL));
    bdrv_graph_unlock();
    s->bs = NULL;
}

/* How far the disk is compared */
static int64_t window(const Session *s)
{
    return MIN(s->length, SESSION_WINDOW);
}

/* ---- what must be ---------------------------------------------------------- */

static bool is_zero(const uint8_t *buf, int64_t bytes)
{
    return bytes == 0 || (buf[0] == 0 && memcmp(buf, buf + 1, bytes - 1) == 0);
}

static void forget(Session *s, int64_t offset, int64_t bytes)
{
    if (offset < SESSION_WINDOW) {
        memset(s->known + offset, 0, MIN(bytes, SESSION_WINDOW - offset));
    }
}

/* @buf: NULL: zeroes */
static void learn(Session *s, int64_t offset, int64_t bytes, const uint8_t *buf)
{
    bytes = MIN(bytes, SESSION_WINDOW - offset);
    if (bytes > 0 && buf) {
        memcpy(s->data + offset, buf, bytes);
    } else if (bytes > 0) {
        memset(s->data + offset, 0, bytes);
    }
    if (bytes > 0) {
        memset(s->known + offset, 1, bytes);
    }
}

/* A read that fails: nothing is known there, or something is wrong */
static void compare_bytes(const Session *s, int64_t offset, int64_t bytes,
                          int ret, const uint8_t *buf)
{
    int64_t i;

    for (i = 0; i < bytes && offset + i < SESSION_WINDOW; i++) {
        fuzz_assert(!s->known[offset + i] ||
                        (ret == 0 && s->data[offset + i] == buf[i]),
                    "read of %d at %d: %d; at %d %#x is %#x", (int)bytes,
                    (int)offset, ret, (int)(offset + i), s->data[offset + i],
                    ret == 0 ? buf[i] : 0);
    }
}

static void compare(Session *s, int64_t offset, int64_t bytes)
{
    static uint8_t all_known[MAX_BYTES];
    uint8_t buf[MAX_BYTES];
    int64_t done, n;
    int ret = blk_pread(s->blk, offset, bytes, buf, 0);

    if (!all_known[0]) {
        memset(all_known, 1, sizeof(all_known));
    }
    /* Byte by byte is slow. */
    if (!s->trusted || (ret == 0 && offset + bytes <= SESSION_WINDOW &&
                        !memcmp(s->known + offset, all_known, bytes) &&
                        !memcmp(s->data + offset, buf, bytes))) {
        return;
    }
    if (ret == 0) {
        compare_bytes(s, offset, bytes, ret, buf);
        return;
    }
    /* One cluster that cannot be read fails all. */
    for (done = 0; done < bytes; done += n) {
        n = MIN(512 - (offset + done) % 512, bytes - done);
        ret = blk_pread(s->blk, offset + done, n, buf, 0);
        compare_bytes(s, offset + done, n, ret, buf);
    }
}

static void compare_all(Session *s)
{
    int64_t offset;

    for (offset = 0; offset < window(s); offset += MAX_BYTES) {
        compare(s, offset, MIN(MAX_BYTES, window(s) - offset));
    }
}

/* What the disk holds now, where that can be read, is what it is to hold. */
static void learn_all(Session *s)
{
    uint8_t buf[512];
    int64_t offset;

    memset(s->known, 0, sizeof(s->known));
    for (offset = 0; offset < window(s); offset += sizeof(buf)) {
        int64_t n = MIN((int64_t)sizeof(buf), window(s) - offset);

        if (blk_pread(s->blk, offset, n, buf, 0) == 0) {
            learn(s, offset, n, buf);
        }
    }
}

/* Of @bytes at @offset, and what is called zero is read. */
static void check_status(Session *s, int64_t offset, int64_t bytes)
{
    uint8_t buf[MAX_BYTES];
    int64_t end = offset + bytes;
    unsigned rounds = 256;

    while (offset < end && rounds-- > 0) {
        int64_t pnum, n, done;
        int ret = blk_block_status(s->blk, offset, end - offset,
                                   BDRV_WANT_PRECISE, &pnum);

        if (ret < 0) {
            return;
        }
        fuzz_assert(pnum > 0 && pnum <= end - offset);
        n = ret & BDRV_BLOCK_ZERO ? MIN(pnum, SESSION_WINDOW) : 0;
        for (done = 0; done < n; done += MAX_BYTES) {
            int64_t part = MIN(MAX_BYTES, n - done);

            fuzz_assert(blk_pread(s->blk, offset + done, part, buf, 0) == 0 &&
                            is_zero(buf, part),
                        "zero by status at %" G_GINT64_FORMAT, offset + done);
        }
        offset += pnum;
    }
}

/* ---- the check ------------------------------------------------------------- */

static void on_line(void *opaque, const char *line)
{
    g_printerr("check: %s\n", line);
}

static int run_check(BlockDriverState *bs, BdrvCheckResult *r, unsigned fix)
{
    int ret;

    /* For who looks at one input */
    *r = (BdrvCheckResult){ .report =
                                g_getenv("FUZZ_VERBOSE") ? on_line : NULL };
    bdrv_graph_lock();
    bdrv_drained_begin(bs);
    ret = bs->drv->check(bs, r, fix, NULL);
    bdrv_drained_end(bs);
    bdrv_graph_unlock();
    return ret;
}

static bool finds_nothing(const BdrvCheckResult *r)
{
    return !r->corruptions && !r->check_errors && !r->leaks;
}

/* Nothing is changed. */
static void check(Session *s)
{
    BdrvCheckResult r;
    int ret = run_check(s->bs, &r, 0);

    if (s->trusted &&
        !((ret < 0 || r.check_errors) && mem_file_failed() && !r.corruptions)) {
        fuzz_assert(ret == 0 && !r.corruptions && !r.check_errors,
                    "%d, %d corruptions, %d errors", ret, (int)r.corruptions,
                    (int)r.check_errors);
        fuzz_assert(!s->leak_free || mem_file_failed() || !r.leaks, "%d leaks",
                    (int)r.leaks);
    }
}

/* The check looks at clusters of the file; leaked ones beyond its end show when it
 * is longer. */
static bool is_free_beyond(Session *s)
{
    Qcow2State *state = s->bs->opaque;
    int64_t length = bdrv_child_getlength(s->bs->file);
    uint64_t cluster =
        qcow2_cluster_index(state, qcow2_round_up(state, length));
    uint64_t end = (MEM_FILE_MAX >> state->cluster_bits) + 1;
    uint64_t refcount = 0;
    MUTEX_GUARD(&state->lock);

    for (; refcount == 0 && cluster < end; cluster++) {
        if (qcow2_get_refcount(state, cluster, &refcount) < 0) {
            return false;
        }
    }
    return refcount == 0;
}

typedef struct Entries {
    bool
        tail; /* beyond the end of the disk: they show if it gets longer, in QEMU,
                   too */
    bool table; /* of data, that lead to tables */
    bool loose; /* some that are not marked as the only ones to lead there */
} Entries;

static bool is_table(const Qcow2State *state, uint64_t offset)
{
    uint32_t i;

    for (i = 0; i < state->l1_entries; i++) {
        if ((state->l1[i] & QCOW2_OFFSET_MASK) == offset) {
            return true;
        }
    }
    for (i = 0; i < state->reftable_entries; i++) {
        if (state->reftable[i] == offset) {
            return true;
        }
    }
    return offset < (uint64_t)state->cluster_size ||
           (offset >= state->l1_offset &&
            offset < state->l1_offset + state->l1_entries * 8) ||
           (offset >= state->reftable_offset &&
            offset < state->reftable_offset + state->reftable_entries * 8) ||
           (state->n_snapshots && offset >= state->snapshots_offset &&
            offset < state->snapshots_offset + state->snapshots_bytes);
}

static void look_at(Entries *e, const Session *s, int64_t guest, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    e->table |= offset && !(entry & QCOW2_COMPRESSED) &&
                is_table(s->bs->opaque, offset);
    e->tail |= guest >= s->length && entry;
    e->loose |= (entry & QCOW2_OFFSET_MASK) &&
                !(entry & (QCOW2_COPIED | QCOW2_COMPRESSED));
}

/* In L1 and L2 tables */
static Entries look_at_entries(Session *s)
{
    Qcow2State *state = s->bs->opaque;
    g_autofree uint64_t *l2 = g_malloc(state->cluster_size);
    Entries e = { 0 };
    int64_t guest;
    uint32_t i, j;
    MUTEX_GUARD(&state->lock);

    for (i = 0; i < state->l1_entries; i++) {
        uint64_t at = state->l1[i] & QCOW2_OFFSET_MASK;

        guest = (int64_t)i << (state->l2_bits + state->cluster_bits);
        if (at && qcow2_read_file(state, at, state->cluster_size, l2) < 0) {
            e.tail = e.loose = true;
            return e;
        }
        e.loose |= at && !(state->l1[i] & QCOW2_COPIED);
        for (j = 0; at && j < state->cluster_size / sizeof(*l2); j++) {
            look_at(&e, s, guest + j * state->cluster_size,
                    GUINT64_FROM_BE(l2[j]));
        }
    }
    return e;
}

/*
 * Do two places of the disk have one cluster? With a refcount of 2 that is no
 * corruption, but becomes one when one of them is written to: nobody looks for the other,
 * which is not marked as the only one.
 */
static bool shares_clusters(Session *s)
{
    struct {
        int64_t start, end;
    } extents[256];
    int64_t offset = 0, pnum, map;
    unsigned n = 0, i;

    while (offset < s->length) {
        int depth,
            ret = blk_block_status_map(s->blk, offset, s->length - offset,
                                       BDRV_WANT_PRECISE, &pnum, &map, &depth);

        if (ret < 0 || n == G_N_ELEMENTS(extents)) {
            return true;
        }
        if (ret & BDRV_BLOCK_OFFSET_VALID) {
            extents[n].start = map;
            extents[n].end = map + pnum;
            for (i = 0; i < n; i++) {
                if (extents[i].start < extents[n].end &&
                    extents[n].start < extents[i].end) {
                    return true;
                }
            }
            n++;
        }
        offset += pnum;
    }
    return false;
}

static bool is_only(Qcow2State *state, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + bytes, refcount;

    for (; offset < end; offset += state->cluster_size) {
        if (qcow2_get_refcount(state, qcow2_cluster_index(state, offset),
                               &refcount) < 0 ||
            refcount != 1) {
            return false;
        }
    }
    return true;
}

/*
 * Is what is overwritten where it is nothing else, too? With a refcount of 2 that is no
 * corruption, but becomes one if, say, a snapshot has the L1 table as an L2 table.
 * Refcount blocks are looked at by the check.
 */
static bool shares_tables(Session *s)
{
    Qcow2State *state = s->bs->opaque;
    MUTEX_GUARD(&state->lock);

    return !is_only(state, 0, state->cluster_size) ||
           !is_only(state, state->l1_offset, state->l1_entries * 8) ||
           !is_only(state, state->reftable_offset,
                    state->reftable_entries * 8) ||
           !is_only(state, state->bitmaps_offset, state->bitmaps_bytes);
}

/* If nothing is wrong with the image, it is to behave from now on. */
static void trust(Session *s)
{
    BdrvCheckResult r;
    int ret = run_check(s->bs, &r, 0);

    s->trusted = ret == 0 && !r.corruptions && !r.check_errors &&
                 !qcow2_is_corrupt(s->bs->opaque) && !shares_clusters(s) &&
                 !shares_tables(s);
    s->leak_free = s->trusted && !r.leaks && is_free_beyond(s);
    if (s->trusted) {
        Entries e = look_at_entries(s);

        s->has_tail = e.tail;
        /* Without snapshots two such entries lead to one place, or one to a
         * table: see above. */
        s->trusted =
            !e.table &&
            (!e.loose || ((Qcow2State *)s->bs->opaque)->n_snapshots > 0);
    }
    if (s->trusted) {
        learn_all(s);
    }
}

/* By who has opened it for that, or while it is used */
static void mend(BlockDriverState *bs, unsigned fix)
{
    BdrvCheckResult r;

    if (run_check(bs, &r, fix) == 0 && finds_nothing(&r)) {
        fuzz_assert(run_check(bs, &r, 0) == 0 && finds_nothing(&r),
                    "after a repair: %d corruptions, %d errors, %d leaks",
                    (int)r.corruptions, (int)r.check_errors, (int)r.leaks);
    }
}

/* While an image is used the check goes by what is in memory, of L1 tables; so who
 * trusts it opens it again. */
static void step_mend(Session *s, const Qcow2Step *step)
{
    mend(s->bs,
         step->how & 1 ? BDRV_FIX_LEAKS : BDRV_FIX_LEAKS | BDRV_FIX_ERRORS);
    if (s->trusted) {
        compare_all(s);
        check(s);
    } else if (session_open_again(s, s->read_only)) {
        trust(s);
    }
}

/* As seekless-img check does */
static void mend_first(Session *s)
{
    g_autoptr(JsonNode) options = make_options(s);
    BlockDriverState *bs;

    bdrv_graph_lock();
    bs = bdrv_open_to_check(json_node_get_object(options), NULL);
    bdrv_graph_unlock();
    if (bs) {
        mend(bs, BDRV_FIX_LEAKS | BDRV_FIX_ERRORS);
        bdrv_graph_lock();
        fuzz_assert(bdrv_monitor_del(NODE, NULL));
        bdrv_graph_unlock();
    }
}

/* ---- requests -------------------------------------------------------------- */

/* Most of them are where it is compared. */
static int64_t offset_of(const Session *s, const Qcow2Step *step)
{
    int64_t cluster = ((Qcow2State *)s->bs->opaque)->cluster_size;
    int64_t offset = step->where < 240 ? window(s) * step->where / 240
                                       : s->length / 16 * (step->where - 240);

    switch (step->how & 3) {
    case 0:
    case 1:
        return offset - offset % cluster;
    case 2:
        return offset - offset % 512;
    default:
        return offset;
    }
}

static int64_t bytes_of(const Session *s, const Qcow2Step *step, int64_t offset)
{
    int64_t bytes =
        step->how & 4 ? (step->length + 1) * 37 : (step->length % 32 + 1) * 512;

    return MIN(MIN(bytes, MAX_BYTES), s->length - offset);
}

static void step_write(Session *s, const Qcow2Step *step)
{
    uint8_t buf[MAX_BYTES], seen[MAX_BYTES];
    int64_t offset = offset_of(s, step);
    int64_t bytes = bytes_of(s, step, offset), i;
    bool mixed = step->what == STEP_WRITE_MIXED;
    int ret;

    s->stamp += s->stamp == 255 ? 2 : 1;
    for (i = 0; i < bytes; i++) {
        buf[i] = mixed ? s->stamp + i * 7 : s->stamp;
    }
    ret = blk_pwrite(s->blk, offset, bytes, buf,
                     step->how & 8 ? BDRV_REQ_FUA : 0);
    if (ret < 0) {
        forget(s, offset, bytes);
        return;
    }
    learn(s, offset, bytes, buf);
    /* What is in use may count as free in an image that is damaged. */
    if (s->trusted) {
        fuzz_assert(blk_pread(s->blk, offset, bytes, seen, 0) == 0 &&
                    memcmp(buf, seen, bytes) == 0);
    }
}

static void step_zero(Session *s, const Qcow2Step *step)
{
    int64_t offset = offset_of(s, step);
    int64_t bytes = bytes_of(s, step, offset);
    uint8_t seen[MAX_BYTES];

    if (blk_pwrite_zeroes(s->blk, offset, bytes,
                          step->how & 8 ? BDRV_REQ_MAY_UNMAP : 0) < 0) {
        forget(s, offset, bytes);
        return;
    }
    learn(s, offset, bytes, NULL);
    fuzz_assert(!s->trusted ||
                (blk_pread(s->blk, offset, bytes, seen, 0) == 0 &&
                 is_zero(seen, bytes)));
}

/* Whole clusters become zero, or stay what they were. */
static void step_discard(Session *s, const Qcow2Step *step)
{
    int64_t offset = offset_of(s, step);
    int64_t bytes = bytes_of(s, step, offset), i;
    uint8_t buf[MAX_BYTES];
    int ret = blk_pdiscard(s->blk, offset, bytes);

    if (blk_pread(s->blk, offset, bytes, buf, 0) < 0) {
        fuzz_assert(!s->trusted || ret < 0 ||
                    memchr(s->known, 0, SESSION_WINDOW));
        forget(s, offset, bytes);
        return;
    }
    for (i = 0; s->trusted && i < bytes && offset + i < SESSION_WINDOW; i++) {
        fuzz_assert(!s->known[offset + i] || buf[i] == 0 ||
                    buf[i] == s->data[offset + i]);
    }
    learn(s, offset, bytes, buf);
}

static void step_compress(Session *s, const Qcow2Step *step)
{
    int64_t cluster = ((Qcow2State *)s->bs->opaque)->cluster_size;
    int64_t offset = offset_of(s, step) / cluster * cluster;
    int64_t bytes = MIN(cluster, s->length - offset), i;
    uint8_t buf[MAX_BYTES];

    if (bytes > MAX_BYTES) {
        return;
    }
    s->stamp++;
    for (i = 0; i < bytes; i++) {
        buf[i] = step->how & 8 ? i * i * s->stamp >> 3 : s->stamp;
    }
    if (blk_pwrite(s->blk, offset, bytes, buf, BDRV_REQ_WRITE_COMPRESSED) ==
        0) {
        learn(s, offset, bytes, buf);
        compare(s, offset, bytes);
    } else {
        /* Either it is there or nothing has changed. */
        forget(s, offset, bytes);
    }
}

static void step_read(Session *s, const Qcow2Step *step)
{
    int64_t offset = offset_of(s, step);

    compare(s, offset, bytes_of(s, step, offset));
}

static void step_status(Session *s, const Qcow2Step *step)
{
    int64_t offset = offset_of(s, step);

    check_status(s, offset,
                 step->how & 8 ? s->length - offset
                               : bytes_of(s, step, offset));
}

static void step_resize(Session *s, const Qcow2Step *step)
{
    int64_t length =
        step->how & 8 ? s->length + step->length * 512 : step->where * 512;
    int64_t old = s->length;
    int ret;

    if (length < 0 || length > BDRV_MAX_LENGTH) {
        return;
    }
    bdrv_graph_lock();
    ret = bdrv_resize(s->bs, length, NULL);
    s->length = bdrv_getlength(s->bs);
    bdrv_graph_unlock();
    fuzz_assert(s->length == (ret == 0 ? length : old));
    /* What the header may refer to by now is not given back. */
    s->leak_free &= ret == 0;
    if (length < old) {
        /* What is cut off is given up first, and lost if something fails then. */
        forget(s, length, SESSION_WINDOW);
    } else if (ret == 0) {
        /* What is new reads as zeroes. */
        learn(s, old, length - old, NULL);
        if (s->has_tail) {
            forget(s, old, length - old);
        }
    }
}

/* A toggle */
static void step_reopen(Session *s)
{
    g_autoptr(JsonNode) options = NULL;
    g_autoptr(JsonArray) list = json_array_new();
    bool was = s->read_only;

    bdrv_graph_lock();
    /* who writes is in the way */
    s->read_only = true;
    fuzz_assert(blk_set_perm(s->blk, permissions(s), BLK_PERM_ALL, NULL));
    s->read_only = !was;
    options = make_options(s);
    json_array_add_object_element(list, json_node_dup_object(options));
    if (!bdrv_reopen(list, NULL)) {
        s->read_only = was;
    }
    if (!blk_set_perm(s->blk, permissions(s), BLK_PERM_ALL, NULL)) {
        fuzz_assert(!s->read_only);
    }
    bdrv_graph_unlock();
    compare_all(s);
}

/* What the header names may be anything, as it is not opened. */
static void step_backing(Session *s, const Qcow2Step *step)
{
    g_autofree char *name = g_strnfill(step->length * 4, 'n');
    int ret = 0;

    bdrv_graph_lock();
    bdrv_drained_begin(s->bs);
    if (!s->read_only) {
        ret = s->bs->drv->change_backing(s->bs, step->how & 1 ? name : "",
                                         step->how & 2 ? "raw" : NULL, NULL);
    }
    bdrv_drained_end(s->bs);
    bdrv_graph_unlock();
    fuzz_assert(ret <= 0);
}

static void describe(Session *s)
{
    g_autoptr(JsonNode) node = qmp_node_from_object(json_object_new());
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(JsonNode) again = NULL;

    s->bs->drv->get_info(s->bs, json_node_get_object(node));
    json_text_append(text, node, false);
    again = json_text_parse(text->str, text->len, NULL);
    fuzz_assert(again && json_node_equal(node, again), "%s", text->str);
}

void session_step(Session *s, const Qcow2Step *step)
{
    if (g_getenv("FUZZ_VERBOSE")) {
        g_printerr("step %d %d %d %#x\n", step->what, step->where, step->length,
                   step->how);
    }
    switch (step->what) {
    case STEP_WRITE:
    case STEP_WRITE_MIXED:
        step_write(s, step);
        break;
    case STEP_ZERO:
        step_zero(s, step);
        break;
    case STEP_DISCARD:
        step_discard(s, step);
        break;
    case STEP_READ:
        step_read(s, step);
        break;
    case STEP_STATUS:
        step_status(s, step);
        break;
    case STEP_FLUSH:
        blk_flush(s->blk);
        break;
    case STEP_CHECK:
        check(s);
        break;
    case STEP_MEND:
        step_mend(s, step);
        break;
    case STEP_RESIZE:
        step_resize(s, step);
        break;
    case STEP_COMPRESS:
        step_compress(s, step);
        break;
    case STEP_OPEN_AGAIN:
        session_open_again(s, s->read_only);
        break;
    case STEP_FAIL:
        mem_file_fail(step->length % 16 + 1);
        break;
    case STEP_REOPEN:
        step_reopen(s);
        break;
    case STEP_BACKING:
        step_backing(s, step);
        break;
    default:
        describe(s);
        break;
    }
}

/* ---- from the first to the last -------------------------------------------- */

bool session_start(Session *s, const Qcow2Input *input)
{
    *s = (Session){
        .read_only = input->flags & SESSION_READ_ONLY,
        .unmap = !(input->flags & SESSION_NO_UNMAP),
    };
    bdrv_graph_lock();
    mem_file_open(input->image->data, input->image->len);
    bdrv_graph_unlock();
    if (input->flags & SESSION_MEND_FIRST) {
        mend_first(s);
    }
    if (!open_node(s)) {
        bdrv_graph_lock();
        mem_file_close();
        bdrv_graph_unlock();
        return false;
    }
    trust(s);
    return true;
}

bool session_open_again(Session *s, bool read_only)
{
    bool settled;

    /* What fails then is not known to anybody. */
    settled = blk_flush(s->blk) == 0;
    mem_file_fail(0);
    close_node(s);
    s->read_only = read_only;
    if (!open_node(s)) {
        fuzz_assert(!s->trusted);
        return false;
    }
    if (!settled && s->trusted) {
        check(s);
        learn_all(s);
    }
    compare_all(s);
    return true;
}

void session_end(Session *s)
{
    if (s->bs && session_open_again(s, true)) {
        check(s);
        check_status(s, 0, window(s));
        close_node(s);
    }
    bdrv_graph_lock();
    mem_file_close();
    bdrv_graph_unlock();
}
