/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A chain of three images in memory, and a user of it */
#ifndef TESTS_BACKING_FIXTURE_H
#define TESTS_BACKING_FIXTURE_H

#include <errno.h>

#include "cow-driver.h"

#define READ BLK_PERM_CONSISTENT_READ
#define WRITE BLK_PERM_WRITE
#define UNCHANGED BLK_PERM_WRITE_UNCHANGED
#define RESIZE BLK_PERM_RESIZE
#define ALL BLK_PERM_ALL

#define LENGTH (16 * COW_BLOCK)
#define BASE_LENGTH (10 * COW_BLOCK) /* it is shorter */
#define MID_LENGTH (14 * COW_BLOCK)

static MemDisk *disks[3];
static BlockDriverState *files[3];
static BlockDriverState *base, *mid, *top;
static BlockBackend *blk;

static inline int filter_preadv(BlockDriverState *bs, int64_t offset,
                                int64_t bytes, const struct iovec *iov,
                                int niov, int flags)
{
    return bdrv_preadv(bs->file->bs, offset, bytes, iov, niov, flags);
}

static const BlockDriver filter_driver G_GNUC_UNUSED = {
    .format_name = "filter",
    .kind = BLOCK_DRIVER_FILTER,
    .preadv = filter_preadv,
};

/*
 * base: a raw disk of 'a', but block 2 is zero
 * mid:  blocks 3 and 4 are 'b', 5 is zero, 12 is 'b'
 * top:  block 4 is 'c', 6 is zero
 */
static inline void set_up(void)
{
    static const int64_t lengths[] = { BASE_LENGTH, MID_LENGTH, LENGTH };
    size_t i;

    memset(&cow_next, 0, sizeof(cow_next));
    bdrv_graph_lock();
    for (i = 0; i < G_N_ELEMENTS(disks); i++) {
        g_autofree char *name = g_strdup_printf("file%zu", i);

        disks[i] = mem_disk_new(lengths[i], 1);
        memset(disks[i]->data, 'a' + i, lengths[i]);
        files[i] = mem_node_new(&mem_driver, name, disks[i]);
    }
    memset(disks[0]->data + 2 * COW_BLOCK, 0, COW_BLOCK);
    base = bdrv_ref(files[0]);
    mid = cow_new("mid", files[1], base);
    top = cow_new("top", files[2], mid);
    cow_state(mid)->blocks[3] = cow_state(mid)->blocks[4] = COW_DATA;
    cow_state(mid)->blocks[5] = COW_ZERO;
    cow_state(mid)->blocks[12] = COW_DATA;
    cow_state(top)->blocks[4] = COW_DATA;
    cow_state(top)->blocks[6] = COW_ZERO;
    blk = blk_new("user", false, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    ck_assert(blk_attach(blk, top, NULL));
    bdrv_graph_unlock();
}

static inline void tear_down(void)
{
    g_autoptr(GPtrArray) nodes = NULL;
    size_t i;

    bdrv_graph_lock();
    blk_free(blk);
    bdrv_unref(top);
    bdrv_unref(mid);
    bdrv_unref(base);
    for (i = 0; i < G_N_ELEMENTS(disks); i++) {
        bdrv_unref(files[i]);
    }
    nodes = bdrv_all_nodes();
    ck_assert_uint_eq(nodes->len, 0);
    bdrv_graph_unlock();
    for (i = 0; i < G_N_ELEMENTS(disks); i++) {
        mem_disk_free(disks[i]);
    }
}

static inline void assert_blocks(BlockBackend *b, const char *want)
{
    g_autofree char *buf = g_malloc(LENGTH);
    int64_t i;

    memset(buf, '?', LENGTH);
    ck_assert_int_eq(blk_pread(b, 0, LENGTH, buf, 0), 0);
    for (i = 0; i < LENGTH; i++) {
        char c = want[i / COW_BLOCK];

        if (buf[i] != (c == '0' ? 0 : c)) {
            ck_abort_msg("byte %jd is %02x, not %c", (intmax_t)i, buf[i], c);
        }
    }
}

#endif
