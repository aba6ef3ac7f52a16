/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes the qcow2 driver with hostile images: the input is the image, but for its
 * last byte, which says whether it is opened for writing, and what is done with it
 * then. Whatever an image says, its requests end, and the memory they take does
 * not depend on it.
 *
 * tests/fuzz/qcow2-corpus.py makes a corpus of small images.
 */
#include <fcntl.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block-int.h"
#include "util/json-text.h"

#define BYTES 8192

enum {
    WRITABLE = 0x1,
    WRITE = 0x2,
    ZERO = 0x4,
    DISCARD = 0x8,
    CHECK = 0x10,
    FIX = 0x20,
    RESIZE = 0x40
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__asan_default_options(void);

/* A file that is made enormous by a write is too large to be checked: there
 * malloc() may fail. */
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static char *path;

static void at_exit(void)
{
    unlink(path);
}

static void silent(const char *domain, GLogLevelFlags level,
                   const char *message, void *opaque)
{
}

static void start(void)
{
    path = g_strdup_printf("/dev/shm/fuzz-qcow2-%d", getpid());
    g_log_set_default_handler(silent, NULL);
    atexit(at_exit);
}

static void make_file(const uint8_t *data, size_t size)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

    if (fd < 0 || write(fd, data, size) != (ssize_t)size) {
        abort();
    }
    close(fd);
}

/* Each its own gate: whatever it says, the next is tried. */
static void use(BlockBackend *blk, unsigned what, int64_t length)
{
    static uint8_t buf[BYTES];
    const int64_t places[] = { 0, length / 3, length / 2, length - BYTES };
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(places); i++) {
        int64_t offset = CLAMP(places[i], 0, MAX(length - 1, 0));
        int64_t bytes = MIN(length - offset, BYTES);
        int64_t pnum;

        blk_pread(blk, offset, bytes, buf, 0);
        blk_block_status(blk, offset, length - offset, BDRV_WANT_PRECISE,
                         &pnum);
        if (what & WRITE) {
            memset(buf, 0x5a, bytes / 2);
            blk_pwrite(blk, offset, bytes / 2, buf, 0);
        }
        if (what & ZERO) {
            blk_pwrite_zeroes(blk, offset + bytes / 4, bytes / 2,
                              i % 2 ? BDRV_REQ_MAY_UNMAP : 0);
        }
        if (what & DISCARD) {
            blk_pdiscard(blk, offset, bytes);
        }
        blk_flush(blk);
    }
}

static void check(BlockDriverState *bs, unsigned what)
{
    BdrvCheckResult result = { 0 };

    bs->drv->check(bs, &result,
                   (what & FIX) && (what & WRITABLE)
                       ? BDRV_FIX_LEAKS | BDRV_FIX_ERRORS
                       : 0,
                   NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = NULL;
    g_autoptr(JsonNode) node = NULL;
    BlockDriverState *bs;
    unsigned what;

    if (!path) {
        start();
    }
    if (size == 0) {
        return -1;
    }
    what = data[size - 1];
    make_file(data, size - 1);
    text = g_strdup_printf("{'driver': 'qcow2', 'node-name': 'disk',"
                           " 'read-only': %s, 'discard': 'unmap',"
                           " 'backing': null, 'file': {'driver': 'file',"
                           " 'filename': '%s', 'locking': 'off'}}",
                           what & WRITABLE ? "false" : "true", path);
    node = json_text_parse(text, strlen(text), NULL);
    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(node), NULL);
    if (bs) {
        BlockBackend *blk = blk_new("fuzzer", false,
                                    BLK_PERM_CONSISTENT_READ |
                                        (what & WRITABLE ? BLK_PERM_WRITE : 0),
                                    BLK_PERM_ALL);

        if (blk_attach(blk, bs, NULL)) {
            use(blk, what & WRITABLE ? what : 0, bdrv_getlength(bs));
        }
        blk_free(blk);
        if (what & CHECK) {
            check(bs, what);
        }
        if ((what & RESIZE) && (what & WRITABLE)) {
            bdrv_resize(bs, bdrv_getlength(bs) / 2, NULL);
        }
        bdrv_monitor_del("disk", NULL);
    }
    bdrv_graph_unlock();
    return 0;
}
