/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: compressed writes, against what a plain buffer has of them; and what
 * stock QEMU, where it is installed, says of the images.
 */
#include <glib/gstdio.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "block/object-types.h"
#include "block/qcow2.h"
#include "mem-disk.h"
#include "qcow2-disk.h"
#include "unit-main.h"
#include "util/object.h"

#define KIB INT64_C(1024)
#define MIB (KIB * KIB)
#define COMPRESSED BDRV_REQ_WRITE_COMPRESSED

typedef struct Config {
    const char *options; /* of qemu-img create */
    int64_t cluster, length;
} Config;

static const Config configs[] = {
    { "cluster_size=64k", 64 * KIB, 4 * MIB + 512 },
    { "cluster_size=4k,refcount_bits=8", 4 * KIB, MIB + 1536 },
    { "cluster_size=512,refcount_bits=64", 512, 200 * KIB },
    { "cluster_size=4k,refcount_bits=1", 4 * KIB, MIB },
    { "cluster_size=4k,refcount_bits=2", 4 * KIB, MIB },
    { "cluster_size=16k,compat=0.10", 16 * KIB, 2 * MIB },
    { "cluster_size=2M", 2 * MIB, 9 * MIB + 512 },
    { "cluster_size=64k,compression_type=zstd", 64 * KIB, 4 * MIB + 512 },
    { "cluster_size=2M,compression_type=zstd", 2 * MIB, 9 * MIB },
};

static const Config *config;
static BlockDriverState *file;
static BlockBackend *blk;
static uint8_t *model;
static char *dir;

/* ---- images ------------------------------------------------------------- */

/* Its exit status, or -1 where there is no such program */
static int stock(const char *line)
{
    const char *argv[] = { "sh", "-c", line, NULL };
    g_autofree char *program = g_find_program_in_path("qemu-img");
    g_autofree char *said = NULL;
    int status = 1;

    if (!program) {
        return -1;
    }
    ck_assert(g_spawn_sync(dir, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL,
                           NULL, NULL, &said, &status, NULL));
    if (status) {
        g_printerr("%s: %s\n", line, said);
    }
    return status;
}

static char *in_dir(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

static GBytes *contents(const char *name)
{
    g_autofree char *filename = in_dir(name);
    char *data;
    gsize n;

    ck_assert(g_file_get_contents(filename, &data, &n, NULL));
    return g_bytes_new_take(data, n);
}

static void open_bytes(const char *name, GBytes *image)
{
    bdrv_graph_lock();
    file = qcow2_disk_new(name, image);
    bdrv_graph_unlock();
    blk = qcow2_disk_open(file, NULL);
}

/* False: cannot be made here */
static bool open_image(const Config *c)
{
    g_autoptr(GBytes) image = NULL;

    config = c;
    if (strchr(c->options, '=')) {
        g_autofree char *line = g_strdup_printf(
            "qemu-img create -q -f qcow2 -o %s i %" G_GINT64_FORMAT, c->options,
            c->length);
        int status = stock(line);

        if (status < 0) {
            return false;
        }
        ck_assert_int_eq(status, 0);
        image = contents("i");
    } else {
        image = qcow2_disk_image(3, __builtin_ctzll(c->cluster), c->length);
    }
    model = g_malloc0(c->length);
    open_bytes("file", image);
    return true;
}

static void close_image(void)
{
    qcow2_disk_close(blk);
    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del("file", NULL));
    bdrv_graph_unlock();
    g_clear_pointer(&model, g_free);
}

static void assert_model(void)
{
    g_autofree uint8_t *buf = g_malloc(config->length);

    ck_assert_int_eq(blk_pread(blk, 0, config->length, buf, 0), 0);
    ck_assert_mem_eq(buf, model, config->length);
}

static void store(const char *name, const void *data, gsize n)
{
    g_autofree char *filename = in_dir(name);

    ck_assert(g_file_set_contents(filename, data, n, NULL));
}

/* The image as it is now, and closed, is what stock expects; "i" from now on. */
static void assert_stock(void)
{
    g_autoptr(GBytes) image = NULL;
    gsize n;
    const void *data;

    qcow2_disk_close(blk);
    qcow2_disk_record(qcow2_disk_of(file));
    image = qcow2_disk_crash(qcow2_disk_of(file), 0, NULL);
    data = g_bytes_get_data(image, &n);
    store("i", data, n);
    store("model", model, config->length);
    ck_assert_int_le(stock("qemu-img check -q -f qcow2 i"), 0);
    ck_assert_int_le(stock("qemu-img convert -f qcow2 -O raw i raw && "
                           "truncate -r model raw && cmp raw model"),
                     0);
    blk = qcow2_disk_open(file, NULL);
}

/* ---- data --------------------------------------------------------------- */

/* Of the kind of text, or of noise */
static void fill(GRand *rand, uint8_t *buf, int64_t bytes, bool noise)
{
    uint32_t word = g_rand_int(rand);
    int64_t i;

    for (i = 0; i < bytes; i++) {
        if (noise && i % 3 == 0) {
            word = g_rand_int(rand);
        }
        buf[i] = noise ? word >> (i % 3 * 8) : word + i / 50;
    }
}

static int write_packed(int64_t offset, int64_t bytes, const uint8_t *buf)
{
    struct iovec iov[2] = { { (void *)buf, bytes / 3 },
                            { (void *)(buf + bytes / 3), bytes - bytes / 3 } };
    int ret = blk_pwritev(blk, offset, bytes, iov, 2, COMPRESSED);

    if (ret == 0) {
        memcpy(model + offset, buf, bytes);
    }
    return ret;
}

/* ---- many of them ------------------------------------------------------- */

#define THREADS 4

/* The first and the last cluster that a thread changes */
static void any_request(GRand *rand, int64_t start, int64_t end)
{
    int64_t first = start + g_rand_int_range(rand, 0, end - start);
    int64_t n = g_rand_int_range(rand, 1, MIN(end - first, 3) + 1);
    int64_t offset = first * config->cluster;
    int64_t bytes = MIN(n * config->cluster, config->length - offset);
    g_autofree uint8_t *buf = g_malloc(bytes);

    switch (g_rand_int_range(rand, 0, 8)) {
    case 0:
        ck_assert_int_eq(
            blk_pwrite_zeroes(blk, offset, bytes, BDRV_REQ_MAY_UNMAP), 0);
        memset(model + offset, 0, bytes);
        break;
    case 1:
        ck_assert_int_eq(blk_pdiscard(blk, offset, bytes), 0);
        memset(model + offset, 0, bytes);
        break;
    case 2:
        ck_assert_int_eq(blk_pread(blk, offset, bytes, buf, 0), 0);
        ck_assert_mem_eq(buf, model + offset, bytes);
        break;
    case 3: /* a part of a cluster, perhaps a compressed one */
        n = MIN(bytes, 100);
        memset(buf, 77, n);
        ck_assert_int_eq(blk_pwrite(blk, offset, n, buf, 0), 0);
        memset(model + offset, 77, n);
        break;
    case 4:
        ck_assert_int_eq(blk_flush(blk), 0);
        break;
    default:
        fill(rand, buf, bytes, g_rand_int_range(rand, 0, 5) == 0);
        if (write_packed(offset, bytes, buf) == -EIO) {
            /* Something is there; clusters before that are written. */
            ck_assert_int_eq(blk_pdiscard(blk, offset, bytes), 0);
            memset(model + offset, 0, bytes);
            ck_assert_int_eq(write_packed(offset, bytes, buf), 0);
        }
        break;
    }
}

static void *own_area(void *opaque)
{
    int64_t number = GPOINTER_TO_INT(opaque);
    int64_t clusters = (config->length + config->cluster - 1) / config->cluster;
    GRand *rand = g_rand_new_with_seed(number + 1);
    int i;

    for (i = 0; i < (config->cluster > MIB ? 20 : 120); i++) {
        any_request(rand, clusters * number / THREADS,
                    clusters * (number + 1) / THREADS);
    }
    g_rand_free(rand);
    return NULL;
}

START_TEST(test_many)
{
    GThread *threads[THREADS];
    int i, round;

    if (!open_image(&configs[_i])) {
        return;
    }
    for (round = 0; round < 2; round++) {
        for (i = 0; i < THREADS; i++) {
            threads[i] = g_thread_new("user", own_area, GINT_TO_POINTER(i));
        }
        for (i = 0; i < THREADS; i++) {
            g_thread_join(threads[i]);
        }
        assert_model();
        ck_assert_int_eq(blk_flush(blk), 0);
        qcow2_disk_assert_clean(true);
        assert_stock();
        assert_model();
    }
    close_image();
}
END_TEST

/* Snapshots hold clusters of the file that go on to be filled. */
START_TEST(test_snapshots)
{
    static const Config c = { "cluster_size=64k,refcount_bits=8", 64 * KIB,
                              MIB };
    g_autofree uint8_t *buf = g_malloc(MIB);
    g_autofree uint8_t *old = g_malloc(MIB);
    GBytes *image;
    GRand *rand;
    int i;

    if (!open_image(&c)) {
        return;
    }
    rand = g_rand_new_with_seed(3);
    fill(rand, buf, MIB, false);
    ck_assert_int_eq(write_packed(0, MIB / 2, buf), 0);
    memcpy(old, model, MIB);
    assert_stock();
    ck_assert_int_le(stock("qemu-img snapshot -c s i"), 0);
    qcow2_disk_close(blk);
    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del("file", NULL));
    bdrv_graph_unlock();
    image = contents("i");
    open_bytes("file", image);
    g_bytes_unref(image);

    ck_assert_int_eq(write_packed(0, 64 * KIB, buf), -EIO);
    for (i = 0; i < 16; i++) {
        if (i % 3 == 0) {
            ck_assert_int_eq(blk_pdiscard(blk, i * 64 * KIB, 64 * KIB), 0);
            memset(model + i * 64 * KIB, 0, 64 * KIB);
        }
        if (i % 3 == 0 || i >= 8) {
            ck_assert_int_eq(write_packed(i * 64 * KIB, 64 * KIB, buf + 32 * i),
                             0);
        }
    }
    assert_model();
    qcow2_disk_assert_clean(true);
    assert_stock();
    memcpy(model, old, MIB);
    store("model", model, MIB);
    ck_assert_int_le(stock("qemu-img convert -f qcow2 -l s -O raw i raw && "
                           "cmp raw model"),
                     0);
    ck_assert_int_le(stock("qemu-img snapshot -d s i && "
                           "qemu-img check -q -f qcow2 i"),
                     0);
    g_rand_free(rand);
    close_image();
}
END_TEST

/* ---- where it goes ------------------------------------------------------ */

static const Config plain = { "", 64 * KIB, 4 * MIB };

START_TEST(test_packed_densely)
{
    g_autofree uint8_t *buf = g_malloc0(4 * MIB);
    GRand *rand = g_rand_new_with_seed(1);
    struct iovec iov[IOV_MAX + 10];
    int64_t before;
    unsigned i;

    open_image(&plain);
    before = qcow2_disk_length(qcow2_disk_of(file));
    fill(rand, buf, 2 * MIB, false);
    /* In as many pieces as no system call takes */
    for (i = 0; i < G_N_ELEMENTS(iov); i++) {
        iov[i] = (struct iovec){ buf + 100 * i, 100 };
    }
    iov[i - 1].iov_len = 2 * MIB - 100 * (i - 1);
    ck_assert_int_eq(blk_pwritev(blk, 0, 2 * MIB, iov, i, COMPRESSED), 0);
    memcpy(model, buf, 2 * MIB);
    assert_model();
    /* The L2 table, and a few clusters for 32 */
    ck_assert_int_le(qcow2_disk_length(qcow2_disk_of(file)),
                     before + 4 * 64 * KIB);
    qcow2_disk_assert_clean(true);
    assert_stock();

    /* What cannot be packed is a cluster as any other. */
    fill(rand, buf, 64 * KIB, true);
    for (i = 0; i < 64 * KIB; i++) {
        buf[i] = g_rand_int(rand);
    }
    before = qcow2_disk_length(qcow2_disk_of(file));
    ck_assert_int_eq(write_packed(3 * MIB, 64 * KIB, buf), 0);
    ck_assert_int_ge(qcow2_disk_length(qcow2_disk_of(file)),
                     before / (64 * KIB) * 64 * KIB + 64 * KIB);
    ck_assert_int_eq(write_packed(3 * MIB, 64 * KIB, buf), 0);
    assert_model();
    assert_stock();
    g_rand_free(rand);
    close_image();
}
END_TEST

/* A place that nothing refers to any more is never where the next one goes. */
START_TEST(test_given_up)
{
    g_autofree uint8_t *buf = g_malloc0(64 * KIB);
    int i;

    open_image(&plain);
    for (i = 0; i < 40; i++) {
        memset(buf, i + 1, 64 * KIB);
        ck_assert_int_eq(write_packed(i % 3 * 64 * KIB, 64 * KIB, buf), 0);
        assert_model();
        if (i % 3 == 2) {
            ck_assert_int_eq(blk_pdiscard(blk, 0, MIB), 0);
            memset(model, 0, MIB);
        }
        if (i % 5 == 0) {
            ck_assert_int_eq(blk_flush(blk), 0); /* free now */
            /* by somebody else's data, perhaps */
            memset(buf, 200, 512);
            ck_assert_int_eq(
                blk_pwrite(blk, 2 * MIB + i * 64 * KIB / 5, 512, buf, 0), 0);
            memset(model + 2 * MIB + i * 64 * KIB / 5, 200, 512);
        }
    }
    ck_assert_int_eq(blk_flush(blk), 0);
    qcow2_disk_assert_clean(true);
    assert_stock();
    close_image();
}
END_TEST

/* ---- refusals ----------------------------------------------------------- */

START_TEST(test_refused)
{
    static const Config c = { "", 64 * KIB, MIB + 512 };
    g_autofree uint8_t *buf = g_malloc0(MIB + 512);
    int64_t k = 64 * KIB;

    open_image(&c);
    ck_assert_int_eq(write_packed(512, k, buf), -EINVAL);
    ck_assert_int_eq(write_packed(0, k - 512, buf), -EINVAL);
    ck_assert_int_eq(write_packed(MIB, 511, buf), -EINVAL);
    ck_assert_int_eq(write_packed(MIB, 1024, buf), -EIO); /* behind the end */
    ck_assert_int_eq(write_packed(MIB, 0, buf), 0);
    memset(buf, 1, MIB + 512);
    ck_assert_int_eq(write_packed(MIB, 512, buf), 0);
    ck_assert_int_eq(write_packed(MIB, 512, buf), -EIO);

    /* Data; zeroes that have a place; those that have none */
    ck_assert_int_eq(blk_pwrite(blk, 0, 2 * k, buf, 0), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, k, k, 0), 0);
    ck_assert_int_eq(blk_pwrite_zeroes(blk, 2 * k, k, BDRV_REQ_MAY_UNMAP), 0);
    memcpy(model, buf, k);
    ck_assert_int_eq(write_packed(0, k, buf), -EIO);
    ck_assert_int_eq(write_packed(k, k, buf), -EIO);
    ck_assert_int_eq(write_packed(2 * k, k, buf), 0);
    assert_model();
    qcow2_disk_assert_clean(true);
    close_image();
}
END_TEST

static BlockDriverState *add_node(const char *text)
{
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs;

    ck_assert(schema_check(&blockdev_options_type, node, "", false, &err));
    bs = bdrv_open(json_node_get_object(node), &err);
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    return bs;
}

/* Through what stands on an image, or on something else */
START_TEST(test_other_nodes)
{
    static const struct {
        const char *options;
        bool can;
    } above[] = {
        { "\"driver\":\"throttle\",\"throttle-group\":\"g\",\"file\":\"q\"",
          true },
        { "\"driver\":\"throttle\",\"throttle-group\":\"g\","
          "\"detect-zeroes\":\"on\",\"file\":\"q\"",
          true },
        { "\"driver\":\"raw\",\"file\":\"q\"", false },
        { "\"driver\":\"throttle\",\"throttle-group\":\"g\","
          "\"file\":{\"driver\":\"null-co\",\"size\":1048576}",
          false },
    };
    g_autoptr(JsonNode) group = json_from_string(
        "{\"qom-type\":\"throttle-group\",\"id\":\"g\"}", NULL);
    g_autofree char *text =
        g_strdup_printf("{%s,\"node-name\":\"top\"}", above[_i].options);
    g_autofree uint8_t *buf = g_malloc0(64 * KIB);
    BlockBackend *user = blk_new(
        "test", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL);
    BlockDriverState *top;

    open_image(&plain);
    ck_assert(object_add_from_options(json_node_get_object(group), NULL));
    bdrv_graph_lock();
    top = add_node(text);
    ck_assert(blk_attach(user, top, NULL));
    ck_assert(bdrv_can_compress(top) == above[_i].can);
    bdrv_graph_unlock();
    if (above[_i].can) {
        bool zero_write = top->detect_zeroes;

        ck_assert_int_eq(blk_pwrite(user, 0, 64 * KIB, buf, COMPRESSED), 0);
        ck_assert_int_eq(blk_pwrite(user, 0, 64 * KIB, buf, COMPRESSED),
                         zero_write ? 0 : -EIO);
        ck_assert_int_eq(blk_pwrite(user, 5, 64 * KIB, buf, COMPRESSED),
                         zero_write ? 0 : -EINVAL);
        memset(buf, 5, 64 * KIB);
        ck_assert_int_eq(
            blk_pwrite(user, MIB, 64 * KIB, buf, COMPRESSED | BDRV_REQ_FUA), 0);
        ck_assert_uint_ge(qcow2_disk_flushes(qcow2_disk_of(file)), 1);
        memcpy(model + MIB, buf, 64 * KIB);
    } else {
        ck_assert_int_eq(blk_pwrite(user, 0, 64 * KIB, buf, COMPRESSED),
                         -ENOTSUP);
    }
    assert_model();
    bdrv_graph_lock();
    blk_free(user);
    ck_assert(bdrv_monitor_del("top", NULL));
    bdrv_graph_unlock();
    ck_assert(object_del("g", NULL));
    close_image();
}
END_TEST

/* ---- failures and crashes ----------------------------------------------- */

/* What could not be written goes back, and the image is whole. */
START_TEST(test_failures)
{
    static const Config c = { "", 4 * KIB, MIB };
    GRand *rand = g_rand_new_with_seed(2);
    g_autofree uint8_t *buf = g_malloc(4 * KIB);
    int64_t offset;
    int failed = 0;

    open_image(&c);
    for (offset = 0; offset < c.length; offset += c.cluster) {
        fill(rand, buf, c.cluster, false);
        qcow2_disk_fail(qcow2_disk_of(file), g_rand_int_range(rand, 0, 3), 1);
        if (write_packed(offset, c.cluster, buf) == -EIO) {
            failed++;
        }
        qcow2_disk_fail(qcow2_disk_of(file), 0, 0);
    }
    ck_assert_int_gt(failed, 5);
    assert_model();
    ck_assert_int_eq(blk_flush(blk), 0);
    qcow2_disk_assert_clean(false);
    g_rand_free(rand);
    close_image();
}
END_TEST

/* Data that could not be written has had a place of its own, or shared one. */
START_TEST(test_nothing_leaks)
{
    g_autofree uint8_t *buf = g_malloc0(64 * KIB);
    GRand *rand = g_rand_new_with_seed(4);
    int64_t i;

    open_image(&plain);
    ck_assert_int_eq(write_packed(0, 64 * KIB, buf), 0); /* the L2 table */
    for (i = 1; i < 64; i++) {
        fill(rand, buf, 64 * KIB, i % 2);
        if (i % 3) {
            qcow2_disk_fail(qcow2_disk_of(file), 0, 1);
            ck_assert_int_eq(write_packed(i * 64 * KIB, 64 * KIB, buf), -EIO);
        } else {
            ck_assert_int_eq(write_packed(i * 64 * KIB, 64 * KIB, buf), 0);
        }
    }
    assert_model();
    ck_assert_int_eq(blk_flush(blk), 0);
    qcow2_disk_assert_clean(true);
    assert_stock();
    g_rand_free(rand);
    close_image();
}
END_TEST

/* A cluster is old or new, and whole, wherever the machine stops. */
START_TEST(test_crash)
{
    static const Config c = { "", 4 * KIB, 256 * KIB };
    GRand *rand = g_rand_new_with_seed(_i);
    g_autofree uint8_t *buf = g_malloc(c.length);
    Qcow2Disk *disk;
    unsigned n;
    int64_t i, k;

    open_image(&c);
    disk = qcow2_disk_of(file);
    qcow2_disk_record(disk);
    for (i = 0; i < 150; i++) {
        int64_t offset = g_rand_int_range(rand, 0, 64) * c.cluster;

        memset(buf, offset / c.cluster + 1, c.cluster);
        ck_assert_int_eq(blk_pdiscard(blk, offset, c.cluster), 0);
        ck_assert_int_eq(
            blk_pwrite(blk, offset, c.cluster, buf, i % 4 ? COMPRESSED : 0), 0);
        if (i % 10 == 9) {
            ck_assert_int_eq(blk_flush(blk), 0);
        }
    }
    qcow2_disk_close(blk);
    for (n = 1; n <= qcow2_disk_recorded(disk); n++) {
        g_autoptr(GBytes) some = qcow2_disk_crash(disk, n, rand);
        BlockDriverState *whole = file;

        open_bytes("left", some);
        qcow2_disk_assert_clean(false);
        ck_assert_int_eq(blk_pread(blk, 0, c.length, buf, 0), 0);
        for (i = 0; i < c.length; i += c.cluster) {
            for (k = 1; k < c.cluster && buf[i + k] == buf[i]; k++) {
            }
            ck_assert_int_eq(k, c.cluster);
            ck_assert(buf[i] == 0 || buf[i] == i / c.cluster + 1);
        }
        qcow2_disk_close(blk);
        bdrv_graph_lock();
        ck_assert(bdrv_monitor_del("left", NULL));
        bdrv_graph_unlock();
        file = whole;
    }
    blk = qcow2_disk_open(file, NULL);
    g_rand_free(rand);
    close_image();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("qcow2-compress");
    TCase *tc = tcase_create("compress");
    g_autofree char *line = NULL;
    int status;

    dir = g_dir_make_tmp("qcow2-compress-XXXXXX", NULL);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_many, 0, G_N_ELEMENTS(configs));
    tcase_add_test(tc, test_snapshots);
    tcase_add_test(tc, test_packed_densely);
    tcase_add_test(tc, test_given_up);
    tcase_add_test(tc, test_refused);
    tcase_add_loop_test(tc, test_other_nodes, 0, 4);
    tcase_add_test(tc, test_failures);
    tcase_add_test(tc, test_nothing_leaks);
    tcase_add_loop_test(tc, test_crash, 0, 3);
    suite_add_tcase(s, tc);
    status = unit_main(s);
    line = g_strdup_printf("rm -rf '%s'", dir);
    return g_spawn_command_line_sync(line, NULL, NULL, NULL, NULL) ? status : 1;
}
