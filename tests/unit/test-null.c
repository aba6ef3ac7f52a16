/* SPDX-License-Identifier: GPL-2.0-or-later */
/* null-co, and the end of the largest disk there can be */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "block/block-int.h"
#include "unit-main.h"

/* INT64_MAX, rounded down to 1 GiB */
#define LARGEST INT64_C(9223372035781033984)

static BlockBackend *blk;

static BlockDriverState *add(const char *text, GError **errp)
{
    g_autoptr(JsonNode) node = json_from_string(text, NULL);

    ck_assert(node != NULL);
    ck_assert(schema_check(&blockdev_options_type, node, "", false, errp));
    return bdrv_open(json_node_get_object(node), errp);
}

static void open_disk(const char *text)
{
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs;

    bdrv_graph_lock();
    bs = add(text, &err);
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    blk = blk_new("test", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                  BLK_PERM_ALL);
    ck_assert(blk_attach(blk, bs, NULL));
    bdrv_graph_unlock();
}

static void close_disk(void)
{
    bdrv_graph_lock();
    blk_free(blk);
    bdrv_graph_unlock();
    bdrv_close_all();
}

/* A reader does not find what its buffers held before. */
START_TEST(test_no_old_data)
{
    static const char *const disks[] = {
        "{'driver':'null-co','node-name':'n','read-zeroes':false}",
        "{'driver':'null-co','node-name':'n','read-zeroes':true}",
    };
    uint8_t a[1000], b[3000], zero[3000] = { 0 };
    struct iovec iov[] = { { a, sizeof(a) }, { b, sizeof(b) } };
    int64_t pnum;
    int ret;

    memset(a, 0x5e, sizeof(a));
    memset(b, 0x5e, sizeof(b));
    open_disk(disks[_i]);
    ck_assert_int_eq(blk_preadv(blk, 12345, 4000, iov, 2, 0), 0);
    ck_assert_mem_eq(a, zero, sizeof(a));
    ck_assert_mem_eq(b, zero, sizeof(b));
    /* But only the other kind says so without being read. */
    ret = blk_block_status(blk, 0, 4096, BDRV_WANT_ZERO, &pnum);
    ck_assert_int_eq(ret & (BDRV_BLOCK_ZERO | BDRV_BLOCK_DATA),
                     _i ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA);
    ck_assert_int_eq(pnum, 4096);
    close_disk();
}
END_TEST

static void *write_once(void *opaque)
{
    uint8_t byte = 0;

    return GINT_TO_POINTER(blk_pwrite(blk, 0, 1, &byte, 0));
}

/* As long as can be said is a wait, not a time that has gone by. */
START_TEST(test_longest_latency)
{
    pthread_t writer;
    void *ret;

    open_disk("{'driver':'null-co','node-name':'n',"
              "'latency-ns':9223372036854775807}");
    pthread_create(&writer, NULL, write_once, NULL);
    blk_cancel_waits(blk);
    pthread_join(writer, &ret);
    ck_assert_int_eq(GPOINTER_TO_INT(ret), -ECANCELED);
    close_disk();
}
END_TEST

/* The same, but for blocks of 4 KiB, the last of which ends beyond the disk */
static BlockDriver blocks_driver;

static int blocks_open(BlockDriverState *bs, JsonObject *options, GError **errp)
{
    json_object_set_int_member(options, "size", LARGEST);
    bs->limits.request_alignment = 4096;
    return bdrv_find_driver("null-co")->open(bs, options, errp);
}

static int64_t blocks_getlength(BlockDriverState *bs)
{
    return LARGEST - 1;
}

static void open_blocks(void)
{
    BlockDriverState *bs;

    blocks_driver = *bdrv_find_driver("null-co");
    blocks_driver.exact_end = true;
    blocks_driver.open = blocks_open;
    blocks_driver.getlength = blocks_getlength;
    bdrv_graph_lock();
    bs = bdrv_new_internal(&blocks_driver, "blocks", NULL);
    blk = blk_new("test", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                  BLK_PERM_ALL);
    ck_assert(blk_attach(blk, bs, NULL));
    bdrv_unref(bs);
    bdrv_graph_unlock();
}

/* Every kind of request that ends where the disk does */
static void check_end(int64_t n)
{
    g_autofree uint8_t *data = g_malloc0(n);
    int64_t offset = LARGEST - 1 - n;
    int64_t pnum;
    int ret;

    ck_assert_int_eq(blk_pread(blk, offset, n, data, 0), 0);
    ck_assert_int_eq(blk_pwrite(blk, offset, n, data, BDRV_REQ_FUA), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, offset, n, 0), 0);
    ck_assert_int_eq(blk_pdiscard(blk, offset, n), 0);
    ret = blk_block_status(blk, offset, n, BDRV_WANT_PRECISE, &pnum);
    ck_assert_int_eq(ret & (BDRV_BLOCK_DATA | BDRV_BLOCK_EOF),
                     BDRV_BLOCK_DATA | BDRV_BLOCK_EOF);
    ck_assert_int_eq(pnum, n);
    ck_assert_int_eq(blk_pread(blk, offset + 1, n, data, 0), -EIO);
}

/* So many buffers that they go through another in between */
static void check_many_buffers(int64_t offset)
{
    uint8_t buf[IOV_MAX + 1] = { 0 };
    struct iovec iov[IOV_MAX + 1];
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(iov); i++) {
        iov[i] = (struct iovec){ buf + i, 1 };
    }
    ck_assert_int_eq(
        blk_preadv(blk, offset, sizeof(buf), iov, G_N_ELEMENTS(iov), 0), 0);
    ck_assert_int_eq(
        blk_pwritev(blk, offset, sizeof(buf), iov, G_N_ELEMENTS(iov), 0), 0);
}

START_TEST(test_largest)
{
    if (_i) {
        open_blocks();
    } else {
        open_disk("{'driver':'raw','node-name':'r','offset':1,'file':"
                  "{'driver':'null-co','node-name':'n',"
                  "'size':9223372035781033984}}");
    }
    ck_assert_int_eq(blk_getlength(blk), LARGEST - 1);
    check_end(1);
    check_end(511);
    check_end(4096);
    check_end(3 << 20);
    check_many_buffers(LARGEST - 1 - IOV_MAX - 1);
    close_disk();
}
END_TEST

START_TEST(test_too_large)
{
    static const char *const sizes[] = { "9223372035781033985",
                                         "9223372036854775807" };
    g_autoptr(GError) err = NULL;
    g_autofree char *options =
        g_strdup_printf("{'driver':'raw','node-name':'r','file':"
                        "{'driver':'null-co','node-name':'n','size':%s}}",
                        sizes[_i]);
    g_autofree char *message =
        g_strdup_printf("Node 'n' is too large: %s bytes, at most "
                        "9223372035781033984",
                        sizes[_i]);

    bdrv_graph_lock();
    ck_assert(add(options, &err) == NULL);
    ck_assert_str_eq(err->message, message);
    ck_assert(bdrv_find_node("n", NULL) == NULL);
    bdrv_graph_unlock();
    bdrv_close_all();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("null");
    TCase *t = tcase_create("null");

    tcase_add_loop_test(t, test_no_old_data, 0, 2);
    tcase_add_test(t, test_longest_latency);
    tcase_add_loop_test(t, test_largest, 0, 2);
    tcase_add_loop_test(t, test_too_large, 0, 2);
    suite_add_tcase(s, t);
    return unit_main(s);
}
