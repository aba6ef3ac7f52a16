/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fake-block.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "block/block-int.h"
#include "monitor/qmp.h"
#include "util/error.h"

struct BdrvDirtyBitmap {
    char *name;
};

struct BlockBackend {
    uint64_t perm, shared;
    BdrvCancel *cancel;
};

FakeDisk fake = { .lock = MUTEX_INIT };

static BlockDriverState the_node;
static GQueue queue = G_QUEUE_INIT; /* fake.lock */

static void __attribute__((constructor)) fake_init(void)
{
    cond_init(&fake.changed);
}

/* What the kernel is asked for is a byte: of what has many, or of a pipe where there
 * is none until the test writes it. */
static int zeroes = -1, held[2] = { -1, -1 };

static void close_all(void)
{
    if (zeroes >= 0) {
        close(zeroes);
        close(held[0]);
        close(held[1]);
        zeroes = -1;
    }
}

void fake_reset(int64_t size)
{
    g_assert(fake.backends == 0 && fake.in_flight == 0);
    g_free(fake.data);
    g_free(fake.status);
    g_free(fake.events);
    g_queue_clear(&queue);
    fake.node_name = "disk0";
    fake.read_only = false;
    fake.size = size;
    fake.data = size <= FAKE_DATA_MAX ? g_malloc0(size) : NULL;
    fake.status = g_malloc(size / FAKE_BLOCK + 1);
    memset(fake.status, BDRV_BLOCK_ZERO, size / FAKE_BLOCK + 1);
    fake.hold = fake.hang = false;
    fake.submits = false;
    fake.submitted = 0;
    close_all();
    fake.holes = false;
    memset(fake.error, 0, sizeof(fake.error));
    fake.error_from = 0;
    fake.cached = -1;
    fake.permits = 0;
    fake.half = INT64_MAX;
    memset(fake.count, 0, sizeof(fake.count));
    fake.last_flags = 0;
    fake.events = g_strdup("");
    fake.dirty = 0;
    fake.recording = true;
    g_assert(fake.busy == 0);
}

void fake_hold(bool hold)
{
    MUTEX_GUARD(&fake.lock);

    fake.hold = hold;
    cond_broadcast(&fake.changed);
}

void fake_let_one_pass(void)
{
    int before;

    MUTEX_GUARD(&fake.lock);

    before = fake.left;
    fake.permits++;
    cond_broadcast(&fake.changed);
    while (fake.left == before) {
        cond_wait(&fake.changed, &fake.lock);
    }
}

void fake_wait_in_flight(int n)
{
    MUTEX_GUARD(&fake.lock);

    while (fake.in_flight != n) {
        cond_wait(&fake.changed, &fake.lock);
    }
}

unsigned fake_count(FakeOp op)
{
    MUTEX_GUARD(&fake.lock);

    return fake.count[op];
}

int fake_in_far_half(void)
{
    MUTEX_GUARD(&fake.lock);

    return fake.in_far_half;
}

void fake_fail(FakeOp op, int error, int64_t from)
{
    MUTEX_GUARD(&fake.lock);

    fake.error[op] = error;
    fake.error_from = from;
}

/* ---- requests ----------------------------------------------------------- */

/* fake.lock is held when it returns */
static int enter(BlockBackend *blk, FakeOp op, int64_t offset, int64_t bytes)
{
    int ret = 0;

    mutex_lock(&fake.lock);
    g_assert(offset >= 0 && bytes >= 0 && bytes <= fake.size - offset);
    fake.count[op]++;
    fake.in_flight++;
    fake.in_far_half += offset >= fake.half;
    cond_broadcast(&fake.changed);
    while (fake.hold && fake.permits == 0 && ret == 0) {
        ret = bdrv_wait(&fake.changed, &fake.lock, INT64_MAX,
                        fake.hang ? NULL : blk->cancel);
    }
    fake.permits -= fake.permits > 0;
    if (ret == 0 && fake.error[op] && offset + bytes > fake.error_from) {
        ret = -fake.error[op];
    }
    return ret;
}

static int leave(int64_t offset, int ret)
{
    fake.in_flight--;
    fake.in_far_half -= offset >= fake.half;
    fake.left++;
    cond_broadcast(&fake.changed);
    mutex_unlock(&fake.lock);
    return ret;
}

static void set_status(int64_t offset, int64_t bytes, int status)
{
    int64_t first = offset / FAKE_BLOCK;
    int64_t last = (offset + bytes - 1) / FAKE_BLOCK;

    memset(fake.status + first, status, last - first + 1);
}

int blk_pread(BlockBackend *blk, int64_t offset, int64_t bytes, void *buf,
              int flags)
{
    int ret;

    if (offset + bytes <= fake.cached) {
        memcpy(buf, fake.data + offset, bytes);
        return 0;
    }
    if (fake.cached >= 0 && (flags & BDRV_REQ_NOWAIT)) {
        return -EAGAIN;
    }
    ret = enter(blk, FAKE_READ, offset, bytes);
    if (ret == 0) {
        memcpy(buf, fake.data + offset, bytes);
    }
    return leave(offset, ret);
}

int blk_pwrite(BlockBackend *blk, int64_t offset, int64_t bytes,
               const void *buf, int flags)
{
    int ret = enter(blk, FAKE_WRITE, offset, bytes);

    fake.last_flags = flags;
    if (ret == 0) {
        memcpy(fake.data + offset, buf, bytes);
        set_status(offset, bytes, BDRV_BLOCK_DATA);
    }
    return leave(offset, ret);
}

int blk_pwrite_zeroes(BlockBackend *blk, int64_t offset, int64_t bytes,
                      int flags)
{
    int ret = enter(blk, FAKE_ZERO, offset, bytes);

    fake.last_flags = flags;
    if (ret == 0) {
        memset(fake.data + offset, 0, bytes);
        if (offset % FAKE_BLOCK == 0 && bytes % FAKE_BLOCK == 0) {
            set_status(offset, bytes, BDRV_BLOCK_ZERO);
        }
    }
    return leave(offset, ret);
}

int blk_pdiscard(BlockBackend *blk, int64_t offset, int64_t bytes)
{
    int ret = enter(blk, FAKE_DISCARD, offset, bytes);

    return leave(offset, ret);
}

int blk_flush(BlockBackend *blk)
{
    return leave(0, enter(blk, FAKE_FLUSH, 0, 0));
}

int blk_allocation_depth(BlockBackend *blk, int64_t offset, int64_t bytes,
                         int64_t *pnum)
{
    int ret = enter(blk, FAKE_STATUS, offset, bytes);

    *pnum = bytes;
    return ret == 0 ? leave(offset, 0) + 1 : leave(offset, ret);
}

int blk_block_status(BlockBackend *blk, int64_t offset, int64_t bytes,
                     unsigned want, int64_t *pnum)
{
    int64_t block = offset / FAKE_BLOCK, end;
    int ret;

    /* Part of a read, which is to follow: not held, not failed, not counted */
    if (want == BDRV_WANT_READ) {
        MUTEX_GUARD(&fake.lock);
        ret = fake.holes ? fake.status[block] : BDRV_BLOCK_DATA;
        *pnum =
            fake.holes ? MIN((block + 1) * FAKE_BLOCK - offset, bytes) : bytes;
        return ret;
    }
    ret = enter(blk, FAKE_STATUS, offset, bytes);

    if (ret == 0) {
        ret = want ? fake.status[block] : BDRV_BLOCK_DATA;
        for (end = block + 1; end * FAKE_BLOCK < offset + bytes &&
                              (!want || fake.status[end] == ret);
             end++) {
        }
        *pnum = MIN(end * FAKE_BLOCK - offset, bytes);
        ret |= BDRV_BLOCK_ALLOCATED;
    }
    return leave(offset, ret);
}

/* ---- requests in two halves ---------------------------------------------- */

void fake_answer(int n)
{
    g_autofree char *bytes = g_malloc0(n);

    g_assert(write(held[1], bytes, n) == n);
}

bool blk_may_submit(BlockBackend *blk)
{
    MUTEX_GUARD(&fake.lock);

    return fake.submits;
}

static bool all_zero(int64_t offset, int64_t bytes)
{
    int64_t end = offset + bytes;

    while (fake.holes && offset < end &&
           fake.status[offset / FAKE_BLOCK] == BDRV_BLOCK_ZERO) {
        offset += FAKE_BLOCK - offset % FAKE_BLOCK;
    }
    return offset >= end;
}

BlkSubmitted blk_submit_begin(BlkSubmit *s, BlockBackend *blk, bool is_write,
                              int64_t offset, void *buf, int64_t bytes)
{
    static char byte;

    g_assert(bytes > 0 && bytes <= BLK_SUBMIT_MAX);
    MUTEX_GUARD(&fake.lock);
    g_assert(offset >= 0 && bytes <= fake.size - offset);
    if (!fake.submits) {
        return BLK_SUBMIT_NOT;
    }
    if (!is_write && all_zero(offset, bytes)) {
        return BLK_SUBMIT_ZERO;
    }
    if (zeroes < 0) {
        zeroes = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        g_assert(zeroes >= 0 && pipe2(held, O_CLOEXEC) == 0);
    }
    *s = (BlkSubmit){
        .fd = fake.hold ? held[0] : zeroes,
        .iov = { &byte, 1 },
        .op = { .kind = is_write ? FAKE_WRITE : FAKE_READ,
                .offset = offset,
                .bytes = bytes },
        .nodes = { buf },
    };
    fake.count[s->op.kind]++;
    fake.submitted++;
    fake.in_flight++;
    cond_broadcast(&fake.changed);
    return BLK_SUBMIT_BEGUN;
}

int blk_submit_end(BlkSubmit *s, ssize_t result)
{
    FakeOp op = s->op.kind;
    int64_t offset = s->op.offset, bytes = s->op.bytes;
    int ret = 0;

    g_assert(result == 1);
    mutex_lock(&fake.lock);
    if (fake.error[op] && offset + bytes > fake.error_from) {
        ret = -fake.error[op];
    } else if (op == FAKE_WRITE) {
        memcpy(fake.data + offset, s->nodes[0], bytes);
        set_status(offset, bytes, BDRV_BLOCK_DATA);
    } else {
        memcpy(s->nodes[0], fake.data + offset, bytes);
    }
    return leave(offset, ret);
}

/* ---- the rest ----------------------------------------------------------- */

BlockBackend *blk_new(const char *user, bool is_job, uint64_t perm,
                      uint64_t shared_perm)
{
    BlockBackend *blk = g_new0(BlockBackend, 1);

    blk->perm = perm;
    blk->shared = shared_perm;
    blk->cancel = bdrv_cancel_new();
    fake.backends++;
    return blk;
}

bool blk_attach(BlockBackend *blk, BlockDriverState *bs, GError **errp)
{
    return true;
}

void blk_free(BlockBackend *blk)
{
    g_assert(fake.in_flight == 0);
    bdrv_cancel_unref(blk->cancel);
    fake.backends--;
    g_free(blk);
}

void blk_cancel_waits(BlockBackend *blk)
{
    bdrv_cancel(blk->cancel);
}

BlockDriverState *blk_get_bs(BlockBackend *blk)
{
    return &the_node;
}

int64_t blk_getlength(BlockBackend *blk)
{
    return fake.size;
}

uint32_t blk_opt_alignment(BlockBackend *blk)
{
    return 512;
}

void bdrv_graph_lock(void)
{
}

void bdrv_graph_unlock(void)
{
}

BlockDriverState *bdrv_find_node(const char *node_name, GError **errp)
{
    if (g_str_equal(node_name, fake.node_name)) {
        return &the_node;
    }
    error_setg(errp, "Cannot find device='' nor node-name='%s'", node_name);
    return NULL;
}

bool bdrv_is_read_only(BlockDriverState *bs)
{
    return fake.read_only;
}

const char *bdrv_node_name(BlockDriverState *bs)
{
    return fake.node_name;
}

void bdrv_unref(BlockDriverState *bs)
{
}

void bdrv_unref_later(BlockDriverState *bs)
{
}

BlockDriverState *bdrv_ref(BlockDriverState *bs)
{
    return bs;
}

/* ---- dirty bitmaps ------------------------------------------------------ */

const SchemaType bitmap_ref_list_type = {
    .name = "BlockDirtyBitmapOrStrList",
    .kind = SCHEMA_ARRAY,
    .element = &schema_str,
};

BdrvDirtyBitmap *bdrv_find_bitmap_below(BlockDriverState *bs, const char *name,
                                        BlockDriverState **bitmap_bs,
                                        GError **errp)
{
    static GPtrArray *bitmaps;
    BdrvDirtyBitmap *bitmap;
    guint i;

    if (g_str_equal(name, "missing")) {
        error_setg(errp, "Bitmap '%s' is not found", name);
        return NULL;
    }
    *bitmap_bs = bs;
    if (!bitmaps) {
        bitmaps = g_ptr_array_new();
    }
    for (i = 0; i < bitmaps->len; i++) {
        bitmap = bitmaps->pdata[i];
        if (g_str_equal(bitmap->name, name)) {
            return bitmap;
        }
    }
    bitmap = g_new(BdrvDirtyBitmap, 1);
    bitmap->name = g_strdup(name);
    g_ptr_array_add(bitmaps, bitmap);
    return bitmap;
}

BdrvDirtyBitmap *bdrv_find_bitmap_ref(BlockDriverState *bs, JsonNode *ref,
                                      BlockDriverState **bitmap_bs,
                                      GError **errp)
{
    return bdrv_find_bitmap_below(bs, json_node_get_string(ref), bitmap_bs,
                                  errp);
}

bool bdrv_dirty_bitmap_check(BdrvDirtyBitmap *bitmap, unsigned flags,
                             GError **errp)
{
    return true;
}

bool bdrv_dirty_bitmap_enabled(BdrvDirtyBitmap *bitmap)
{
    return fake.recording;
}

void bdrv_dirty_bitmap_set_busy(BdrvDirtyBitmap *bitmap, bool busy)
{
    fake.busy += busy ? 1 : -1;
}

const char *bdrv_dirty_bitmap_name(const BdrvDirtyBitmap *bitmap)
{
    return bitmap->name;
}

bool bdrv_dirty_bitmap_status(BdrvDirtyBitmap *bitmap, int64_t offset,
                              int64_t bytes, int64_t *pnum)
{
    bool dirty = offset < fake.dirty;

    *pnum = dirty ? MIN(bytes, fake.dirty - offset) : bytes;
    return dirty;
}

typedef struct Call {
    void (*func)(void *opaque);
    void *opaque;
} Call;

void management_queue(void (*func)(void *opaque), void *opaque)
{
    Call *call = g_new(Call, 1);

    MUTEX_GUARD(&fake.lock);

    *call = (Call){ func, opaque };
    g_queue_push_tail(&queue, call);
    cond_broadcast(&fake.changed);
}

void fake_run_management(void)
{
    Call *call;

    for (;;) {
        mutex_lock(&fake.lock);
        call = g_queue_pop_head(&queue);
        mutex_unlock(&fake.lock);
        if (!call) {
            return;
        }
        call->func(call->opaque);
        g_free(call);
    }
}

void fake_wait_management(void)
{
    mutex_lock(&fake.lock);
    while (g_queue_is_empty(&queue)) {
        cond_wait(&fake.changed, &fake.lock);
    }
    mutex_unlock(&fake.lock);
    fake_run_management();
}

void qmp_event_send(const char *name, JsonObject *data)
{
    g_autofree char *old = fake.events;

    fake.events =
        g_strdup_printf("%s%s %s\n", old, name, schema_get_str(data, "id", ""));
    json_object_unref(data);
}
