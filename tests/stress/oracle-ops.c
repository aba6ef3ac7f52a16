/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of status-oracle: which, where, how large, and what they have done.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "oracle.h"
#include "util/error.h"

#define HOT_BYTES (64 * KIB)
#define MAX_SMALL (16 * KIB)
#define MAX_IOV 3
/* requests that may be longer */
#define LONG_ONE_IN 32
#define LONG_READS_ONE_IN 8
#define LONG_ZEROES_ONE_IN 4
#define STRANGER_WRITES 8

/* Of 1000 operations; what is left is reads. */
static const int weights[OP_KINDS] = {
    [OP_KIND_WRITE] = 200,  [OP_KIND_WRITE_ZEROES] = 25,
    [OP_KIND_ZERO] = 130,   [OP_KIND_DISCARD] = 55,
    [OP_KIND_STATUS] = 190, [OP_KIND_PROBE] = 70,
    [OP_KIND_MAP] = 5,      [OP_KIND_FLUSH] = 2,
    [OP_KIND_FORGET] = 50,  [OP_KIND_FORGET_ALL] = 1,
    [OP_KIND_LIMIT] = 2,    [OP_KIND_RESIZE] = 2,
    [OP_KIND_GROW] = 4,     [OP_KIND_STRANGER] = 6,
    [OP_KIND_PEEK] = 60,    [OP_KIND_WRITEBACK] = 15,
    [OP_KIND_RECLAIM] = 40, [OP_KIND_SYNC] = 1,
};

typedef struct Range {
    int64_t offset, bytes;
} Range;

/* ---- where -------------------------------------------------------------- */

static int64_t pick_align(Random *rand)
{
    int64_t n = random_below(rand, 100);

    return n < 45 ? 4096 : n < 70 ? 512 : n < 94 ? UNIT : 1;
}

/* Somewhere on the disk, or no bytes if that has just become too short */
static Range pick_range(Worker *w, int long_one_in)
{
    Random *rand = &w->rand;
    int64_t length = blk_getlength(w->o->blk);
    int64_t align = pick_align(rand);
    int64_t max = random_one_in(rand, long_one_in) ? MAX_REQUEST : MAX_SMALL;
    Range r;

    /* small ones are as many as large ones */
    max >>= random_below(rand, 6);
    max = MAX(max, align);
    r.bytes = align * (1 + random_below(rand, max / align));
    if (random_below(rand, 5) < 3) {
        r.offset = w->o->hot + random_below(rand, HOT_BYTES);
    } else {
        r.offset = random_below(rand, length);
    }
    r.offset = MIN(r.offset - r.offset % align, length);
    r.bytes = MIN(r.bytes, length - r.offset);
    return r;
}

/* ---- what came of it ---------------------------------------------------- */

static void attempt_begin(Worker *w)
{
    faults_begin(&w->rand, w->o->settings->threads > 1);
}

/* May @ret be? What lies beyond the end is refused, if there was a resize. */
static Outcome attempt_end(Worker *w, OpKind kind, Range r, int ret,
                           bool may_refuse)
{
    bool on_purpose = faults_end();
    bool resized =
        w->resizes % 2 ||
        w->resizes != __atomic_load_n(&w->o->resizes, __ATOMIC_SEQ_CST);

    w->counts.ops[kind]++;
    if (ret >= 0) {
        return OUTCOME_DONE;
    }
    if (on_purpose) {
        w->counts.failed_on_purpose++;
        return OUTCOME_MAYBE;
    }
    if (may_refuse && ret == -ENOTSUP) {
        return OUTCOME_NOTHING;
    }
    if (ret != -EIO || !resized) {
        oracle_fail(w, r.offset, "%s [%jd, %jd) has failed: %s",
                    op_kind_names[kind], (intmax_t)r.offset,
                    (intmax_t)(r.offset + r.bytes), g_strerror(-ret));
    }
    return OUTCOME_MAYBE;
}

/* ---- requests that change the disk -------------------------------------- */

/* Up to MAX_IOV pieces, cut anywhere */
static int make_iov(Worker *w, char *buf, int64_t bytes, struct iovec *iov)
{
    int n = random_one_in(&w->rand, 4) ? MAX_IOV : 1, i;
    int64_t left = bytes;

    for (i = 0; i < n && left > 0; i++) {
        int64_t piece = i == n - 1 ? left : 1 + random_below(&w->rand, left);

        if (random_one_in(&w->rand, 2) && i < n - 1 && left > 4096) {
            piece = left / 2 - left / 2 % 4096;
        }
        iov[i] = (struct iovec){ buf, piece };
        buf += piece;
        left -= piece;
    }
    return i;
}

static void do_write(Worker *w, OpKind kind)
{
    Oracle *o = w->o;
    Range r = pick_range(w, LONG_ONE_IN);
    bool zeroes = kind == OP_KIND_WRITE_ZEROES;
    Value value = zeroes ? VALUE_ZERO : shadow_new_value(o->shadow);
    int flags = random_one_in(&w->rand, 400) ? BDRV_REQ_FUA : 0;
    /* memory is not always aligned */
    char *buf = w->buf + (random_one_in(&w->rand, 8) ? 64 : 0);
    struct iovec iov[MAX_IOV];
    int ret, niov;

    if (r.bytes == 0) {
        return;
    }
    w->written = r.offset;
    w->written_bytes = r.bytes;
    shadow_fill(o->shadow, value, r.offset, r.bytes, buf);
    niov = make_iov(w, buf, r.bytes, iov);
    shadow_begin(o->shadow, w->number, kind, zeroes ? EFFECT_ZERO : EFFECT_DATA,
                 r.offset, r.bytes, value);
    attempt_begin(w);
    if (niov > 1 || flags ||
        !oracle_submit(w, true, r.offset, buf, r.bytes, &ret)) {
        ret = blk_pwritev(o->blk, r.offset, r.bytes, iov, niov, flags);
    }
    shadow_end(o->shadow, w->number, attempt_end(w, kind, r, ret, false), ret);
}

/*
 * Before Linux 6.15 a buffered write to a device may bring back the rest of its
 * page, which is zeroed meanwhile (host-device.c).
 */
static Effect zero_effect(const Combination *c)
{
    struct utsname name;
    int major = 0, minor = 0;

    if (c->place->device && !c->direct && uname(&name) == 0 &&
        sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
        (major < 6 || (major == 6 && minor < 15))) {
        return EFFECT_MAY_ZERO;
    }
    return EFFECT_ZERO;
}

static void do_zero(Worker *w)
{
    static const int flags[] = {
        0,
        0,
        BDRV_REQ_MAY_UNMAP,
        BDRV_REQ_MAY_UNMAP,
        BDRV_REQ_NO_FALLBACK,
        BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK,
    };
    int f = flags[random_below(&w->rand, G_N_ELEMENTS(flags))];
    Range r = pick_range(w, LONG_ZEROES_ONE_IN);
    int ret;

    if (r.bytes == 0) {
        return;
    }
    shadow_begin(w->o->shadow, w->number, OP_KIND_ZERO, zero_effect(w->o->c),
                 r.offset, r.bytes, VALUE_ZERO);
    attempt_begin(w);
    ret = blk_pwrite_zeroes(w->o->blk, r.offset, r.bytes, f);
    shadow_end(w->o->shadow, w->number,
               attempt_end(w, OP_KIND_ZERO, r, ret, f & BDRV_REQ_NO_FALLBACK),
               ret);
}

static void do_discard(Worker *w)
{
    Oracle *o = w->o;
    int64_t align = MAX(MAX(o->bs->limits.request_alignment, 1),
                        o->bs->limits.pdiscard_alignment);
    Range r = pick_range(w, LONG_ZEROES_ONE_IN), inner = r;
    bool device = o->c->place->device;
    Outcome outcome;
    int ret;

    /* of what is not aligned, nothing happens to the edges */
    inner.offset += (align - r.offset % align) % align;
    inner.bytes = MAX((r.offset + r.bytes) / align * align - inner.offset, 0);
    shadow_begin(o->shadow, w->number, OP_KIND_DISCARD,
                 device ? EFFECT_MAY_ZERO : EFFECT_ZERO, inner.offset,
                 inner.bytes, VALUE_ZERO);
    attempt_begin(w);
    ret = blk_pdiscard(o->blk, r.offset, r.bytes);
    outcome = attempt_end(w, OP_KIND_DISCARD, r, ret, false);
    if (faults_end()) {
        outcome = OUTCOME_MAYBE; /* what is not supported, is no error */
    }
    shadow_end(o->shadow, w->number, outcome, ret);
}

/* Beyond the end: requests of who may resize, such as formats above the node */
static void do_grow(Worker *w)
{
    Oracle *o = w->o;
    int64_t length = blk_getlength(o->blk);
    int64_t max = shadow_length(o->shadow);
    Range r = pick_range(w, LONG_ONE_IN);
    Value value = shadow_new_value(o->shadow);
    struct iovec iov = { w->buf, 0 };
    int ret;

    r.offset = length - length % UNIT + UNIT * random_below(&w->rand, 64);
    r.bytes = MIN(MAX(r.bytes, 1), MIN(max - r.offset, MAX_SMALL));
    if (o->c->place->device || r.bytes <= 0) {
        return;
    }
    iov.iov_len = r.bytes;
    shadow_fill(o->shadow, value, r.offset, r.bytes, w->buf);
    shadow_begin(o->shadow, w->number, OP_KIND_GROW, EFFECT_DATA, r.offset,
                 r.bytes, value);
    attempt_begin(w);
    ret = blk_enter(o->blk);
    if (ret == 0) {
        ret = bdrv_pwritev(o->bs, r.offset, r.bytes, &iov, 1, 0);
        blk_leave(o->blk);
    }
    shadow_end(o->shadow, w->number,
               attempt_end(w, OP_KIND_GROW, r, ret, false), ret);
}

static void do_resize(Worker *w)
{
    Oracle *o = w->o;
    int64_t max = shadow_length(o->shadow);
    int64_t align = pick_align(&w->rand);
    int64_t length = max / 2 + random_below(&w->rand, max / 2);
    g_autoptr(GError) err = NULL;
    int ret;

    if (o->c->place->device) {
        return; /* in pauses */
    }
    length -= length % align;
    w->counts.ops[OP_KIND_RESIZE]++;
    /* who makes a disk, does so with the graph's mutex: one at a time */
    bdrv_graph_lock();
    shadow_begin(o->shadow, w->number, OP_KIND_RESIZE, EFFECT_ZERO, length,
                 max - length, VALUE_ZERO);
    __atomic_add_fetch(&o->resizes, 1, __ATOMIC_SEQ_CST);
    ret = bdrv_resize(o->bs, length, &err);
    __atomic_add_fetch(&o->resizes, 1, __ATOMIC_SEQ_CST);
    shadow_end(o->shadow, w->number, OUTCOME_DONE, ret);
    bdrv_graph_unlock();
    if (ret < 0) {
        oracle_fail(w, length, "resize to %jd has failed: %s", (intmax_t)length,
                    err->message);
    }
}

/* One write past the node; nobody keeps him from writing beyond the end. */
static void write_as_stranger(Worker *w)
{
    Oracle *o = w->o;
    Range r = pick_range(w, LONG_ONE_IN);
    Value value = shadow_new_value(o->shadow);
    ssize_t n;

    shadow_fill(o->shadow, value, r.offset, r.bytes, w->buf);
    if (blk_enter(o->blk) < 0) {
        return;
    }
    r.bytes = MIN(r.bytes, bdrv_getlength(o->bs) - r.offset);
    if (r.bytes > 0) {
        shadow_begin(o->shadow, w->number, OP_KIND_STRANGER, EFFECT_DATA,
                     r.offset, r.bytes, value);
        n = pwrite(o->side, w->buf, r.bytes, r.offset);
        shadow_end(o->shadow, w->number,
                   n == r.bytes ? OUTCOME_DONE : OUTCOME_MAYBE, n);
        w->counts.ops[OP_KIND_STRANGER]++;
    }
    blk_leave(o->blk);
}

/*
 * Somebody else writes, as may be while the cache remembers no zeroes. With
 * O_DIRECT requests of the node rewrite what they do not fill, so nobody else may
 * write there.
 */
static void do_stranger(Worker *w)
{
    Oracle *o = w->o;
    int writes = 1 + random_below(&w->rand, STRANGER_WRITES);
    bool off = random_one_in(&w->rand, 4);

    if (o->c->direct) {
        return;
    }
    mutex_lock(&o->stranger_lock);
    if (o->strangers++ == 0) {
        status_cache_set_mode(o->cache,
                              off ? STATUS_CACHE_OFF : STATUS_CACHE_DATA_ONLY);
    }
    mutex_unlock(&o->stranger_lock);
    while (writes-- > 0) {
        write_as_stranger(w);
        if (o->settings->threads > 1) {
            sched_yield();
        }
    }
    mutex_lock(&o->stranger_lock);
    if (--o->strangers == 0) {
        status_cache_set_mode(o->cache, STATUS_CACHE_ON);
    }
    mutex_unlock(&o->stranger_lock);
}

/* ---- requests that ask -------------------------------------------------- */

static void do_read(Worker *w)
{
    Range r = pick_range(w, LONG_READS_ONE_IN);
    int ret;

    if (r.bytes == 0) {
        return;
    }
    attempt_begin(w);
    ret =
        oracle_read(w, r.offset, r.bytes, random_one_in(&w->rand, 8) ? 64 : 0);
    attempt_end(w, OP_KIND_READ, r, ret, false);
}

static void do_status(Worker *w)
{
    static const unsigned wants[] = {
        BDRV_WANT_PRECISE,
        BDRV_WANT_PRECISE,
        BDRV_WANT_PRECISE,
        BDRV_WANT_ZERO,
        BDRV_WANT_PRECISE | BDRV_WANT_KNOWN,
        BDRV_WANT_READ,
    };
    Oracle *o = w->o;
    unsigned want = wants[random_below(&w->rand, G_N_ELEMENTS(wants))];
    Range r = pick_range(w, LONG_ONE_IN);
    uint32_t since;
    int64_t pnum;
    int ret;

    if (random_one_in(&w->rand, 4)) {
        r.bytes = blk_getlength(o->blk) - r.offset; /* all that is left */
    }
    if (r.bytes <= 0) {
        return;
    }
    since = shadow_now(o->shadow);
    attempt_begin(w);
    ret = blk_block_status(o->blk, r.offset, r.bytes, want, &pnum);
    attempt_end(w, OP_KIND_STATUS, r, ret, false);
    if (ret >= 0 && pnum > 0) {
        oracle_claim(w, OP_KIND_STATUS, since, r.offset, pnum,
                     ret & BDRV_BLOCK_ZERO);
    }
}

/* Have the file system asked, what is known or not. */
static void do_probe(Worker *w)
{
    Oracle *o = w->o;
    Range r = pick_range(w, LONG_ONE_IN);
    uint32_t since;
    int64_t pnum;
    int ret;

    if (r.bytes == 0) {
        return;
    }
    attempt_begin(w);
    since = shadow_now(o->shadow);
    ret = blk_enter(o->blk);
    if (ret == 0) {
        status_cache_forget(o->cache, r.offset, r.bytes);
        ret = status_query(o->cache, o->probe, r.offset, r.bytes, &pnum, NULL);
        blk_leave(o->blk);
    }
    attempt_end(w, OP_KIND_PROBE, r, ret, false);
    if (ret >= 0) {
        oracle_claim(w, OP_KIND_PROBE, since, r.offset, pnum,
                     ret == BLOCK_STATE_ZERO);
    }
}

static void do_peek(Worker *w)
{
    Oracle *o = w->o;
    Range r = pick_range(w, LONG_ONE_IN);
    uint32_t since = shadow_now(o->shadow);
    BlockState state;
    int64_t pnum;

    if (r.bytes == 0) {
        return;
    }
    w->counts.ops[OP_KIND_PEEK]++;
    state = status_cache_peek(o->cache, r.offset, r.bytes, &pnum);
    if (state != BLOCK_STATE_UNKNOWN) {
        oracle_claim(w, OP_KIND_PEEK, since, r.offset, pnum,
                     state == BLOCK_STATE_ZERO);
    }
}

static void do_flush(Worker *w)
{
    attempt_begin(w);
    attempt_end(w, OP_KIND_FLUSH, (Range){ 0, 0 }, blk_flush(w->o->blk), false);
}

/* ---- what makes it harder ----------------------------------------------- */

static void do_forget(Worker *w, OpKind kind)
{
    static const int limits[] = { 1, 900, 1600, 2400, 4000 };
    Oracle *o = w->o;
    Range r = pick_range(w, LONG_ONE_IN);

    w->counts.ops[kind]++;
    if (kind == OP_KIND_FORGET) {
        status_cache_forget(o->cache, r.offset, r.bytes);
    } else if (kind == OP_KIND_FORGET_ALL) {
        status_cache_flush(o->cache);
    } else {
        status_cache_set_max_memory(
            o->cache,
            random_one_in(&w->rand, 2)
                ? 0
                : limits[random_below(&w->rand, G_N_ELEMENTS(limits))]);
    }
    shadow_note(o->shadow, w->number, kind, shadow_now(o->shadow), r.offset,
                r.bytes, 0);
}

/* Pages are written back, and dropped. */
static void do_pages(Worker *w, OpKind kind)
{
    Oracle *o = w->o;
    Range r = pick_range(w, LONG_ONE_IN);
    uint32_t since = shadow_now(o->shadow);

    if (random_one_in(&w->rand, 2)) {
        r = (Range){ w->written, w->written_bytes };
    }
    w->counts.ops[kind]++;
    if (kind == OP_KIND_SYNC) {
        if (fdatasync(o->side_buffered) < 0) {
            oracle_fail(w, 0, "fdatasync has failed: %s", g_strerror(errno));
        }
        r = (Range){ 0, shadow_length(o->shadow) };
    } else {
        sync_file_range(o->side_buffered, r.offset, r.bytes,
                        SYNC_FILE_RANGE_WRITE);
    }
    if (kind == OP_KIND_RECLAIM) {
        sync_file_range(o->side_buffered, r.offset, r.bytes,
                        SYNC_FILE_RANGE_WAIT_BEFORE);
        posix_fadvise(o->side_buffered, r.offset, r.bytes, POSIX_FADV_DONTNEED);
    }
    shadow_note(o->shadow, w->number, kind, since, r.offset, r.bytes, 0);
}

/* ---- one after the other ------------------------------------------------ */

static OpKind pick_kind(Random *rand)
{
    int n = random_below(rand, 1000);
    int kind;

    for (kind = 0; kind < OP_KINDS; kind++) {
        n -= weights[kind];
        if (n < 0) {
            return kind;
        }
    }
    return OP_KIND_READ;
}

/* As the times are */
static OpKind change_kind(Worker *w, OpKind kind)
{
    if (w->o->mood == MOOD_ZEROES && kind == OP_KIND_WRITE &&
        random_one_in(&w->rand, 2)) {
        return OP_KIND_ZERO;
    }
    if (w->o->mood == MOOD_DATA &&
        (kind == OP_KIND_ZERO || kind == OP_KIND_DISCARD) &&
        !random_one_in(&w->rand, 32)) {
        return OP_KIND_WRITE;
    }
    return kind;
}

void oracle_step(Worker *w)
{
    OpKind kind = pick_kind(&w->rand);

    w->resizes = __atomic_load_n(&w->o->resizes, __ATOMIC_SEQ_CST);
    kind = change_kind(w, kind);
    switch (kind) {
    case OP_KIND_WRITE:
    case OP_KIND_WRITE_ZEROES:
        do_write(w, kind);
        break;
    case OP_KIND_ZERO:
        do_zero(w);
        break;
    case OP_KIND_DISCARD:
        do_discard(w);
        break;
    case OP_KIND_READ:
        do_read(w);
        break;
    case OP_KIND_STATUS:
        do_status(w);
        break;
    case OP_KIND_PROBE:
        do_probe(w);
        break;
    case OP_KIND_MAP:
        w->counts.ops[kind]++;
        oracle_map(w, pick_range(w, LONG_ONE_IN).offset,
                   1 + random_below(&w->rand, 16), !random_one_in(&w->rand, 4));
        break;
    case OP_KIND_FLUSH:
        do_flush(w);
        break;
    case OP_KIND_FORGET:
    case OP_KIND_FORGET_ALL:
    case OP_KIND_LIMIT:
        do_forget(w, kind);
        break;
    case OP_KIND_RESIZE:
        do_resize(w);
        break;
    case OP_KIND_GROW:
        do_grow(w);
        break;
    case OP_KIND_STRANGER:
        do_stranger(w);
        break;
    case OP_KIND_PEEK:
        do_peek(w);
        break;
    default:
        do_pages(w, kind);
        break;
    }
}
