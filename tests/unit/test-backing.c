/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Backing chains: what is read and reported through them, who may do what in
 * them, and what an image's header may name */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

#include "backing-fixture.h"
#include "unit-main.h"

START_TEST(test_read)
{
    char buf[3 * COW_BLOCK];
    int i;

    assert_blocks(blk, "aa0bc00aaa00b000");
    /* Not aligned, and across the end of the shortest */
    memset(buf, '?', sizeof(buf));
    ck_assert_int_eq(
        blk_pread(blk, BASE_LENGTH - COW_BLOCK - 5, sizeof(buf), buf, 0), 0);
    for (i = 0; i < (int)sizeof(buf); i++) {
        ck_assert_int_eq(buf[i], i < COW_BLOCK + 5 ? 'a' : 0);
    }
    /* What lies on none of the chain is not asked. */
    ck_assert_int_eq(mem_count(disks[2], MEM_READ), 1);
}
END_TEST

static int failing_read(MemDisk *disk, MemOp op, int64_t offset, int64_t bytes)
{
    return op == MEM_READ ? -EDOM : 0;
}

START_TEST(test_read_error)
{
    char buf[COW_BLOCK];

    disks[0]->hook = failing_read;
    ck_assert_int_eq(blk_pread(blk, 0, COW_BLOCK, buf, 0), -EDOM);
    ck_assert_int_eq(blk_pread(blk, 4 * COW_BLOCK, COW_BLOCK, buf, 0), 0);
}
END_TEST

typedef struct Want {
    int block, n; /* how many blocks it goes on */
    int flags, depth;
} Want;

#define DATA (BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED)
#define ZERO (BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED)

static void assert_status(BlockDriverState *bs, BlockDriverState *until,
                          const Want *w, size_t n)
{
    for (; n > 0; n--, w++) {
        int64_t offset = w->block * COW_BLOCK;
        BlockDriverState *file;
        int64_t pnum, map;
        int depth = -1;
        int ret = bdrv_block_status_above(bs, until, BDRV_WANT_ZERO, offset,
                                          LENGTH - offset, &pnum, &map, &file,
                                          &depth);

        ck_assert_int_ge(ret, 0);
        ck_assert_msg((ret & ~BDRV_BLOCK_OFFSET_VALID) == w->flags &&
                          pnum == w->n * COW_BLOCK && depth == w->depth,
                      "block %d: %x for %jd bytes, depth %d", w->block, ret,
                      (intmax_t)pnum, depth);
    }
}

static const Want all[] = {
    { 0, 2, DATA, 3 },
    { 1, 1, DATA, 3 },
    { 2, 1, ZERO, 3 },
    { 3, 1, DATA, 2 },
    { 4, 1, DATA, 1 },
    { 5, 1, ZERO, 2 },
    { 6, 1, ZERO, 1 },
    { 7, 3, DATA, 3 },
    { 10, 2, ZERO, 3 }, /* beyond base: as if it had them */
    { 12, 1, DATA, 2 },
    { 13, 1, ZERO, 3 },
    { 14, 2, ZERO | BDRV_BLOCK_EOF, 2 },
};

START_TEST(test_status)
{
    static const Want above_base[] = {
        { 0, 3, 0, 0 },
        { 3, 1, DATA, 2 },
        { 13, 1, 0, 0 },
        { 14, 2, ZERO | BDRV_BLOCK_EOF, 2 },
    };
    static const Want alone[] = {
        { 0, 4, 0, 0 },
        { 4, 1, DATA, 1 },
        { 5, 1, 0, 0 },
        { 7, 9, BDRV_BLOCK_EOF, 0 },
    };
    BlockDriverState *file;
    int64_t pnum, map;
    size_t i;

    assert_status(top, NULL, all, G_N_ELEMENTS(all));
    assert_status(top, base, above_base, G_N_ELEMENTS(above_base));
    assert_status(top, mid, alone, G_N_ELEMENTS(alone));
    ck_assert_int_eq(
        bdrv_block_status(top, BDRV_WANT_ZERO, 0, LENGTH, &pnum, &map, &file),
        0);
    ck_assert_int_eq(pnum, 4 * COW_BLOCK);

    /* What users get is the answer of all. */
    for (i = 0; i < G_N_ELEMENTS(all); i++) {
        int64_t offset = all[i].block * COW_BLOCK;
        int ret = blk_block_status(blk, offset, LENGTH - offset, BDRV_WANT_ZERO,
                                   &pnum);

        ck_assert_int_eq(ret & ~BDRV_BLOCK_OFFSET_VALID, all[i].flags);
        ck_assert_int_eq(pnum, all[i].n * COW_BLOCK);
        ck_assert_int_eq(blk_allocation_depth(blk, offset, 1, &pnum),
                         all[i].depth);
        ck_assert_int_eq(pnum, 1);
    }
}
END_TEST

/* When base is asked, what it has is copied above, and a guest zeroes it. */
static int copied_meanwhile(MemDisk *disk, MemOp op, int64_t offset,
                            int64_t bytes)
{
    CowState *to = disk->opaque;

    if (op == MEM_STATUS) {
        to->blocks[0] = to->blocks[1] = COW_DATA;
        memset(disk->data, 0, 4 * COW_BLOCK);
    }
    return 0;
}

START_TEST(test_status_while_copied)
{
    BlockBackend *guest = blk_new("guest", false, WRITE, ALL);
    BlockDriverState *to = _i ? top : mid;
    const Want want[] = { { 0, 2, DATA, _i ? 1 : 2 } };

    bdrv_graph_lock();
    ck_assert(blk_attach(guest, base, NULL));
    disks[0]->opaque = cow_state(to);
    disks[0]->hook = copied_meanwhile;
    assert_status(top, NULL, want, 1);
    blk_free(guest);
    bdrv_graph_unlock();
}
END_TEST

START_TEST(test_status_nothing_below)
{
    static const Want want[] = {
        { 4, 1, DATA, 1 }, { 7, 9, BDRV_BLOCK_ZERO | BDRV_BLOCK_EOF, 0 }
    };

    bdrv_graph_lock();
    bdrv_detach_child(top->backing);
    bdrv_graph_unlock();
    assert_status(top, NULL, want, G_N_ELEMENTS(want));
    assert_blocks(blk, "0000c00000000000");
}
END_TEST

/* A filter anywhere in the chain changes nothing, nor does a raw node on it. */
START_TEST(test_status_filters)
{
    static const Want on_raw[] = { { 0, 2, DATA, 1 },
                                   { 10, 2, ZERO, 1 },
                                   { 14, 2, ZERO | BDRV_BLOCK_EOF, 1 } };
    BlockDriverState *above = NULL, *between = NULL;
    BlockDriverState *raw;

    bdrv_graph_lock();
    above = bdrv_new_internal(&filter_driver, "above", NULL);
    between = bdrv_new_internal(&filter_driver, "between", NULL);
    ck_assert(bdrv_insert_filter(above, top, NULL));
    ck_assert(bdrv_insert_filter(between, mid, NULL));
    ck_assert_ptr_eq(top->backing->bs, between);
    raw = bdrv_new_internal(&(BlockDriver){ .format_name = "pass",
                                            .kind = BLOCK_DRIVER_FORMAT,
                                            .transparent = true,
                                            .block_status = cow_block_status,
                                            .instance_size = sizeof(CowState) },
                            "raw", NULL);
    cow_state(raw)->blocks = memset(g_malloc(17), COW_DATA, 17);
    ck_assert(bdrv_attach_child(raw, above, "file", NULL) != NULL);
    bdrv_graph_unlock();

    assert_status(above, NULL, all, G_N_ELEMENTS(all));
    assert_status(above, between,
                  (const Want[]){ { 0, 4, 0, 0 }, { 4, 1, DATA, 1 } }, 2);
    assert_status(raw, NULL, on_raw, G_N_ELEMENTS(on_raw));
    /* Nobody's cache speaks for an overlay. */
    ck_assert_ptr_null(bdrv_get_status_cache(above));

    bdrv_graph_lock();
    g_free(cow_state(raw)->blocks);
    bdrv_unref(raw);
    ck_assert(bdrv_remove_filter(above, NULL));
    ck_assert(bdrv_remove_filter(between, NULL));
    bdrv_unref(above);
    bdrv_unref(between);
    bdrv_graph_unlock();
}
END_TEST

/* The last cluster of an image may be longer than its file. */
START_TEST(test_status_file_ends)
{
    static const Want want[] = { { 14, 2, DATA | BDRV_BLOCK_EOF, 1 } };
    CowState *s = cow_state(top);
    BlockDriverState *file;
    int64_t pnum, map;

    s->blocks[14] = s->blocks[15] = COW_DATA;
    disks[2]->length = 14 * COW_BLOCK;
    assert_status(top, NULL, want, 1);
    ck_assert_int_eq(bdrv_block_status(top, BDRV_WANT_ZERO, 15 * COW_BLOCK, 7,
                                       &pnum, &map, &file),
                     DATA | BDRV_BLOCK_OFFSET_VALID);
    disks[2]->length = LENGTH;
}
END_TEST

START_TEST(test_flush)
{
    ck_assert_int_eq(blk_flush(blk), 0);
    ck_assert_int_eq(mem_count(disks[2], MEM_FLUSH), 1);
    ck_assert_int_eq(mem_count(disks[1], MEM_FLUSH), 0);
    ck_assert_int_eq(mem_count(disks[0], MEM_FLUSH), 0);
}
END_TEST

/* Buffers shall suit all who may fill them. */
START_TEST(test_limits)
{
    base->limits.mem_alignment = 512;
    base->limits.opt_alignment = 8192;
    base->limits.request_alignment = 512;
    ck_assert_uint_eq(blk_mem_alignment(blk), 512);
    ck_assert_uint_eq(blk_opt_alignment(blk), 8192);
    ck_assert_uint_eq(blk_request_alignment(blk), 1);
}
END_TEST

/* ---- permissions -------------------------------------------------------- */

START_TEST(test_permissions)
{
    g_autoptr(GError) err = NULL;
    BlockBackend *other = blk_new("other", false, WRITE, ALL);

    bdrv_graph_lock();
    /* Used or not, the image's own file is the image's. */
    ck_assert_uint_eq(mid->file->perm, READ | WRITE | RESIZE);
    ck_assert_uint_eq(mid->file->shared_perm, READ | UNCHANGED);
    ck_assert_uint_eq(top->backing->perm, READ);
    ck_assert_uint_eq(top->backing->shared_perm, ALL);

    /* Those who write need only read what is below; and who does not let others
     * write, does not let them do it there. */
    ck_assert(blk_set_perm(blk, READ | WRITE, ALL & ~WRITE, NULL));
    ck_assert_uint_eq(top->file->perm, READ | WRITE | RESIZE);
    ck_assert_uint_eq(top->backing->perm, READ);
    ck_assert_uint_eq(top->backing->shared_perm, READ | UNCHANGED);
    ck_assert_uint_eq(mid->backing->perm, READ);
    ck_assert_uint_eq(mid->backing->shared_perm, READ | UNCHANGED);
    ck_assert(!blk_attach(other, base, &err));
    ck_assert_str_eq(err->message,
                     "Permission conflict on node 'file0': permissions 'write' "
                     "are both required by other (uses node 'file0' as 'root' "
                     "child) and unshared by node 'mid' (uses node 'file0' as "
                     "'backing' child).");
    g_clear_error(&err);
    ck_assert(blk_set_perm(blk, READ, ALL, NULL));
    ck_assert(blk_attach(other, base, NULL));
    blk_detach(other);

    ck_assert(!blk_attach(other, files[1], &err));
    ck_assert_ptr_nonnull(strstr(err->message, "uses node 'file1' as 'file'"));
    blk_free(other);
    bdrv_graph_unlock();
}
END_TEST

START_TEST(test_permissions_read_only)
{
    MemDisk *disk = mem_disk_new(LENGTH, 1);
    BlockDriverState *file, *bs;

    bdrv_graph_lock();
    file = mem_node_new(&mem_driver, "f", disk);
    cow_next.read_only = true;
    bs = cow_new("ro", file, NULL);
    ck_assert_uint_eq(bs->file->perm, READ);
    ck_assert_uint_eq(bs->file->shared_perm, READ | UNCHANGED);
    bdrv_unref(bs);
    bdrv_unref(file);
    bdrv_graph_unlock();
    mem_disk_free(disk);
}
END_TEST

/* ---- what a header names ------------------------------------------------ */

static char *dir, *image;

static char *make_file(const char *name, const char *head)
{
    char *path = g_build_filename(dir, name, NULL);
    g_autofree char *buf = g_malloc0(LENGTH);

    memset(buf, 'z', LENGTH);
    memcpy(buf, head, strlen(head));
    ck_assert(g_file_set_contents(path, buf, LENGTH, NULL));
    return path;
}

static void set_up_files(void)
{
    memset(&cow_next, 0, sizeof(cow_next));
    dir = g_dir_make_tmp("test-backing-XXXXXX", NULL);
    ck_assert_ptr_nonnull(dir);
    image = make_file("image", "");
}

static void tear_down_files(void)
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    const char *name;

    bdrv_close_all();
    while ((name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        ck_assert_int_eq(g_unlink(path), 0);
    }
    ck_assert_int_eq(g_rmdir(dir), 0);
    g_free(dir);
    g_free(image);
}

static BlockDriverState *open_json(const char *fmt, ...)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *text = NULL;
    g_autoptr(JsonNode) node = NULL;
    BlockDriverState *bs;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_strdelimit(text, "'", '"');
    node = json_from_string(text, NULL);
    ck_assert(schema_check(&blockdev_options_type, node, "", false, &err));
    bs = bdrv_open(json_node_get_object(node), &err);
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    return bs;
}

/* Graph mutex held; the overlay of which @name is the backing file */
static BlockDriverState *open_overlay(const char *name, const char *format,
                                      GError **errp)
{
    BlockDriverState *file = bdrv_find_node("image", NULL);
    BlockDriverState *bs;

    if (!file) {
        file = bdrv_ref(open_json("{'driver':'file','node-name':'image',"
                                  "'filename':'%s'}",
                                  image));
    }
    cow_next.header_file = name;
    cow_next.header_format = format;
    bs = cow_try_new("overlay", file, errp);
    bdrv_unref(file);
    return bs;
}

static void opens(const char *name, const char *format, const char *filename)
{
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs, *below;
    struct iovec iov;
    char buf[8];

    bdrv_graph_lock();
    bs = open_overlay(name, format, &err);
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    below = bs->backing->bs;
    ck_assert_str_eq(below->drv->format_name, "raw");
    ck_assert(bdrv_is_read_only(below));
    ck_assert(bdrv_is_read_only(below->file->bs));
    ck_assert_str_eq(schema_get_str(below->file->bs->options, "filename", ""),
                     filename);
    iov = (struct iovec){ buf, sizeof(buf) };
    ck_assert_int_eq(bdrv_preadv(bs, COW_BLOCK, sizeof(buf), &iov, 1, 0), 0);
    ck_assert_mem_eq(buf, "zzzzzzzz", sizeof(buf));
    bdrv_unref(bs);
    bdrv_graph_unlock();
}

static void fails(const char *name, const char *format, const char *text)
{
    g_autoptr(GError) err = NULL;

    bdrv_graph_lock();
    ck_assert_ptr_null(open_overlay(name, format, &err));
    ck_assert(g_str_has_prefix(err->message, "Could not open backing file: "));
    ck_assert_msg(strstr(err->message, text) != NULL, "'%s' lacks '%s'",
                  err->message, text);
    bdrv_graph_unlock();
}

START_TEST(test_header)
{
    g_autofree char *raw = make_file("base", "");
    g_autofree char *with_prefix = g_strconcat("file:", raw, NULL);
    g_autofree char *qcow2 = make_file("other", "QFI\xfb");
    g_autofree char *symlink_name = g_build_filename(dir, "link", NULL);

    opens(raw, "raw", raw);
    opens(with_prefix, "raw", raw);
    opens("base", "raw", raw);
    opens("base", NULL, raw);
    /* It is what the header says. */
    opens("other", "raw", qcow2);

    fails("other", NULL, "looks like qcow2");
    fails("base", "nonsense", "Unknown driver 'nonsense'");
    fails("base", "file", "Unknown driver 'file'");
    fails("missing", "raw", "missing': No such file or directory");
    fails("nbd://localhost/x", "raw", "protocol 'nbd' is not supported");
    fails("json:{\"driver\":\"raw\"}", "raw",
          "protocol 'json' is not supported");

    fails("image", "raw", "creates an infinite loop");
    ck_assert_int_eq(symlink("image", symlink_name), 0);
    fails("link", NULL, "creates an infinite loop");
}
END_TEST

START_TEST(test_header_without_a_name)
{
    bdrv_graph_lock();
    open_json("{'driver':'null-co','node-name':'image','size':65536}");
    bdrv_graph_unlock();
    fails("base", "raw", "which has no file name");
    bdrv_graph_lock();
    ck_assert(bdrv_monitor_del("image", NULL));
    bdrv_graph_unlock();
}
END_TEST

static BlockDriverState *open_with(const char *fmt, ...)
{
    g_autoptr(GError) err = NULL;
    g_autoptr(JsonNode) node = NULL;
    g_autofree char *text = NULL;
    BlockDriverState *bs;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_strdelimit(text, "'", '"');
    node = json_from_string(text, NULL);
    ck_assert_ptr_nonnull(node);
    cow_next.options = json_node_get_object(node);
    bs = open_overlay("base", "raw", &err);
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    cow_next.options = NULL;
    return bs;
}

/* The option has the last word. */
START_TEST(test_option)
{
    g_autofree char *raw = make_file("base", "");
    g_autofree char *other = make_file("other", "");
    g_autoptr(JsonObject) bad = json_object_new();
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs, *named;

    bdrv_graph_lock();
    bs = open_with("{'backing':null}");
    ck_assert_ptr_null(bs->backing);
    bdrv_unref(bs);

    named = open_json("{'driver':'file','node-name':'named',"
                      "'filename':'%s'}",
                      other);
    bs = open_with("{'backing':'named'}");
    ck_assert_ptr_eq(bs->backing->bs, named);
    ck_assert(!bdrv_is_read_only(named));
    bdrv_unref(bs);

    bs = open_with("{'backing':{'driver':'raw','node-name':'inline',"
                   "'file':{'driver':'file','filename':'%s'}},"
                   "'force-share':false}",
                   raw);
    ck_assert_str_eq(bs->backing->bs->node_name, "inline");
    ck_assert(bdrv_is_read_only(bs->backing->bs));
    bdrv_unref(bs);

    bs = open_with("{'backing':{'driver':'file','read-only':false,"
                   "'filename':'%s'}}",
                   raw);
    ck_assert(!bdrv_is_read_only(bs->backing->bs));
    bdrv_unref(bs);

    json_object_set_string_member(bad, "backing", "nobody");
    cow_next.options = bad;
    ck_assert_ptr_null(open_overlay(NULL, NULL, &err));
    ck_assert_str_eq(err->message, "Could not open backing file: Cannot find "
                                   "device='nobody' nor node-name='nobody'");
    cow_next.options = NULL;
    bdrv_graph_unlock();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("backing");
    TCase *tc = tcase_create("chain");

    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, test_read);
    tcase_add_test(tc, test_read_error);
    tcase_add_test(tc, test_status);
    tcase_add_loop_test(tc, test_status_while_copied, 0, 2);
    tcase_add_test(tc, test_status_nothing_below);
    tcase_add_test(tc, test_status_filters);
    tcase_add_test(tc, test_status_file_ends);
    tcase_add_test(tc, test_flush);
    tcase_add_test(tc, test_limits);
    tcase_add_test(tc, test_permissions);
    tcase_add_test(tc, test_permissions_read_only);
    suite_add_tcase(s, tc);

    tc = tcase_create("header");
    tcase_add_checked_fixture(tc, set_up_files, tear_down_files);
    tcase_add_test(tc, test_header);
    tcase_add_test(tc, test_header_without_a_name);
    tcase_add_test(tc, test_option);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
