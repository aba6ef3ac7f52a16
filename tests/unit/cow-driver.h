/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A format for tests that has a backing file: its data is in the child "file",
 * at the same offset; which blocks are its own it keeps in mind.
 */
#ifndef TESTS_COW_DRIVER_H
#define TESTS_COW_DRIVER_H

#include "mem-driver.h"

#define COW_BLOCK 4096

typedef enum CowBlock {
    COW_BELOW, /* not allocated */
    COW_DATA,
    COW_ZERO,
} CowBlock;

typedef struct CowState {
    int64_t length; /* 0: as the file's */
    uint8_t *blocks;
} CowState;

/* What the node that is being opened is to have */
static struct {
    BlockDriverState *file;
    JsonObject *options;
    const char *header_file, *header_format;
    bool read_only;
} cow_next;

static inline CowState *cow_state(BlockDriverState *bs)
{
    return bs->opaque;
}

static inline int cow_open(BlockDriverState *bs, JsonObject *options,
                           GError **errp)
{
    CowState *s = bs->opaque;
    int ret;

    bdrv_set_read_only(bs, cow_next.read_only);
    if (!bdrv_attach_child(bs, cow_next.file, "file", errp)) {
        return -EPERM;
    }
    s->length = bdrv_child_getlength(bs->file);
    s->blocks = g_malloc0(s->length / COW_BLOCK + 1);
    ret = bdrv_open_backing(bs, cow_next.options ? cow_next.options : options,
                            cow_next.header_file, cow_next.header_format, errp);
    if (ret < 0) {
        g_free(s->blocks);
    }
    return ret;
}

static inline void cow_close(BlockDriverState *bs)
{
    g_free(cow_state(bs)->blocks);
}

/* Jobs look while guests write. */
static inline CowBlock cow_block(CowState *s, int64_t offset)
{
    return __atomic_load_n(&s->blocks[offset / COW_BLOCK], __ATOMIC_ACQUIRE);
}

static inline void cow_set_blocks(CowState *s, int64_t offset, int64_t bytes,
                                  CowBlock type)
{
    int64_t i, n = (bytes + COW_BLOCK - 1) / COW_BLOCK;

    for (i = 0; i < n; i++) {
        __atomic_store_n(&s->blocks[offset / COW_BLOCK + i], type,
                         __ATOMIC_RELEASE);
    }
}

static inline int64_t cow_run(CowState *s, int64_t offset, int64_t bytes,
                              CowBlock *type)
{
    int64_t end = offset;

    *type = cow_block(s, offset);
    while (end < offset + bytes && cow_block(s, end) == *type) {
        end = (end / COW_BLOCK + 1) * COW_BLOCK;
    }
    return MIN(end - offset, bytes);
}

static inline int cow_preadv(BlockDriverState *bs, int64_t offset,
                             int64_t bytes, const struct iovec *iov, int niov,
                             int flags)
{
    g_autofree struct iovec *slice = g_new(struct iovec, niov);
    int64_t done = 0;
    int ret = 0;

    while (ret == 0 && done < bytes) {
        CowBlock type;
        int64_t n = cow_run(cow_state(bs), offset + done, bytes - done, &type);
        int n_slice = iov_slice(iov, niov, done, n, slice);

        if (type == COW_ZERO) {
            iov_zero(slice, n_slice, 0, n);
        } else if (type == COW_DATA) {
            ret = bdrv_preadv(bs->file->bs, offset + done, n, slice, n_slice,
                              flags);
        } else {
            ret = bdrv_read_backing(bs, offset + done, n, slice, n_slice);
        }
        done += n;
    }
    return ret;
}

/* Whole blocks (request_alignment) */
static inline int cow_pwritev(BlockDriverState *bs, int64_t offset,
                              int64_t bytes, const struct iovec *iov, int niov,
                              int flags)
{
    int ret = bdrv_pwritev(bs->file->bs, offset, bytes, iov, niov, flags);

    if (ret == 0) {
        cow_set_blocks(cow_state(bs), offset, bytes, COW_DATA);
    }
    return ret;
}

static inline int64_t cow_getlength(BlockDriverState *bs)
{
    return cow_state(bs)->length;
}

static inline int cow_block_status(BlockDriverState *bs, unsigned want,
                                   int64_t offset, int64_t bytes, int64_t *pnum,
                                   int64_t *map, BlockDriverState **file)
{
    CowBlock type;

    *pnum = cow_run(cow_state(bs), offset, bytes, &type);
    *map = offset;
    *file = bs->file->bs;
    if (type == COW_DATA) {
        return BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID;
    }
    return type == COW_ZERO ? BDRV_BLOCK_ZERO : 0;
}

static const char *const cow_reopen_options[] = { NULL };

static const BlockDriver cow_driver = {
    .format_name = "cow",
    .kind = BLOCK_DRIVER_FORMAT,
    .instance_size = sizeof(CowState),
    .supports_backing = true,
    .open = cow_open,
    .close = cow_close,
    .reopen_options = cow_reopen_options,
    .preadv = cow_preadv,
    .pwritev = cow_pwritev,
    .getlength = cow_getlength,
    .block_status = cow_block_status,
};

/* Graph mutex held; the caller owns the reference. NULL: @err tells */
static inline BlockDriverState *cow_try_new(const char *name,
                                            BlockDriverState *file,
                                            GError **err)
{
    cow_next.file = file;
    return bdrv_new_internal(&cow_driver, name, err);
}

/* On @backing, or NULL */
static inline BlockDriverState *cow_new(const char *name,
                                        BlockDriverState *file,
                                        BlockDriverState *backing)
{
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs = cow_try_new(name, file, &err);

    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    if (backing) {
        ck_assert(bdrv_attach_child(bs, backing, "backing", &err) != NULL);
    }
    return bs;
}

#endif
