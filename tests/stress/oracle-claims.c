/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is said about the disk, compared with the truth: with the shadow, and with
 * what is read past the node.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "block/monitor/qmp-tables.h"
#include "monitor/qmp.h"
#include "oracle.h"

#define READ_BACK_ONE_IN 2
#define READ_BACK_MAX (32 * KIB)
#define SIDE_ALIGN 4096
#define MAP_ROWS 1000
#define LIMIT 1600

/* ---- claims ------------------------------------------------------------- */

/* Read a part of what is claimed to be zero, past the node. */
static void read_back(Worker *w, OpKind kind, uint32_t since, int64_t offset,
                      int64_t bytes)
{
    Oracle *o = w->o;
    int64_t start, end, checked, bad;
    ssize_t n;

    if (bytes > READ_BACK_MAX) {
        offset += random_below(&w->rand, bytes - READ_BACK_MAX);
        bytes = READ_BACK_MAX;
    }
    start = offset - offset % SIDE_ALIGN;
    end = offset + bytes;
    end += (SIDE_ALIGN - end % SIDE_ALIGN) % SIDE_ALIGN;
    n = pread(o->side, w->side, end - start, start);
    if (n < 0) {
        oracle_fail(w, offset, "reading past the node has failed: %s",
                    g_strerror(errno));
        return;
    }
    /* the disk may have become shorter */
    memset(w->side + n, 0, end - start - n);
    bad = shadow_claim_read(o->shadow, since, offset, bytes,
                            w->side + (offset - start), &checked);
    w->counts.read_backs++;
    w->counts.read_back_units += checked;
    if (bad >= 0) {
        oracle_fail(w, bad,
                    "FALSE ZERO: %s, asked since %" PRIu32
                    ", said that byte %" PRId64 " was zero, but it is %02x on "
                    "the disk, and nobody wrote there since",
                    op_kind_names[kind], since, bad,
                    (unsigned char)w->side[bad - start]);
    }
}

void oracle_claim(Worker *w, OpKind kind, uint32_t since, int64_t offset,
                  int64_t bytes, bool zero)
{
    Oracle *o = w->o;
    int64_t bad;

    bytes = MIN(bytes, shadow_length(o->shadow) - offset);
    shadow_note(o->shadow, w->number, kind, since, offset, bytes, zero);
    if (!zero) {
        w->counts.data_claims++;
        return;
    }
    bad = shadow_claim_zero(o->shadow, since, offset, bytes);
    w->counts.zero_claims++;
    w->counts.zero_units += bytes / UNIT;
    if (bad >= 0) {
        oracle_fail(w, bad,
                    "FALSE ZERO: %s, asked since %" PRIu32
                    ", said that byte %" PRId64
                    " was zero, but it was not, all the time",
                    op_kind_names[kind], since, bad);
    } else if (random_one_in(&w->rand, READ_BACK_ONE_IN)) {
        read_back(w, kind, since, offset, bytes);
    }
}

/* ---- maps --------------------------------------------------------------- */

static const QmpCommand *map_command(void)
{
    const QmpCommand *c = qmp_status_cache_commands;

    while (strcmp(c->name, "x-query-block-map")) {
        c++;
        g_assert(c->name);
    }
    return c;
}

int64_t oracle_map(Worker *w, int64_t offset, int limit, bool probe)
{
    Oracle *o = w->o;
    g_autoptr(JsonObject) args = json_object_new();
    g_autoptr(JsonNode) reply = NULL;
    g_autoptr(GError) err = NULL;
    uint32_t since = shadow_now(o->shadow);
    JsonArray *rows;
    JsonObject *map;
    guint i;

    json_object_set_string_member(args, "node-name", bdrv_node_name(o->bs));
    json_object_set_int_member(args, "offset", offset);
    json_object_set_int_member(args, "limit", limit);
    json_object_set_boolean_member(args, "probe", probe);
    faults_begin(&w->rand, o->settings->threads > 1);
    reply = map_command()->handler(args, &err);
    faults_end();
    if (!reply) {
        /* a resize may have come between */
        if (!strstr(err->message, "'offset'")) {
            oracle_fail(w, offset, "no map: %s", err->message);
        }
        return -1;
    }
    map = json_node_get_object(reply);
    rows = json_object_get_array_member(map, "entries");
    for (i = 0; i < json_array_get_length(rows); i++) {
        JsonObject *row = json_array_get_object_element(rows, i);

        oracle_claim(w, OP_KIND_MAP, since,
                     json_object_get_int_member(row, "start"),
                     json_object_get_int_member(row, "length"),
                     json_object_get_boolean_member(row, "zero"));
    }
    return json_object_has_member(map, "next-offset")
               ? json_object_get_int_member(map, "next-offset")
               : -1;
}

/* ---- reads -------------------------------------------------------------- */

int oracle_read(Worker *w, int64_t offset, int64_t bytes, size_t shift)
{
    Oracle *o = w->o;
    char *buf = w->buf + shift;
    struct iovec iov[2] = { { buf, bytes } };
    int64_t checked, bad;
    int ret;

    memset(buf, 0xee, bytes);
    shadow_read_begin(o->shadow, &w->read, offset, bytes);
    /* one buffer, or two that meet anywhere */
    iov[0].iov_len =
        random_one_in(&w->rand, 4) ? 1 + random_below(&w->rand, bytes) : bytes;
    iov[1] = (struct iovec){ buf + iov[0].iov_len, bytes - iov[0].iov_len };
    if (!oracle_submit(w, false, offset, buf, bytes, &ret)) {
        ret = blk_preadv(o->blk, offset, bytes, iov, iov[1].iov_len ? 2 : 1, 0);
    }
    if (ret < 0) {
        return ret;
    }
    bad = shadow_read_end(o->shadow, &w->read, buf, &checked);
    shadow_note(o->shadow, w->number, OP_KIND_READ, w->read.since, offset,
                bytes, 0);
    w->counts.node_reads++;
    w->counts.node_read_units += checked;
    if (bad >= 0) {
        oracle_fail(w, bad,
                    "WRONG DATA: a read of [%" PRId64 ", %" PRId64
                    ") since %" PRIu32 " has %02x at byte %" PRId64,
                    offset, offset + bytes, w->read.since,
                    (unsigned char)buf[bad - offset], bad);
    }
    return 0;
}

/* ---- pauses ------------------------------------------------------------- */

/* The whole disk as @fd reads it */
static bool read_all(Worker *w, int fd, char *buf, int64_t length)
{
    int64_t done = 0;

    while (done < length) {
        int64_t end = MIN(length, done + MAX_REQUEST);
        ssize_t n;

        end += (SIDE_ALIGN - end % SIDE_ALIGN) % SIDE_ALIGN;
        n = pread(fd, buf + done, end - done, done);
        if (n <= 0) {
            oracle_fail(w, done, "reading past the node has failed: %s",
                        n < 0 ? g_strerror(errno) : "it ends early");
            return false;
        }
        done += n;
    }
    return true;
}

static void compare_all(Worker *w, int fd, const char *how)
{
    Oracle *o = w->o;
    int64_t length = blk_getlength(o->blk);
    void *mem = NULL;
    int64_t bad;

    g_assert(posix_memalign(&mem, SIDE_ALIGN,
                            shadow_length(o->shadow) + SIDE_ALIGN) == 0);
    if (read_all(w, fd, mem, length)) {
        bad = shadow_settle(o->shadow, mem, length);
        if (bad >= 0) {
            oracle_fail(w, bad,
                        "WRONG DATA: byte %" PRId64
                        " is %02x, read %s while nothing was going on",
                        bad, bad < length ? ((unsigned char *)mem)[bad] : 0,
                        how);
        }
    }
    free(mem);
}

/* Where requests are of several blocks each, one that is partly data is data, and
 * of its other blocks nobody has been asked. */
static bool ask_inside(Worker *w, int64_t offset)
{
    Oracle *o = w->o;
    int64_t pnum;

    return o->bs->limits.request_alignment >
               status_cache_granularity(o->cache) &&
           status_query(o->cache, o->probe, offset, 1, &pnum, NULL) >= 0 &&
           status_cache_peek(o->cache, offset, 1, &pnum) != BLOCK_STATE_UNKNOWN;
}

/* Only what a cache takes that knows nothing may be more than the limit. */
static void check_limit(Worker *w)
{
    Oracle *o = w->o;
    StatusCacheStats s;

    status_cache_set_max_memory(o->cache, LIMIT);
    status_cache_get_stats(o->cache, &s);
    if (s.memory > MAX(LIMIT, o->least_memory)) {
        oracle_fail(w, 0,
                    "counters: the cache takes %" PRIu64
                    " bytes, but the limit is %d",
                    s.memory, LIMIT);
    }
}

/* Have all asked: then all must be known, but where nobody can be asked. */
static void ask_all(Worker *w)
{
    Oracle *o = w->o;
    int64_t length = blk_getlength(o->blk), offset = 0, pnum;
    BlockState state;

    check_limit(w);
    status_cache_set_max_memory(o->cache, 0);
    while (offset >= 0 && !oracle_stopped(o)) {
        w->counts.ops[OP_KIND_MAP]++;
        offset = oracle_map(w, offset, MAP_ROWS, true);
    }
    for (offset = 0; offset < length && !o->c->place->device; offset += pnum) {
        state = status_cache_peek(o->cache, offset, length - offset, &pnum);
        if (state == BLOCK_STATE_UNKNOWN && !ask_inside(w, offset)) {
            oracle_fail(w, offset,
                        "byte %" PRId64 " is unknown after all was asked",
                        offset);
            break;
        }
    }
}

void oracle_check_map(Worker *w)
{
    Oracle *o = w->o;
    int64_t length = blk_getlength(o->blk), offset, pnum;
    BlockState state;
    int64_t bad;

    for (offset = 0; offset < length; offset += pnum) {
        state = status_cache_peek(o->cache, offset, length - offset, &pnum);
        bad = -1;
        if (state == BLOCK_STATE_ZERO) {
            w->counts.zero_claims++;
            w->counts.zero_units += pnum / UNIT;
            bad = shadow_find_nonzero(o->shadow, offset, pnum);
        } else {
            w->counts.data_claims += state == BLOCK_STATE_DATA;
        }
        if (bad >= 0) {
            oracle_fail(w, bad,
                        "FALSE ZERO: the map says that byte %" PRId64
                        " is zero, while nothing is going on",
                        bad);
            break;
        }
    }
}

void oracle_pause(Worker *w, bool ask)
{
    Oracle *o = w->o;

    w->counts.pauses++;
    /* A write beyond the end that has failed leaves it longer (rule 5). */
    if (status_cache_length(o->cache) < blk_getlength(o->blk)) {
        oracle_fail(w, 0, "counters: the length of the map is too small");
    }
    compare_all(w, o->side, o->c->direct ? "with O_DIRECT" : "past the node");
    if (o->c->direct) {
        /* There are pages of the file's end, perhaps. */
        compare_all(w, o->side_buffered, "through the page cache");
    }
    oracle_check_map(w);
    if (ask && !oracle_stopped(o)) {
        ask_all(w);
        oracle_check_map(w);
    }
}

/* ---- counters ----------------------------------------------------------- */

static void check_equal(Worker *w, const char *what, uint64_t a, uint64_t b)
{
    if (a != b) {
        oracle_fail(w, 0, "counters: %s are %" PRIu64 " and %" PRIu64, what, a,
                    b);
    }
}

void oracle_check_counters(Worker *w, const Counts *all)
{
    Oracle *o = w->o;
    StatusCacheStats s;
    uint64_t probes = 0;
    BlockStats blk;
    int i;

    status_cache_get_stats(o->cache, &s);
    blk_get_stats(o->blk, &blk);
    for (i = 0; i < STATUS_CACHE_HISTOGRAM; i++) {
        probes += s.histogram[i];
    }
    check_equal(w, "look-ups, and hits and misses", s.lookups,
                s.hits + s.misses);
    check_equal(w, "probes, and those in the histogram", s.probes, probes);
    check_equal(w, "the length, and what is unknown, data and zero", s.length,
                s.bytes_unknown + s.bytes_data + s.bytes_zero);
    check_equal(w, "errors of probes, and none", s.probe_errors, 0);
    check_equal(w, "reads, and those that were made", blk.rd_operations,
                all->node_reads);
    if (s.memory > s.memory_max || s.max_extents > s.extents) {
        oracle_fail(w, 0, "counters: a maximum is too small");
    }
}
