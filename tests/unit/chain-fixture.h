/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A chain of three disks, with a guest on the uppermost, and one more to copy to:
 * "base" is a raw disk, "mid" and "top" are overlays, and "dst" is one that
 * stands on nothing. The job is called "m", its filter "filter".
 */
#ifndef TESTS_UNIT_CHAIN_FIXTURE_H
#define TESTS_UNIT_CHAIN_FIXTURE_H

#include "block/mirror.h"
#include "cow-driver.h"
#include "job-harness.h"

#define KiB INT64_C(1024)
#define MiB (KiB * KiB)
#define LENGTH (4 * MiB)
#define BLOCKS (LENGTH / COW_BLOCK)

enum {
    BASE,
    MID,
    TOP,
    DST,
    CHAIN_NODES,
};

static MemDisk *disks[CHAIN_NODES];
static BlockDriverState *files[CHAIN_NODES], *nodes[CHAIN_NODES];
static BlockBackend *guest;
static uint8_t expected[LENGTH]; /* what the guest has to read */

static inline void chain_write_block(int layer, int block, int byte)
{
    memset(disks[layer]->data + block * COW_BLOCK, byte, COW_BLOCK);
    cow_state(nodes[layer])->blocks[block] = byte ? COW_DATA : COW_ZERO;
}

static inline void chain_read_guest(uint8_t *buf)
{
    ck_assert_int_eq(blk_pread(guest, 0, LENGTH, buf, 0), 0);
}

static int chain_base_truncate(BlockDriverState *bs, int64_t length,
                               GError **errp)
{
    MemDisk *disk = mem_disk(bs);

    disk->data = g_realloc(disk->data, length);
    memset(disk->data + disk->length, 0, length - disk->length);
    disk->length = length;
    return 0;
}

/* Unlike that of the others it can grow, and be reopened. */
static const char *const chain_no_options[] = { NULL };
static BlockDriver chain_base_driver = MEM_DRIVER("base", 0);

/*
 * base: data everywhere but each 7th block
 * mid: data in each 64th block and the one behind, zeroes in the next
 * top: data in each 128th block, zeroes in the third before
 * dst: zeroes
 */
static inline void chain_make_nodes(void *opaque)
{
    static const char *const names[] = { "base", "mid", "top", "dst" };
    const int64_t *lengths = opaque;
    int i;

    for (i = 0; i < CHAIN_NODES; i++) {
        g_autofree char *file = g_strdup_printf("%s-file", names[i]);

        disks[i] = mem_disk_new(lengths[i], 1);
        files[i] = i == BASE
                       ? mem_node_new(&chain_base_driver, "base", disks[i])
                       : mem_node_new(&mem_driver, file, disks[i]);
        nodes[i] = i == BASE ? bdrv_ref(files[i])
                             : cow_new(names[i], files[i],
                                       i == DST ? NULL : nodes[i - 1]);
    }
    for (i = 0; i < lengths[BASE] / COW_BLOCK; i++) {
        memset(disks[BASE]->data + i * COW_BLOCK, i % 7 ? 1 + i % 250 : 0,
               COW_BLOCK);
    }
    for (i = 0; i + 64 <= lengths[MID] / COW_BLOCK; i += 64) {
        chain_write_block(MID, i, 251);
        chain_write_block(MID, i + 1, 252);
        chain_write_block(MID, i + 2, 0);
    }
    for (i = 0; i < BLOCKS; i += 128) {
        chain_write_block(TOP, i, 253);
        chain_write_block(TOP, i + 125, 0);
    }
    guest = blk_new("guest", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                    BLK_PERM_ALL);
    ck_assert(blk_attach(guest, nodes[TOP], NULL));
    chain_read_guest(expected);
}

static inline void chain_make_lengths(int64_t base, int64_t mid)
{
    int64_t lengths[] = { base, mid, LENGTH, LENGTH };

    chain_base_driver.truncate = chain_base_truncate;
    chain_base_driver.reopen_options = chain_no_options;
    harness_start();
    on_management(chain_make_nodes, lengths);
}

static inline void chain_make(void)
{
    chain_make_lengths(LENGTH, LENGTH);
}

static inline void chain_remove_nodes(void *opaque)
{
    int i;

    blk_free(guest);
    for (i = CHAIN_NODES; i-- > 0;) {
        bdrv_unref(nodes[i]);
        bdrv_unref(files[i]);
    }
}

/* Cancels the job if there still is one, and checks that nothing is left. */
static inline void chain_unmake(void)
{
    int i;

    job_cancel_all_sync();
    on_management(chain_remove_nodes, NULL);
    harness_stop();
    for (i = 0; i < CHAIN_NODES; i++) {
        mem_disk_free(disks[i]);
    }
}

/* The guest writes; it is what it has to read then. */
static inline void guest_write(int block, int byte)
{
    uint8_t *at = expected + block * COW_BLOCK;

    memset(at, byte, COW_BLOCK);
    ck_assert_int_eq(blk_pwrite(guest, block * COW_BLOCK, COW_BLOCK, at, 0), 0);
}

static inline void assert_bytes(const uint8_t *have, const uint8_t *want,
                                int64_t bytes)
{
    int64_t i;

    if (memcmp(have, want, bytes) == 0) {
        return;
    }
    for (i = 0; have[i] == want[i]; i++) {
    }
    ck_abort_msg("block %d: %d, not %d", (int)(i / COW_BLOCK), have[i],
                 want[i]);
}

static inline void assert_guest_reads(void)
{
    g_autofree uint8_t *buf = g_malloc(LENGTH);

    chain_read_guest(buf);
    assert_bytes(buf, expected, LENGTH);
}

static inline void assert_home(BlockDriverState *home)
{
    BlockDriverState *bs = blk_get_bs(guest);

    ck_assert_ptr_eq(bs, home);
    bdrv_unref_later(bs);
}

/* ---- other users -------------------------------------------------------- */

typedef struct ChainUser {
    BlockDriverState *bs;
    uint64_t perm;
    GError *err;
    bool ok;
} ChainUser;

static inline void chain_try_user(void *opaque)
{
    ChainUser *user = opaque;
    BlockBackend *blk = blk_new("other", false, user->perm, BLK_PERM_ALL);

    user->ok = blk_attach(blk, user->bs, &user->err);
    blk_free(blk);
}

/* NULL @error: it may */
static inline void check_user(int layer, uint64_t perm, const char *error)
{
    ChainUser user = { .bs = nodes[layer], .perm = perm };

    on_management(chain_try_user, &user);
    ck_assert_msg(user.ok == !error, "%s",
                  user.err ? user.err->message : "no error");
    if (error) {
        ck_assert_str_eq(user.err->message, error);
        g_error_free(user.err);
    }
}

#endif
