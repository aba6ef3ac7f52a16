/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

Disk disk;

/* ---- nodes -------------------------------------------------------------- */

static JsonNode *parse(const char *json)
{
    g_autofree char *text = g_strdelimit(g_strdup(json), "'", '"');
    JsonNode *node = json_from_string(text, NULL);

    if (!node) {
        g_error("bad JSON: %s", text);
    }
    return node;
}

static JsonNode *parse_options(const char *json)
{
    g_autoptr(GError) err = NULL;
    JsonNode *node = parse(json);

    if (!schema_check(&blockdev_options_type, node, "", false, &err)) {
        g_error("%s: %s", json, err->message);
    }
    return node;
}

BlockDriverState *node_new(const char *json, GError **errp)
{
    g_autoptr(JsonNode) node = parse_options(json);
    BlockDriverState *bs;

    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(node), errp);
    bdrv_graph_unlock();
    return bs;
}

bool node_del(const char *name, GError **errp)
{
    bool ok;

    bdrv_graph_lock();
    ok = bdrv_monitor_del(name, errp);
    bdrv_graph_unlock();
    return ok;
}

static BlockBackend *attach(uint64_t perm, uint64_t shared, GError **errp)
{
    BlockBackend *blk = blk_new("user", false, perm, shared);

    bdrv_graph_lock();
    if (!blk_attach(blk, disk.bs, errp)) {
        blk_free(blk);
        blk = NULL;
    }
    bdrv_graph_unlock();
    return blk;
}

static void detach(BlockBackend *blk)
{
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
}

bool disk_try_open(GError **errp)
{
    uint64_t perm = BLK_PERM_CONSISTENT_READ;

    disk.bs = node_new(disk.options, errp);
    if (!disk.bs) {
        return false;
    }
    if (!disk.read_only) {
        perm |= BLK_PERM_WRITE | (disk.fixed ? 0 : BLK_PERM_RESIZE);
    }
    disk.blk = attach(perm, BLK_PERM_ALL, errp);
    if (!disk.blk) {
        REQUIRE(node_del("d", NULL));
        disk.bs = NULL;
        return false;
    }
    return true;
}

/* Whoever is in a gate is waited for: nobody shall be. */
static void check_nobody_inside(void)
{
    bdrv_graph_lock();
    REQUIRE(bdrv_try_drained_begin(disk.bs, g_get_monotonic_time()));
    bdrv_drained_end(disk.bs);
    bdrv_graph_unlock();
}

void disk_try_close(void)
{
    GError *err = NULL;

    detach(disk.blk);
    disk.blk = NULL;
    if (!node_del("d", &err)) {
        run_fail("cannot be closed: %s", err->message);
    }
    disk.bs = NULL;
}

void disk_open(void)
{
    GError *err;
    bool ok;

    do {
        err = NULL;
        op_begin("open %s", disk.options);
        ok = disk_try_open(&err);
    } while (!op_end_bool(ok, err));
    disk_check();
}

/* What fails here has no one to be told. */
void disk_close(void)
{
    check_nobody_inside();
    op_begin("close");
    disk_try_close();
    op_stop();
}

void disk_open_anew(void)
{
    GError *err = NULL;

    disk_try_close();
    if (!disk_try_open(&err)) {
        run_fail("cannot be opened anew: %s", err->message);
    }
}

/* ---- looking from outside ----------------------------------------------- */

static void check_file(void)
{
    static uint8_t data[MAX_LENGTH];
    int fd = open(disk.path, O_RDONLY | O_CLOEXEC);

    memset(data, 0, MAX_LENGTH);
    /* Beyond its end there are zeroes: a resize that failed may have been made. */
    REQUIRE(pread(fd, data, MAX_LENGTH, 0) >= 0);
    model_check(disk.model, data, "the file");
    close(fd);
}

static void check_reads(void)
{
    static uint8_t data[MAX_LENGTH];
    int ret;

    memset(data, 0xff, disk.model->length);
    ret = blk_pread(disk.blk, 0, disk.model->length, data, 0);
    if (ret < 0) {
        run_fail("cannot be read: %s", strerrorname_np(-ret));
    }
    model_check(disk.model, data, "the disk");
}

static void check_zero(int64_t offset, int64_t bytes, const char *who)
{
    if (!model_is_zero(disk.model, offset, bytes)) {
        run_fail("%s calls %jd bytes at %jd zero: they hold data", who,
                 (intmax_t)bytes, (intmax_t)offset);
    }
}

static void check_cache(void)
{
    g_autoptr(StatusCache) cache = bdrv_get_status_cache(disk.bs);
    int64_t offset = 0, end = disk.model->length, n;

    for (; cache && offset < end; offset += n) {
        if (status_cache_peek(cache, offset, end - offset, &n) ==
            BLOCK_STATE_ZERO) {
            check_zero(offset, MIN(n, end - offset), "the status cache");
        }
    }
}

void disk_check(void)
{
    int64_t length = blk_getlength(disk.blk);

    if (length != disk.model->length) {
        run_fail("the disk has %jd bytes, not %jd", (intmax_t)length,
                 (intmax_t)disk.model->length);
    }
    if (disk.raw) {
        check_file();
    }
    check_reads();
    check_cache();
}

/* Nobody knows what is lost: no flush succeeds, nothing is zero. */
static void check_flush_failed(void)
{
    g_autoptr(StatusCache) cache = bdrv_get_status_cache(disk.bs);
    StatusCacheStats stats;

    REQUIRE(blk_flush(disk.blk) < 0);
    if (cache) {
        status_cache_get_stats(cache, &stats);
        REQUIRE(stats.bytes_zero == 0);
    }
}

/* Of a file, what was written is in the page cache, whatever fails then. */
static void lose(void)
{
    if (!disk.raw) {
        model_lose(disk.model);
    }
}

/* After an operation: the disk is only looked at where something happened. */
static bool done(int ret)
{
    bool ok = op_end(ret);

    if (op_was_hit()) {
        disk_check();
    }
    if (!ok && op_hit_sync()) {
        check_flush_failed();
        lose();
        disk_open_anew();
        disk_check();
    }
    return ok;
}

/* ---- requests ----------------------------------------------------------- */

void disk_read(int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *data = g_malloc(bytes);
    int ret;

    do {
        memset(data, 0xff, bytes);
        op_begin("read %jd bytes at %jd", (intmax_t)bytes, (intmax_t)offset);
        ret = blk_pread(disk.blk, offset, bytes, data, 0);
    } while (!done(ret));
    model_check_part(disk.model, offset, bytes, data, "the reader");
}

/* The disk may have grown, and need not have grown to where it should: but not
 * beyond what there is. */
static void grow_in_part(int64_t from, int64_t to)
{
    int64_t length = blk_getlength(disk.blk);
    struct stat st;

    REQUIRE(from <= length && length <= to);
    REQUIRE(stat(disk.path, &st) == 0);
    REQUIRE(length == from || !disk.raw || length <= st.st_size);
    disk.model->length = length;
}

/* What makes the disk longer: new bytes are what they may be, or zero. */
static int64_t begin_change(int64_t offset, int64_t bytes, int value)
{
    int64_t before = disk.model->length;

    if (offset + bytes > before) {
        model_resize(disk.model, offset + bytes);
    }
    model_may(disk.model, offset, bytes, value);
    return before;
}

static bool end_change(int64_t before, int64_t offset, int64_t bytes, int value,
                       int ret)
{
    if (ret < 0) {
        grow_in_part(before, MAX(before, offset + bytes));
    } else {
        model_set(disk.model, offset, bytes, value);
    }
    return done(ret);
}

/* Beyond the end, as an image's format would: users themselves may not. */
static int write_beyond(int64_t offset, int64_t bytes, void *buf, int flags)
{
    struct iovec iov = { buf, bytes };
    int ret = blk_enter(disk.blk);

    if (ret == 0) {
        ret = buf ? bdrv_pwritev(disk.bs, offset, bytes, &iov, 1, flags)
                  : bdrv_pwrite_zeroes(disk.bs, offset, bytes, flags);
        blk_leave(disk.blk);
    }
    return ret;
}

void disk_write(int64_t offset, int64_t bytes, int value, int flags)
{
    g_autofree char *buf = g_malloc(bytes);
    int64_t before;
    int ret;

    memset(buf, value, bytes);
    do {
        before = begin_change(offset, bytes, value);
        op_begin("write %jd bytes at %jd, flags %#x", (intmax_t)bytes,
                 (intmax_t)offset, flags);
        ret = offset + bytes > before
                  ? write_beyond(offset, bytes, buf, flags)
                  : blk_pwrite(disk.blk, offset, bytes, buf, flags);
    } while (!end_change(before, offset, bytes, value, ret));
}

/* The zero-write with BDRV_REQ_NO_FALLBACK may not be had. */
static bool is_slow(int ret, int *flags)
{
    if (ret != -ENOTSUP || !(*flags & BDRV_REQ_NO_FALLBACK)) {
        return false;
    }
    op_stop();
    disk_check();
    *flags &= ~BDRV_REQ_NO_FALLBACK;
    return true;
}

void disk_zero(int64_t offset, int64_t bytes, int flags)
{
    int64_t before;
    int ret;

    do {
        before = begin_change(offset, bytes, 0);
        op_begin("zero %jd bytes at %jd, flags %#x", (intmax_t)bytes,
                 (intmax_t)offset, flags);
        ret = offset + bytes > before
                  ? write_beyond(offset, bytes, NULL, flags)
                  : blk_pwrite_zeroes(disk.blk, offset, bytes, flags);
    } while (is_slow(ret, &flags) ||
             !end_change(before, offset, bytes, 0, ret));
}

/* It may do nothing. */
void disk_discard(int64_t offset, int64_t bytes)
{
    int ret;

    do {
        model_may(disk.model, offset, bytes, 0);
        op_begin("discard %jd bytes at %jd", (intmax_t)bytes, (intmax_t)offset);
        ret = blk_pdiscard(disk.blk, offset, bytes);
    } while (!done(ret));
    disk_check();
}

void disk_flush(void)
{
    int ret;

    do {
        op_begin("flush");
        ret = blk_flush(disk.blk);
    } while (!done(ret));
    model_flushed(disk.model);
}

/* ---- status and size ---------------------------------------------------- */

static int ask_all(unsigned want)
{
    int64_t offset = 0, n = 0;
    int ret = 0;

    for (; offset < disk.model->length; offset += n) {
        ret = blk_block_status(disk.blk, offset, disk.model->length - offset,
                               want, &n);
        if (ret < 0) {
            return ret;
        }
        REQUIRE(n > 0);
        if (ret & BDRV_BLOCK_ZERO) {
            check_zero(offset, n, "block status");
        }
    }
    return 0;
}

void disk_status(unsigned want)
{
    int ret;

    do {
        op_begin("block status");
        ret = ask_all(want);
    } while (!done(ret));
}

static int resize(int64_t length, GError **errp)
{
    int ret;

    bdrv_graph_lock();
    ret = bdrv_resize(disk.bs, length, errp);
    bdrv_graph_unlock();
    return ret;
}

/* Opened anew, the disk has the one length or the other. */
static void adopt_length(int64_t old, int64_t length)
{
    int64_t now = blk_getlength(disk.blk);

    REQUIRE(now == old || now == length);
    model_resize(disk.model, now);
    disk_check();
}

void disk_resize(int64_t length)
{
    int64_t old = disk.model->length;
    GError *err;
    bool ok;
    int ret;

    do {
        err = NULL;
        op_begin("resize to %jd", (intmax_t)length);
        ret = resize(length, &err);
        ok = op_end_bool(ret == 0, err);
        if (!ok && length < old) {
            /* What was to be cut off may be gone. */
            model_may(disk.model, length, old - length, 0);
        }
        if (!ok) {
            disk_check();
        }
        if (!ok && op_hit_sync()) {
            lose();
            disk_open_anew();
            adopt_length(old, length);
        }
    } while (!ok);
    model_resize(disk.model, length);
    disk_check();
}

/* ---- other options, other users ----------------------------------------- */

static bool reopen(const char *options, GError **errp)
{
    JsonArray *array = json_array_new();
    bool ok;

    json_array_add_element(array, parse_options(options));
    bdrv_graph_lock();
    ok = bdrv_reopen(array, errp);
    bdrv_graph_unlock();
    json_array_unref(array);
    return ok;
}

void disk_reopen(const char *options)
{
    GError *err;
    bool ok;

    do {
        err = NULL;
        op_begin("reopen with %s", options);
        ok = reopen(options, &err);
        ok = op_end_bool(ok, err);
        if (op_was_hit()) {
            disk_check();
        }
        if (!ok && op_hit_sync()) {
            lose();
            disk_open_anew();
            disk_check();
        }
    } while (!ok);
    disk_use(options, disk.raw);
}

void disk_share(uint64_t perm, uint64_t shared)
{
    BlockBackend *blk;
    GError *err;

    do {
        err = NULL;
        op_begin("another user takes %#jx", (uintmax_t)perm);
        blk = attach(perm, shared, &err);
    } while (!op_end_bool(blk != NULL, err));
    op_begin("the other user goes");
    detach(blk);
    op_stop();
    disk_check();
}

void disk_finish(void)
{
    disk_check();
    disk_close();
    disk_drop();
}
