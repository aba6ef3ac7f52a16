/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the tests of the drivers "file" and "host_device" share: nodes made from options, requests
 * on them, and the file as others see it.
 */
#ifndef TESTS_FILE_NODE_H
#define TESTS_FILE_NODE_H

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file-posix-int.h"

#define KIB INT64_C(1024)
#define MIB (KIB * KIB)

static char *path; /* of the file under test */
static const char *node_driver = "file";

static inline FileState *state(BlockDriverState *bs)
{
    return bs->opaque;
}

/* ---- nodes -------------------------------------------------------------- */

/* @options: JSON with ' for ", without the braces and the usual members */
static inline BlockDriverState *try_open(const char *name, const char *options,
                                         GError **errp)
{
    g_autofree char *text =
        g_strdup_printf("{'driver':'%s','node-name':'%s','filename':'%s'%s%s}",
                        node_driver, name, path, *options ? "," : "", options);
    g_autoptr(JsonNode) node = NULL;
    BlockDriverState *bs;

    g_strdelimit(text, "'", '"');
    node = json_from_string(text, NULL);
    ck_assert_msg(node != NULL, "bad JSON: %s", text);
    if (!schema_check(&blockdev_options_type, node, "", false, errp)) {
        return NULL;
    }
    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(node), errp);
    bdrv_graph_unlock();
    return bs;
}

static inline BlockDriverState *open_node(const char *name, const char *options)
{
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs = try_open(name, options, &err);

    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    return bs;
}

static inline void close_node(BlockDriverState *bs)
{
    g_autofree char *name = g_strdup(bs->node_name);

    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del(name, NULL));
    bdrv_graph_unlock();
}

#define ASSERT_OPEN_FAILS(options, text)                                       \
    do {                                                                       \
        g_autoptr(GError) err_ = NULL;                                         \
        ck_assert_ptr_null(try_open("n", options, &err_));                     \
        ck_assert_ptr_nonnull(err_);                                           \
        ck_assert_msg(strstr(err_->message, text) != NULL, "'%s' lacks '%s'",  \
                      err_->message, text);                                    \
    } while (0)

/* ---- the file as others see it ------------------------------------------ */

static inline void make_file(int64_t length)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, length), 0);
    close(fd);
}

static inline void fill_file(int64_t offset, int64_t bytes, int byte)
{
    g_autofree char *buf = g_malloc(bytes);
    int fd = open(path, O_RDWR | O_CLOEXEC);

    memset(buf, byte, bytes);
    ck_assert_int_eq(pwrite(fd, buf, bytes, offset), bytes);
    ck_assert_int_eq(fsync(fd), 0);
    close(fd);
}

static inline int64_t file_length(void)
{
    struct stat st;

    ck_assert_int_eq(stat(path, &st), 0);
    return st.st_size;
}

static inline int64_t allocated(void)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    ck_assert_int_eq(fsync(fd), 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    close(fd);
    return st.st_blocks * 512;
}

/* ---- requests ----------------------------------------------------------- */

static inline int do_write(BlockDriverState *bs, int64_t offset, int64_t bytes,
                           int byte, int flags)
{
    g_autofree char *buf = g_malloc(bytes);
    struct iovec iov = { buf, bytes };

    memset(buf, byte, bytes);
    return bdrv_pwritev(bs, offset, bytes, &iov, 1, flags);
}

#define ASSERT_WRITES(bs, offset, bytes, byte)                                 \
    ck_assert_int_eq(do_write(bs, offset, bytes, byte, 0), 0)

static inline void assert_reads(BlockDriverState *bs, int64_t offset,
                                int64_t bytes, int byte)
{
    g_autofree char *buf = g_malloc(bytes);
    struct iovec iov = { buf, bytes };
    int64_t i;

    memset(buf, ~byte, bytes);
    ck_assert_int_eq(bdrv_preadv(bs, offset, bytes, &iov, 1, 0), 0);
    for (i = 0; i < bytes && buf[i] == (char)byte; i++) {
    }
    if (i < bytes) {
        ck_abort_msg("byte %jd is %02x, not %02x", (intmax_t)(offset + i),
                     (unsigned char)buf[i], byte);
    }
}

/* What the cache knows, without asking anybody else */
static inline BlockState known(BlockDriverState *bs, int64_t offset)
{
    int64_t pnum;

    return status_cache_peek(state(bs)->cache, offset, 1, &pnum);
}

#define ASSERT_KNOWN(bs, offset, what)                                         \
    ck_assert_int_eq(known(bs, offset), BLOCK_STATE_##what)

static inline int status(BlockDriverState *bs, int64_t offset, int64_t bytes,
                         int64_t *pnum)
{
    BlockDriverState *file;
    int64_t map;
    int ret = bdrv_block_status(bs, BDRV_WANT_PRECISE, offset, bytes, pnum,
                                &map, &file);

    ck_assert_int_ge(ret, 0);
    ck_assert_int_eq(map, offset);
    ck_assert_ptr_eq(file, bs);
    ck_assert(ret & BDRV_BLOCK_OFFSET_VALID);
    return ret;
}

#define ASSERT_STATUS(bs, offset, bytes, flag, n)                              \
    do {                                                                       \
        int64_t pnum_;                                                         \
        int ret_ = status(bs, offset, bytes, &pnum_);                          \
        ck_assert_int_eq(ret_ &(BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO),            \
                         BDRV_BLOCK_##flag);                                   \
        ck_assert_int_eq(pnum_, n);                                            \
    } while (0)

#endif
