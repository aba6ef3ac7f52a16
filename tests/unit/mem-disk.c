/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mem-disk.h"

#include <check.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>

#include "block/guest-use.h"
#include "util/iov.h"

#define MAX_IN_FLIGHT 64

typedef struct Range {
    int64_t start, end; /* empty: unused */
} Range;

struct MemDisk {
    int64_t length;
    void (*after_write)(void *opaque);
    Mutex lock;
    Cond changed;
    /* lock */
    uint8_t *data;
    bool *zero; /* blocks */
    bool hide_zeroes, no_zeroes;
    bool no_overlap;
    Range writes[MAX_IN_FLIGHT];
    int64_t count[MEM_REQUESTS], bytes[MEM_REQUESTS];
    int64_t fail_at[MEM_REQUESTS], hold_at[MEM_REQUESTS]; /* -1: none */
    int error[MEM_REQUESTS];
    int64_t broken_at[MEM_REQUESTS]; /* -1: everywhere */
    int broken[MEM_REQUESTS];        /* errno; 0: not broken */
    bool held, let_go;
    bool frozen[MEM_REQUESTS];
};

static int64_t new_length;

static int64_t blocks(const MemDisk *disk)
{
    return (disk->length + MEM_DISK_BLOCK - 1) / MEM_DISK_BLOCK;
}

static int mem_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    MemDisk *disk = bs->opaque;
    int i;

    disk->length = new_length;
    mutex_init(&disk->lock);
    cond_init(&disk->changed);
    disk->data = g_malloc0(MAX(disk->length, 1));
    disk->zero = g_new(bool, blocks(disk) + 1);
    memset(disk->zero, 1, blocks(disk) + 1);
    for (i = 0; i < MEM_REQUESTS; i++) {
        disk->fail_at[i] = disk->hold_at[i] = -1;
    }
    return 0;
}

static void mem_close(BlockDriverState *bs)
{
    MemDisk *disk = bs->opaque;

    g_free(disk->data);
    g_free(disk->zero);
    cond_destroy(&disk->changed);
    mutex_destroy(&disk->lock);
}

/* Counts a request; waits if it is to be held. Its error or 0 */
static int begin(MemDisk *disk, MemRequest kind, int64_t offset, int64_t bytes)
{
    int64_t n;

    MUTEX_GUARD(&disk->lock);
    n = disk->count[kind]++;
    disk->bytes[kind] += bytes;
    cond_broadcast(&disk->changed);
    while (disk->frozen[kind]) {
        cond_wait(&disk->changed, &disk->lock);
    }
    if (n == disk->hold_at[kind]) {
        disk->held = true;
        while (!disk->let_go) {
            cond_wait(&disk->changed, &disk->lock);
        }
        disk->held = disk->let_go = false;
    }
    if (n == disk->fail_at[kind]) {
        return -disk->error[kind];
    }
    if (disk->broken_at[kind] < 0 || (offset <= disk->broken_at[kind] &&
                                      disk->broken_at[kind] < offset + bytes)) {
        return -disk->broken[kind];
    }
    return 0;
}

/* Lock held */
static Range *enter(MemDisk *disk, int64_t start, int64_t end)
{
    Range *unused = NULL;
    int i;

    for (i = 0; i < MAX_IN_FLIGHT; i++) {
        Range *r = &disk->writes[i];

        if (r->start == r->end) {
            unused = r;
        } else if (disk->no_overlap && r->start < end && start < r->end) {
            g_error("writes of %" PRId64 "-%" PRId64 " and %" PRId64 "-%" PRId64
                    " at once",
                    start, end, r->start, r->end);
        }
    }
    g_assert(unused);
    *unused = (Range){ start, end };
    return unused;
}

static void set_zero_blocks(MemDisk *disk, int64_t start, int64_t end,
                            bool zero)
{
    int64_t first, last;

    if (zero) {
        first = (start + MEM_DISK_BLOCK - 1) / MEM_DISK_BLOCK;
        last = end == disk->length ? blocks(disk) : end / MEM_DISK_BLOCK;
    } else {
        first = start / MEM_DISK_BLOCK;
        last = (end + MEM_DISK_BLOCK - 1) / MEM_DISK_BLOCK;
    }
    for (; first < last; first++) {
        int64_t at = first * MEM_DISK_BLOCK;
        int64_t n = MIN(MEM_DISK_BLOCK, disk->length - at);

        /* Somebody else may have written there meanwhile. */
        disk->zero[first] =
            zero && disk->data[at] == 0 &&
            memcmp(disk->data + at, disk->data + at + 1, n - 1) == 0;
    }
}

/* A held read has its data already. */
static int mem_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      const struct iovec *iov, int niov, int flags)
{
    MemDisk *disk = bs->opaque;

    mutex_lock(&disk->lock);
    iov_from_buf(iov, niov, 0, disk->data + offset, bytes);
    mutex_unlock(&disk->lock);
    return begin(disk, MEM_READ, offset, bytes);
}

/* In two steps, so that readers may see a half. NULL @iov: zeroes */
static int change(MemDisk *disk, MemRequest kind, int64_t offset, int64_t bytes,
                  const struct iovec *iov, int niov)
{
    int64_t half = bytes / 2;
    Range *range;
    int ret;

    mutex_lock(&disk->lock);
    range = enter(disk, offset, offset + bytes);
    set_zero_blocks(disk, offset, offset + bytes, false);
    mutex_unlock(&disk->lock);
    ret = begin(disk, kind, offset, bytes);
    mutex_lock(&disk->lock);
    if (ret == 0 && iov) {
        iov_to_buf(iov, niov, 0, disk->data + offset, half);
        set_zero_blocks(disk, offset, offset + half, false);
    } else if (ret == 0) {
        memset(disk->data + offset, 0, half);
    }
    mutex_unlock(&disk->lock);
    sched_yield();
    mutex_lock(&disk->lock);
    if (ret == 0 && iov) {
        iov_to_buf(iov, niov, half, disk->data + offset + half, bytes - half);
        set_zero_blocks(disk, offset, offset + bytes, false);
    } else if (ret == 0) {
        memset(disk->data + offset + half, 0, bytes - half);
        set_zero_blocks(disk, offset, offset + bytes, true);
    }
    *range = (Range){ 0, 0 };
    mutex_unlock(&disk->lock);
    return ret;
}

static int mem_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       const struct iovec *iov, int niov, int flags)
{
    MemDisk *disk = bs->opaque;
    int ret = change(disk, MEM_WRITE, offset, bytes, iov, niov);

    if (disk->after_write) {
        disk->after_write(disk);
    }
    return ret;
}

static int mem_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                             int64_t bytes, int flags)
{
    MemDisk *disk = bs->opaque;

    if (disk->no_zeroes) {
        return -ENOTSUP;
    }
    return change(disk, MEM_ZERO, offset, bytes, NULL, 0);
}

static int mem_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    return change(bs->opaque, MEM_DISCARD, offset, bytes, NULL, 0);
}

static int mem_flush(BlockDriverState *bs)
{
    return begin(bs->opaque, MEM_FLUSH, 0, 0);
}

static int64_t mem_getlength(BlockDriverState *bs)
{
    MemDisk *disk = bs->opaque;

    return disk->length;
}

/* A held answer stays what it is. */
static int mem_block_status(BlockDriverState *bs, unsigned want, int64_t offset,
                            int64_t bytes, int64_t *pnum, int64_t *map,
                            BlockDriverState **file)
{
    MemDisk *disk = bs->opaque;
    int64_t block = offset / MEM_DISK_BLOCK;
    bool zero;
    int ret;

    mutex_lock(&disk->lock);
    zero = disk->zero[block] && !disk->hide_zeroes;
    do {
        block++;
    } while (block < blocks(disk) &&
             zero == (disk->zero[block] && !disk->hide_zeroes));
    mutex_unlock(&disk->lock);
    *pnum = MIN(block * MEM_DISK_BLOCK, disk->length) - offset;
    *map = offset;
    *file = bs;
    ret = begin(disk, MEM_STATUS, offset, bytes);
    if (ret < 0) {
        return ret;
    }
    return BDRV_BLOCK_OFFSET_VALID | (zero ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA);
}

static const BlockDriver mem_driver = {
    .format_name = "mem-disk",
    .kind = BLOCK_DRIVER_PROTOCOL,
    .instance_size = sizeof(MemDisk),
    .open = mem_open,
    .close = mem_close,
    .preadv = mem_preadv,
    .pwritev = mem_pwritev,
    .pwrite_zeroes = mem_pwrite_zeroes,
    .pdiscard = mem_pdiscard,
    .flush = mem_flush,
    .getlength = mem_getlength,
    .block_status = mem_block_status,
};

BlockDriverState *mem_disk_new(const char *node_name, int64_t length)
{
    BlockDriverState *bs;

    /* Jobs hold back for a second after others used disks: not those of this one. */
    guest_use_forget();
    new_length = length;
    bs = bdrv_new_internal(&mem_driver, node_name, NULL);
    ck_assert(bs != NULL);
    return bs;
}

MemDisk *mem_disk_of(BlockDriverState *bs)
{
    return bs->opaque;
}

uint8_t *mem_disk_data(MemDisk *disk)
{
    return disk->data;
}

void mem_disk_fill(MemDisk *disk, uint32_t seed)
{
    GRand *rand = g_rand_new_with_seed(seed);
    int64_t block;

    for (block = 0; block < blocks(disk); block++) {
        int64_t start = block * MEM_DISK_BLOCK;
        int64_t n = MIN(MEM_DISK_BLOCK, disk->length - start);
        /* Long runs of both */
        bool zero = block > 0 && g_rand_int_range(rand, 0, 24)
                        ? disk->zero[block - 1]
                        : g_rand_boolean(rand);

        memset(disk->data + start, zero ? 0 : 1 + block % 255, n);
        disk->zero[block] = zero;
    }
    g_rand_free(rand);
}

void mem_disk_hide_zeroes(MemDisk *disk)
{
    MUTEX_GUARD(&disk->lock);
    disk->hide_zeroes = true;
}

void mem_disk_no_zeroes(MemDisk *disk)
{
    disk->no_zeroes = true;
}

void mem_disk_assert_equal(MemDisk *a, MemDisk *b)
{
    int64_t i;

    ck_assert_int_eq(a->length, b->length);
    MUTEX_GUARD(&a->lock);
    MUTEX_GUARD(&b->lock);
    if (memcmp(a->data, b->data, a->length) == 0) {
        return;
    }
    for (i = 0; a->data[i] == b->data[i]; i++) {
    }
    ck_abort_msg("disks differ at %" PRId64 ": %d and %d", i, a->data[i],
                 b->data[i]);
}

void mem_disk_forbid_overlap(MemDisk *disk)
{
    MUTEX_GUARD(&disk->lock);
    disk->no_overlap = true;
}

void mem_disk_fail(MemDisk *disk, MemRequest kind, int n, int error)
{
    MUTEX_GUARD(&disk->lock);
    disk->fail_at[kind] = disk->count[kind] + n;
    disk->error[kind] = error;
}

void mem_disk_break(MemDisk *disk, MemRequest kind, int64_t offset, int error)
{
    MUTEX_GUARD(&disk->lock);
    disk->broken_at[kind] = offset;
    disk->broken[kind] = error;
}

void mem_disk_hold(MemDisk *disk, MemRequest kind, int n)
{
    MUTEX_GUARD(&disk->lock);
    disk->hold_at[kind] = disk->count[kind] + n;
}

void mem_disk_wait_held(MemDisk *disk)
{
    MUTEX_GUARD(&disk->lock);

    while (!disk->held) {
        cond_wait(&disk->changed, &disk->lock);
    }
}

void mem_disk_let_go(MemDisk *disk)
{
    MUTEX_GUARD(&disk->lock);
    disk->let_go = true;
    cond_broadcast(&disk->changed);
}

void mem_disk_freeze(MemDisk *disk, MemRequest kind)
{
    MUTEX_GUARD(&disk->lock);
    disk->frozen[kind] = true;
}

void mem_disk_thaw(MemDisk *disk, MemRequest kind)
{
    MUTEX_GUARD(&disk->lock);
    disk->frozen[kind] = false;
    cond_broadcast(&disk->changed);
}

static bool wait_count(MemDisk *disk, MemRequest kind, int64_t count,
                       int64_t deadline_us)
{
    bool in_time = true;

    MUTEX_GUARD(&disk->lock);
    while (disk->count[kind] < count && in_time) {
        in_time = cond_wait_until(&disk->changed, &disk->lock, deadline_us);
    }
    return disk->count[kind] >= count;
}

void mem_disk_wait_count(MemDisk *disk, MemRequest kind, int64_t count)
{
    wait_count(disk, kind, count, INT64_MAX);
}

bool mem_disk_await_count(MemDisk *disk, MemRequest kind, int64_t count)
{
    return wait_count(disk, kind, count, g_get_monotonic_time() + 100 * 1000);
}

void mem_disk_after_write(MemDisk *disk, void (*func)(void *opaque))
{
    disk->after_write = func;
}

int64_t mem_disk_count(MemDisk *disk, MemRequest kind)
{
    MUTEX_GUARD(&disk->lock);
    return disk->count[kind];
}

int64_t mem_disk_bytes(MemDisk *disk, MemRequest kind)
{
    MUTEX_GUARD(&disk->lock);
    return disk->bytes[kind];
}
