/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: stored bitmaps that make no sense are refused by what is wrong with them. */
#include <string.h>

#include "qcow2-bitmap-fixture.h"
#include "unit-main.h"

/* ---- damage --------------------------------------------------------------- */

enum {
    IN_HEADER,
    IN_DIRECTORY,
    IN_TABLE
};

static const struct {
    int where;
    unsigned at, bytes;
    uint64_t value;
    const char *message;
} damages[] = {
    { IN_HEADER, 4, 4, 23, "its length is 23, not 24" },
    { IN_HEADER, 8, 4, 0, "number of bitmaps is 0" },
    { IN_HEADER, 8, 4, 65536, "number of bitmaps is 65536" },
    { IN_HEADER, 8, 4, 3, "directory ends before bitmap 2" },
    { IN_HEADER, 8, 4, 1, "has 64 bytes, but its 1 bitmaps only 32" },
    { IN_HEADER, 12, 4, 7, "reserved field is 0x7" },
    { IN_HEADER, 16, 8, 0, "size of the directory is 0" },
    { IN_HEADER, 16, 8, 67107841, "size of the directory is 67107841" },
    { IN_HEADER, 16, 8, 60, "its entry of 32 bytes is longer" },
    { IN_HEADER, 16, 8, 67107840, "Could not read the bitmap directory" },
    { IN_HEADER, 24, 8, 0, "invalid offset of the directory: 0" },
    { IN_HEADER, 24, 8, 513, "invalid offset of the directory: 513" },
    { IN_HEADER, 24, 8, UINT64_C(1) << 56, "invalid offset of the directory" },
    { IN_HEADER, 24, 8, UINT64_MAX - 511, "invalid offset of the directory" },
    { IN_DIRECTORY, 0, 8, 0, "'a': invalid offset of its table: 0" },
    { IN_DIRECTORY, 0, 8, 100, "'a': invalid offset of its table: 100" },
    { IN_DIRECTORY, 0, 8, UINT64_C(1) << 60, "'a': invalid offset of its t" },
    { IN_DIRECTORY, 0, 8, 1 << 30, "Could not read the table of bitmap 'a'" },
    { IN_DIRECTORY, 8, 4, 0, "'a': its table has 0 entries" },
    { IN_DIRECTORY, 8, 4, 3, "'a': its table has 3 entries, not the 2" },
    { IN_DIRECTORY, 8, 4, UINT32_MAX, "'a': its table has 4294967295 entr" },
    { IN_DIRECTORY, 12, 4, 10, "'a' has unknown flags: 0x8" },
    { IN_DIRECTORY, 16, 1, 2, "'a' is of unknown type 2" },
    { IN_DIRECTORY, 17, 1, 8, "'a': granularity is 2^8" },
    { IN_DIRECTORY, 17, 1, 32, "'a': granularity is 2^32" },
    { IN_DIRECTORY, 18, 2, 0, "Bitmap 0: its name has 0 bytes" },
    { IN_DIRECTORY, 18, 2, 2000, "Bitmap 0: its entry of 2024 bytes is" },
    { IN_DIRECTORY, 20, 4, UINT32_MAX, "Bitmap 0: its entry of 4294967320 " },
    { IN_DIRECTORY, 20, 4, 4, "': extra data of 4 bytes" },
    { IN_DIRECTORY, 56, 1, 'a', "There are two bitmaps 'a'" },
    { IN_TABLE, 0, 8, 2, "'a': invalid entry 0 of its table: 0x2" },
    { IN_TABLE, 0, 8, 1025, "'a': invalid entry 0 of its table: 0x401" },
    { IN_TABLE, 8, 8, UINT64_C(1) << 63, "'a': invalid entry 1 of its table" },
    { IN_TABLE, 8, 8, 1 << 30, "Could not read bits of bitmap 'a' at offset" },
};

/* Bitmaps "a", of two clusters of bits, and "b" */
static GBytes *damaged(int i)
{
    uint8_t value[8], extension[32];
    uint64_t at[3];
    GByteArray *image;

    make_file(3, 9, 4 * MIB, -1, false);
    open_image(false);
    add("a", 512);
    add("b", 65536);
    write_at(MIB, 512);
    close_image();
    open_image(true);
    at[IN_HEADER] = 104;
    at[IN_DIRECTORY] = s->bitmaps_offset;
    at[IN_TABLE] = ((Qcow2Bitmap *)s->bitmaps->pdata[0])->table_offset;
    ck_assert_int_eq(qcow2_read_file(s, 104, 32, extension), 0);
    ck_assert_uint_eq(qcow2_get_be32(extension), QCOW2_EXT_BITMAPS);
    close_image();
    image = g_bytes_unref_to_array(get_file());
    qcow2_put_be64(value, damages[i].value);
    memcpy(image->data + at[damages[i].where] + damages[i].at,
           value + 8 - damages[i].bytes, damages[i].bytes);
    return g_byte_array_free_to_bytes(image);
}

START_TEST(test_damage)
{
    g_autoptr(GBytes) image = damaged(_i);
    int read_only;

    put_file(image);
    for (read_only = 0; read_only < 2; read_only++) {
        g_autoptr(GError) err = NULL;
        g_autoptr(GBytes) now = NULL;

        ck_assert(!try_open(read_only, &err));
        ck_assert_msg(strstr(err->message, damages[_i].message), "%s",
                      err->message);
        now = get_file();
        ck_assert(g_bytes_equal(now, image));
    }
    drop_file();
}
END_TEST

/* Many bitmaps that share their bits would take more memory than the file has. */
START_TEST(test_shared_bits)
{
    g_autoptr(GBytes) image = NULL;
    g_autoptr(GError) err = NULL;
    uint8_t entry[32];
    GByteArray *data;
    guint directory;
    int i;

    make_file(3, 9, 4 * MIB, -1, false);
    open_image(false);
    add("n00", 512);
    write_at(0, 512);
    write_at(3 * MIB, 512);
    close_image();
    open_image(true);
    qcow2_read_file(s, s->bitmaps_offset, sizeof(entry), entry);
    close_image();
    data = g_bytes_unref_to_array(get_file());
    directory = (data->len + 511) / 512 * 512;
    g_byte_array_set_size(data, directory);
    for (i = 0; i < 50; i++) {
        entry[25] = '0' + i / 10;
        entry[26] = '0' + i % 10;
        g_byte_array_append(data, entry, sizeof(entry));
    }
    qcow2_put_be32(data->data + 104 + 8, 50);
    qcow2_put_be64(data->data + 104 + 16, 50 * sizeof(entry));
    qcow2_put_be64(data->data + 104 + 24, directory);
    image = g_byte_array_free_to_bytes(data);
    put_file(image);
    ck_assert(!try_open(true, &err));
    ck_assert_msg(strstr(err->message, "together are longer than the file"),
                  "%s", err->message);
    drop_file();
}
END_TEST

/* A directory that lies where another table is must not be written to. */
START_TEST(test_directory_overlaps)
{
    g_autoptr(GBytes) image = NULL, now = NULL;
    g_autoptr(GError) err = NULL;
    uint8_t directory[64];
    GByteArray *data;

    make_file(3, 9, 4 * MIB, -1, false);
    open_image(false);
    add("a", 512);
    add("b", 65536);
    close_image();
    open_image(true);
    qcow2_read_file(s, s->bitmaps_offset, sizeof(directory), directory);
    close_image();
    data = g_bytes_unref_to_array(get_file());
    qcow2_put_be64(data->data + 104 + 24, 3 * 512); /* L1 */
    memcpy(data->data + 3 * 512, directory, sizeof(directory));
    image = g_byte_array_free_to_bytes(data);
    put_file(image);
    ck_assert(!try_open(false, &err));
    ck_assert_msg(strstr(err->message, "as being in use"), "%s", err->message);
    now = get_file();
    ck_assert_mem_eq((const uint8_t *)g_bytes_get_data(now, NULL) + 3 * 512,
                     directory, sizeof(directory));
    drop_file();
}
END_TEST

/* Nor is anything else written where the directory is. */
START_TEST(test_overlaps_directory)
{
    GByteArray *data;
    g_autoptr(GBytes) image = NULL;
    g_autofree uint8_t *buf = g_malloc0(512);
    uint64_t at;

    make_file(3, 9, MIB, -1, false);
    open_image(false);
    add("a", 512);
    close_image();
    open_image(true);
    at = s->bitmaps_offset;
    close_image();
    data = g_bytes_unref_to_array(get_file());
    ck_assert_int_eq(data->data[2 * 512 + at / 512 * 2 + 1], 1);
    memset(data->data + 2 * 512 + 8, 0, 512 - 8); /* all looks free */
    image = g_byte_array_free_to_bytes(data);
    put_file(image);
    open_image(false);
    while (blk_pwrite(blk, at, 512, buf, 0) == 0) {
        at += 512;
        ck_assert_uint_lt(at, MIB);
    }
    ck_assert(qcow2_is_corrupt(s));
    close_image();
    open_image(true);
    ck_assert(is_inconsistent("a"));
    close_all();
}
END_TEST

/* Something wrote that knows nothing of bitmaps. */
START_TEST(test_feature_is_clear)
{
    GByteArray *data;
    g_autoptr(GBytes) image = NULL;

    make_file(3, 9, MIB, 16, true);
    open_image(false);
    add("a", 512);
    write_at(0, 512);
    close_image();
    data = g_bytes_unref_to_array(get_file());
    qcow2_put_be64(data->data + 88, 0);
    image = g_byte_array_free_to_bytes(data);
    put_file(image);
    open_image(true);
    ck_assert_ptr_null(get("a"));
    close_image();
    open_image(false);
    ck_assert_ptr_null(get("a"));
    close_image();
    open_image(true);
    ck_assert_uint_eq(s->extensions->len, 1);
    ck_assert_str_eq(s->backing_file, NAME);
    qcow2_disk_assert_clean(false);
    close_all();
}
END_TEST

/* Data that nobody here knows of, and does not matter: it is kept. */
START_TEST(test_extra_data)
{
    GByteArray *data;
    g_autoptr(GBytes) image = NULL;
    const Qcow2Bitmap *b;
    uint64_t at;

    make_file(3, 9, MIB, -1, false);
    open_image(false);
    add("12345678", 512);
    write_at(0, 512);
    close_image();
    open_image(true);
    at = s->bitmaps_offset;
    close_image();
    data = g_bytes_unref_to_array(get_file());
    qcow2_put_be32(data->data + at + 12,
                   QCOW2_BITMAP_AUTO | QCOW2_BITMAP_EXTRA_COMPATIBLE);
    data->data[at + 19] = 3;
    qcow2_put_be32(data->data + at + 20, 5);
    memcpy(data->data + at + 24, "extra\377\376x", 8);
    image = g_byte_array_free_to_bytes(data);
    put_file(image);
    open_image(false);
    add("new", 512);
    write_at(65536, 512);
    close_image();
    open_image(true);
    ck_assert_uint_eq(s->bitmaps->len, 2);
    b = s->bitmaps->pdata[0];
    ck_assert_int_eq(b->flags,
                     QCOW2_BITMAP_AUTO | QCOW2_BITMAP_EXTRA_COMPATIBLE);
    ck_assert_mem_eq(g_bytes_get_data(b->extra, NULL), "extra", 5);
    /* Nor is its name UTF-8. */
    ck_assert_mem_eq(g_bytes_get_data(b->written, NULL), "\377\376x", 3);
    ck_assert_str_eq(b->name, "\357\277\275\357\277\275x");
    ck_assert_int_eq(bdrv_get_dirty_count(get(b->name)), 1024);
    qcow2_disk_assert_clean(true);
    close_all();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-bitmap-damage");
    TCase *tc = tcase_create("qcow2-bitmap-damage");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, test_damage, 0, G_N_ELEMENTS(damages));
    tcase_add_test(tc, test_shared_bits);
    tcase_add_test(tc, test_directory_overlaps);
    tcase_add_test(tc, test_overlaps_directory);
    tcase_add_test(tc, test_feature_is_clear);
    tcase_add_test(tc, test_extra_data);
    suite_add_tcase(suite, tc);
    return unit_main(suite);
}
