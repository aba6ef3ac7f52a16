/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: headers that are right, each field that is wrong, and headers rewritten */
#include <errno.h>
#include <string.h>

#include "block/qcow2.h"
#include "mem-disk.h"
#include "unit-main.h"

#define CLUSTER 65536
#define IMAGE_BYTES (8 * CLUSTER)
#define BACKING_AT 0x400

static uint8_t image[IMAGE_BYTES];

static void put_extension(uint8_t **p, uint32_t magic, const void *data,
                          uint32_t bytes)
{
    qcow2_put_be32(*p, magic);
    qcow2_put_be32(*p + 4, bytes);
    memcpy(*p + 8, data, bytes);
    *p += 8 + (bytes + 7) / 8 * 8;
}

/* An empty image of 1 MiB, with extensions that are known and one that is not */
static void make_image(unsigned version)
{
    static const uint8_t names[48] = "\0\x3f"
                                     "tea";
    uint8_t *p = image + (version == 2 ? 72 : 112);
    int i;

    memset(image, 0, sizeof(image));
    qcow2_put_be32(image, QCOW2_MAGIC);
    qcow2_put_be32(image + 4, version);
    qcow2_put_be32(image + 20, 16);
    qcow2_put_be64(image + 24, 1 << 20);
    qcow2_put_be32(image + 36, 1);
    qcow2_put_be64(image + 40, 3 * CLUSTER);
    qcow2_put_be64(image + 48, CLUSTER);
    qcow2_put_be32(image + 56, 1);
    if (version > 2) {
        qcow2_put_be32(image + 96, 4);
        qcow2_put_be32(image + 100, 112);
    }
    put_extension(&p, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
    put_extension(&p, QCOW2_EXT_FEATURES, names, sizeof(names));
    put_extension(&p, 0x12345678, "whatever", 9);
    qcow2_put_be64(image + CLUSTER, 2 * CLUSTER);
    for (i = 0; i < 4; i++) {
        image[2 * CLUSTER + 2 * i + 1] = 1;
    }
}

static int parse(Qcow2State *s, size_t bytes, GError **errp)
{
    /* A copy of exactly that much, so that what reads beyond is found. */
    g_autofree uint8_t *buf = g_memdup2(image, bytes);

    memset(s, 0, sizeof(*s));
    return qcow2_parse_header(s, buf, bytes, errp);
}

static void assert_refused(size_t bytes, const char *text)
{
    g_autoptr(GError) err = NULL;
    Qcow2State s;

    ck_assert_int_lt(parse(&s, bytes, &err), 0);
    ck_assert_ptr_nonnull(err);
    ck_assert_msg(strstr(err->message, text) != NULL, "'%s' lacks '%s'",
                  err->message, text);
    ck_assert_ptr_null(s.extensions);
    ck_assert_ptr_null(s.backing_file);
}

static void set_backing(const char *name)
{
    qcow2_put_be64(image + 8, BACKING_AT);
    qcow2_put_be32(image + 16, strlen(name));
    memcpy(image + BACKING_AT, name, strlen(name));
}

/* ---- what is right ------------------------------------------------------ */

START_TEST(test_valid)
{
    unsigned version = 2 + _i;
    g_autoptr(GError) err = NULL;
    Qcow2State s;

    make_image(version);
    set_backing("/base.img");
    ck_assert_msg(parse(&s, CLUSTER, &err) == 0, "%s", err ? err->message : "");
    ck_assert_uint_eq(s.version, version);
    ck_assert_uint_eq(s.cluster_bits, 16);
    ck_assert_int_eq(s.cluster_size, CLUSTER);
    ck_assert_uint_eq(s.l2_bits, 13);
    ck_assert_uint_eq(s.refcount_order, 4);
    ck_assert_int_eq(s.length, 1 << 20);
    ck_assert_uint_eq(s.l1_entries, 1);
    ck_assert_uint_eq(s.l1_offset, 3 * CLUSTER);
    ck_assert_uint_eq(s.reftable_offset, CLUSTER);
    ck_assert_uint_eq(s.reftable_entries, CLUSTER / 8);
    ck_assert_uint_eq(s.header_length, version == 2 ? 72 : 112);
    ck_assert_str_eq(s.backing_file, "/base.img");
    ck_assert_str_eq(s.backing_format, "raw");
    ck_assert_uint_eq(s.extensions->len, 2);
    ck_assert(!qcow2_is_corrupt(&s));
    qcow2_free_header(&s);
}
END_TEST

/* Version 2 ends where version 3 goes on. */
START_TEST(test_v2_has_no_features)
{
    Qcow2State s;

    make_image(2);
    memset(image + 72, 0, 200);
    qcow2_put_be32(image + 72, 0x11111111);
    qcow2_put_be32(image + 76, 24);
    memset(image + 80, 0xff, 24);
    ck_assert_int_eq(parse(&s, CLUSTER, NULL), 0);
    ck_assert_uint_eq(s.incompatible, 0);
    ck_assert_uint_eq(s.autoclear, 0);
    ck_assert_uint_eq(s.refcount_order, 4);
    ck_assert_uint_eq(s.extensions->len, 1);
    qcow2_free_header(&s);
}
END_TEST

START_TEST(test_l1_entries)
{
    Qcow2State s = { .cluster_bits = 9, .l2_bits = 6 };

    ck_assert_uint_eq(qcow2_l1_entries_for(&s, 0), 0);
    ck_assert_uint_eq(qcow2_l1_entries_for(&s, 1), 1);
    ck_assert_uint_eq(qcow2_l1_entries_for(&s, 32768), 1);
    ck_assert_uint_eq(qcow2_l1_entries_for(&s, 32769), 2);
    ck_assert_uint_eq(qcow2_l1_entries_for(&s, BDRV_MAX_LENGTH),
                      BDRV_MAX_LENGTH / 32768);
}
END_TEST

/* ---- what is wrong ------------------------------------------------------ */

static const struct {
    unsigned offset, bytes;
    uint64_t value;
    const char *text;
} wrong[] = {
    { 0, 4, 0x514649fa, "Image is not in qcow2 format" },
    { 4, 4, 1, "Unsupported qcow2 version 1" },
    { 4, 4, 4, "Unsupported qcow2 version 4" },
    { 8, 8, CLUSTER + 1, "Invalid backing file offset 65537" },
    { 8, 8, 111, "Invalid backing file offset 111" },
    { 8, 8, UINT64_MAX, "Invalid backing file offset 18446744073709551615" },
    { 20, 4, 8, "Unsupported cluster size: 2^8" },
    { 20, 4, 22, "Unsupported cluster size: 2^22" },
    { 20, 4, UINT32_MAX, "Unsupported cluster size: 2^4294967295" },
    { 24, 8, UINT64_MAX, "Image is too big: 18446744073709551615" },
    { 24, 8, BDRV_MAX_LENGTH + UINT64_C(1), "Image is too big: 9223372035781" },
    { 24, 8, INT64_C(1) << 40, "L1 table is too small: 1 entries for 10995" },
    { 32, 4, 1, "Unsupported encryption method 1 (AES)" },
    { 32, 4, 2, "Unsupported encryption method 2 (LUKS)" },
    { 32, 4, 3, "Unsupported encryption method 3" },
    { 36, 4, 0, "L1 table is too small: 0 entries" },
    { 36, 4, 4194305, "Active L1 table too large: 4194305 entries" },
    { 36, 4, UINT32_MAX, "Active L1 table too large: 4294967295 entries" },
    { 40, 8, 0, "Invalid L1 table offset 0" },
    { 40, 8, 3 * CLUSTER + 512, "Invalid L1 table offset 197120" },
    { 40, 8, QCOW2_MAX_FILE_BYTES, "Invalid L1 table offset 7205759403792793" },
    { 40, 8, -(uint64_t)CLUSTER, "Invalid L1 table offset 1844674407370948" },
    { 48, 8, 0, "Invalid reference count table offset 0" },
    { 48, 8, CLUSTER + 8, "Invalid reference count table offset 65544" },
    { 48, 8, QCOW2_MAX_FILE_BYTES, "Invalid reference count table offset 72" },
    { 56, 4, 0, "Image does not contain a reference count table" },
    { 56, 4, 129, "Reference count table too large: 129 clusters" },
    { 56, 4, UINT32_MAX, "Reference count table too large: 4294967295" },
    { 60, 4, 65537, "Too many snapshots: 65537" },
    { 60, 4, 1, "Invalid snapshot table offset 0" },
    { 72, 8, QCOW2_INCOMPAT_DATA_FILE,
      "Unsupported qcow2 feature(s): external data file" },
    { 72, 8, QCOW2_INCOMPAT_EXTL2,
      "Unsupported qcow2 feature(s): extended L2 entries" },
    { 72, 8, UINT64_C(1) << 62,
      "Unsupported qcow2 feature(s): Unknown incompatible feature: 40" },
    { 72, 8, UINT64_C(3) << 62,
      "Unsupported qcow2 feature(s): tea, Unknown incompatible feature: 40" },
    { 72, 8, QCOW2_INCOMPAT_COMPRESSION, "must be clear with type 0" },
    { 88, 8, QCOW2_AUTOCLEAR_BITMAPS, "'bitmaps' without the header" },
    { 96, 4, 7, "Reference count entry width too large: 2^7" },
    { 96, 4, UINT32_MAX, "Reference count entry width too large: 2^4294967" },
    { 100, 4, 103, "qcow2 header too short: 103" },
    { 100, 4, 0, "qcow2 header too short: 0" },
    { 100, 4, 110, "Invalid qcow2 header length: 110" },
    { 100, 4, CLUSTER + 8, "qcow2 header exceeds cluster size: 65544" },
    { 100, 4, UINT32_MAX - 7, "qcow2 header exceeds cluster size: 42949" },
    { 104, 1, 1, "must be set with type 1" },
    { 104, 1, 2, "unknown compression type: 2" },
    { 112, 4, QCOW2_EXT_ENCRYPTION, "LUKS encryption" },
    { 116, 4, 256, "Backing format name too long: 256 bytes" },
    { 116, 4, CLUSTER - 119,
      "Header extension too large: 0xe2792aca has 65417" },
    { 132, 4, UINT32_MAX, "Header extension too large: 0x6803f857 has 42949" },
};

START_TEST(test_wrong_field)
{
    uint8_t *p = image + wrong[_i].offset;
    uint64_t be = GUINT64_TO_BE(wrong[_i].value);

    make_image(3);
    memcpy(p, (uint8_t *)&be + 8 - wrong[_i].bytes, wrong[_i].bytes);
    assert_refused(CLUSTER, wrong[_i].text);
}
END_TEST

START_TEST(test_wrong_backing_name)
{
    make_image(3);
    set_backing("base");
    qcow2_put_be32(image + 16, 1024);
    assert_refused(CLUSTER, "Backing file name too long: 1024 bytes");
    qcow2_put_be32(image + 16, 5);
    assert_refused(BACKING_AT + 4, "Backing file name too long: 5 bytes");
}
END_TEST

/* A file that ends within its header, or an extension */
START_TEST(test_short_file)
{
    make_image(3);
    assert_refused(72, "qcow2 header too short: the file has 72 bytes");
    assert_refused(103, "qcow2 header too short");
    assert_refused(104, "qcow2 header exceeds");
    assert_refused(122, "Header extension too large: 0xe2792aca has 3 bytes");
}
END_TEST

/* Any byte may be anything: sanitizers and asserts watch. */
START_TEST(test_any_byte)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(_i);
    Qcow2State s;
    int n;

    for (n = 0; n < 20000; n++) {
        make_image(2 + n % 2);
        image[g_rand_int_range(rand, 8, 300)] = g_rand_int(rand);
        image[g_rand_int_range(rand, 8, 300)] = g_rand_int(rand);
        if (parse(&s, g_rand_int_range(rand, 72, CLUSTER), NULL) == 0) {
            ck_assert_int_ge(s.length, 0);
            ck_assert_uint_le(s.l1_entries, QCOW2_MAX_L1_BYTES / 8);
            qcow2_free_header(&s);
        }
    }
}
END_TEST

/* ---- rewritten ---------------------------------------------------------- */

static MemDisk *disk;
static BlockDriverState *file, *bs;

static bool open_image(bool read_only, GError **errp)
{
    g_autofree char *text =
        g_strdup_printf("{'driver':'qcow2','node-name':'q','file':'m',"
                        "'backing':null,'read-only':%s}",
                        read_only ? "true" : "false");
    g_autoptr(JsonNode) node = NULL;

    g_strdelimit(text, "'", '"');
    node = json_from_string(text, NULL);
    ck_assert(schema_check(&blockdev_options_type, node, "", false, errp));
    bdrv_graph_lock();
    bs = bdrv_open(json_node_get_object(node), errp);
    bdrv_graph_unlock();
    return bs != NULL;
}

static void close_image(void)
{
    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del("q", NULL));
    bdrv_graph_unlock();
}

static void setup(void)
{
    bdrv_graph_lock();
    file = mem_disk_new("m", IMAGE_BYTES);
    file->monitor_owned = true; /* it does not go with the image */
    bdrv_graph_unlock();
    disk = mem_disk_of(file);
}

static void teardown(void)
{
    bdrv_close_all();
}

static void put_image(void)
{
    memcpy(mem_disk_data(disk), image, IMAGE_BYTES);
}

/* Opened for writing, an image has no features that clear themselves any more;
 * everything else is as it was, also what is not known. */
START_TEST(test_autoclear)
{
    uint8_t *p = image + 128;

    make_image(3);
    qcow2_put_be64(image + 88, UINT64_C(1) << 40);
    qcow2_put_be64(image + 80, UINT64_C(1) << 50);
    qcow2_put_be32(image + 100, 128);
    memset(image + 112, 0, 200);
    memcpy(image + 112, "unknown fields!!", 16);
    put_extension(&p, QCOW2_EXT_BACKING_FORMAT, "raw", 3);
    put_extension(&p, 0x12345678, "whatever", 9);
    put_image();
    ck_assert(open_image(true, NULL));
    close_image();
    ck_assert_mem_eq(mem_disk_data(disk), image, IMAGE_BYTES);
    ck_assert(open_image(false, NULL));
    close_image();
    qcow2_put_be64(image + 88, 0);
    ck_assert_mem_eq(mem_disk_data(disk), image, IMAGE_BYTES);
}
END_TEST

START_TEST(test_corrupt)
{
    g_autoptr(GError) err = NULL;
    Qcow2State *s;

    make_image(3);
    put_image();
    ck_assert(open_image(false, NULL));
    s = bs->opaque;
    mutex_lock(&s->lock);
    qcow2_signal_corruption(s, 5, 6, "a test says so");
    mutex_unlock(&s->lock);
    ck_assert(qcow2_is_corrupt(s));
    ck_assert_uint_eq(qcow2_get_be64(mem_disk_data(disk) + 72),
                      QCOW2_INCOMPAT_CORRUPT);
    ck_assert_int_eq(qcow2_pwrite_zeroes(bs, 0, CLUSTER, 0), -EIO);
    close_image();

    ck_assert(!open_image(false, &err));
    ck_assert_str_eq(err->message, "qcow2: Image is corrupt; cannot be opened "
                                   "read/write");
    ck_assert(open_image(true, NULL));
    close_image();
}
END_TEST

/* Read-only, it is told, and nothing is written. */
START_TEST(test_corrupt_read_only)
{
    Qcow2State *s;

    make_image(3);
    put_image();
    ck_assert(open_image(true, NULL));
    s = bs->opaque;
    mutex_lock(&s->lock);
    qcow2_signal_corruption(s, -1, -1, "a test says so");
    mutex_unlock(&s->lock);
    ck_assert(!qcow2_is_corrupt(s));
    close_image();
    ck_assert_mem_eq(mem_disk_data(disk), image, IMAGE_BYTES);
}
END_TEST

/* Refcounts that are wrong, in an image that says so, are right afterwards. */
START_TEST(test_dirty)
{
    make_image(3);
    qcow2_put_be64(image + 72, QCOW2_INCOMPAT_DIRTY);
    image[2 * CLUSTER + 7] = 2; /* of the L1 table */
    image[2 * CLUSTER + 9] = 1; /* of what is free */
    put_image();
    ck_assert(open_image(true, NULL));
    close_image();
    ck_assert_mem_eq(mem_disk_data(disk), image, IMAGE_BYTES);
    ck_assert(open_image(false, NULL));
    close_image();
    make_image(3);
    ck_assert_mem_eq(mem_disk_data(disk), image, 80);
    ck_assert_mem_eq(mem_disk_data(disk) + 2 * CLUSTER, image + 2 * CLUSTER,
                     16);
}
END_TEST

static bool reopen(bool read_only, GError **errp)
{
    g_autofree char *text =
        g_strdup_printf("[{'driver':'qcow2','node-name':'q','file':'m',"
                        "'backing':null,'read-only':%s,'cache-size':0}]",
                        read_only ? "true" : "false");
    g_autoptr(JsonNode) node = NULL;
    bool ok;

    g_strdelimit(text, "'", '"');
    node = json_from_string(text, NULL);
    bdrv_graph_lock();
    ok = bdrv_reopen(json_node_get_array(node), errp);
    bdrv_graph_unlock();
    return ok;
}

/* What is done when an image is opened for writing is not left out later. */
START_TEST(test_reopen)
{
    static const struct {
        unsigned offset;
        uint64_t features;
        const char *text; /* NULL: it is possible */
    } cases[] = {
        { 72, 0, NULL },
        { 72, QCOW2_INCOMPAT_DIRTY, "the image is to be repaired" },
        { 72, QCOW2_INCOMPAT_CORRUPT, "Image is corrupt" },
        { 88, 1 << 5, "features that are to be cleared" },
    };
    g_autoptr(GError) err = NULL;

    make_image(3);
    qcow2_put_be64(image + cases[_i].offset, cases[_i].features);
    put_image();
    ck_assert(open_image(true, NULL));
    ck_assert(reopen(true, NULL));
    if (cases[_i].text) {
        ck_assert(!reopen(false, &err));
        ck_assert_msg(strstr(err->message, cases[_i].text) != NULL, "%s",
                      err->message);
        ck_assert(bdrv_is_read_only(bs));
    } else {
        ck_assert(reopen(false, NULL));
        ck_assert_int_eq(qcow2_pwrite_zeroes(bs, 0, CLUSTER, 0), 0);
        ck_assert(reopen(true, NULL));
        ck_assert_int_ne(qcow2_get_be64(mem_disk_data(disk) + 3 * CLUSTER), 0);
    }
    close_image();
    if (cases[_i].text) {
        ck_assert_mem_eq(mem_disk_data(disk), image, IMAGE_BYTES);
    }
}
END_TEST

/* A name that is longer than there is room for */
START_TEST(test_no_room)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *name = g_strnfill(CLUSTER - 200, 'x');
    Qcow2State *s;

    make_image(3);
    put_image();
    ck_assert(open_image(false, NULL));
    s = bs->opaque;
    s->backing_file = g_strdup(name);
    ck_assert_int_eq(qcow2_update_header(s, &err), -ENOSPC);
    ck_assert_ptr_nonnull(strstr(err->message, "more than a cluster of 65536"));
    ck_assert_mem_eq(mem_disk_data(disk), image, IMAGE_BYTES);
    g_free(s->backing_file);
    s->backing_file = g_strdup("short");
    ck_assert_int_eq(qcow2_update_header(s, NULL), 0);
    close_image();
    memcpy(image, mem_disk_data(disk), CLUSTER);
    ck_assert_int_eq(qcow2_get_be32(image + 16), 5);
    ck_assert_mem_eq(image + qcow2_get_be64(image + 8), "short", 5);
}
END_TEST

/* The part that a disk may tear is there before what refers to it. */
START_TEST(test_order)
{
    Qcow2State *s;
    int64_t flushes;

    make_image(3);
    put_image();
    ck_assert(open_image(false, NULL));
    s = bs->opaque;
    s->backing_file = g_strnfill(600, 'x');
    mem_disk_fail(disk, MEM_WRITE, 1, EIO);
    ck_assert_int_eq(qcow2_update_header(s, NULL), -EIO);
    ck_assert_mem_eq(mem_disk_data(disk), image, 512);
    ck_assert_int_eq(mem_disk_data(disk)[700], 'x');
    flushes = mem_disk_count(disk, MEM_FLUSH);
    ck_assert_int_eq(qcow2_update_header(s, NULL), 0);
    ck_assert_int_eq(mem_disk_count(disk, MEM_FLUSH), flushes + 1);
    close_image();
}
END_TEST

static Suite *header_suite(void)
{
    Suite *suite = suite_create("qcow2-header");
    TCase *tc = tcase_create("parse");

    tcase_add_loop_test(tc, test_valid, 0, 2);
    tcase_add_test(tc, test_v2_has_no_features);
    tcase_add_test(tc, test_l1_entries);
    tcase_add_loop_test(tc, test_wrong_field, 0, G_N_ELEMENTS(wrong));
    tcase_add_test(tc, test_wrong_backing_name);
    tcase_add_test(tc, test_short_file);
    tcase_add_loop_test(tc, test_any_byte, 0, 3);
    suite_add_tcase(suite, tc);

    tc = tcase_create("write");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_autoclear);
    tcase_add_test(tc, test_corrupt);
    tcase_add_test(tc, test_corrupt_read_only);
    tcase_add_test(tc, test_dirty);
    tcase_add_loop_test(tc, test_reopen, 0, 4);
    tcase_add_test(tc, test_no_room);
    tcase_add_test(tc, test_order);
    suite_add_tcase(suite, tc);
    return suite;
}

int main(void)
{
    return unit_main(header_suite());
}
