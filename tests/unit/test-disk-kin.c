/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which disks are the same below (block/disk-kin.c), in a sysfs made of files.
 */
#include <check.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "block/disk-kin.h"
#include "loop-device.h"
#include "test-fs.h"
#include "unit-main.h"

static char *sysfs;

static void put(const char *dir, const char *name, const char *text)
{
    g_autofree char *folder = g_build_filename(sysfs, dir, NULL);
    g_autofree char *file = g_build_filename(folder, name, NULL);

    ck_assert_int_eq(g_mkdir_with_parents(folder, 0755), 0);
    ck_assert(g_file_set_contents(file, text, -1, NULL));
}

static void put_link(const char *name, const char *target)
{
    g_autofree char *file = g_build_filename(sysfs, name, NULL);
    g_autofree char *folder = g_path_get_dirname(file);

    ck_assert_int_eq(g_mkdir_with_parents(folder, 0755), 0);
    ck_assert_int_eq(symlink(target, file), 0);
}

/* @path: below devices/ */
static void put_device(const char *path, unsigned major_no, unsigned minor_no)
{
    g_autofree char *dir = g_build_filename("devices", path, NULL);
    g_autofree char *number = g_strdup_printf("%u:%u\n", major_no, minor_no);
    g_autofree char *name =
        g_strdup_printf("dev/block/%u:%u", major_no, minor_no);
    g_autofree char *target = g_build_filename("../../devices", path, NULL);

    put(dir, "dev", number);
    put_link(name, target);
}

static void put_slave(const char *path, const char *slave, const char *target)
{
    g_autofree char *name =
        g_build_filename("devices", path, "slaves", slave, NULL);

    put_link(name, target);
}

/* sda with sda1 and sda2, a volume on sda2, another on that and on sdb */
static void setup(void)
{
    sysfs = g_build_filename(test_fs_top, "sys", NULL);
    put_device("sda", 8, 0);
    put_device("sda/sda1", 8, 1);
    put("devices/sda/sda1", "partition", "1\n");
    put_device("sda/sda2", 8, 2);
    put("devices/sda/sda2", "partition", "2\n");
    put_device("sdb", 8, 16);
    put_device("dm-0", 253, 0);
    put_slave("dm-0", "sda2", "../../sda/sda2");
    put_device("dm-1", 253, 1);
    put_slave("dm-1", "dm-0", "../../dm-0");
    put_slave("dm-1", "sdb", "../../sdb");
}

static void teardown(void)
{
    g_autofree char *rm = g_strdup_printf("rm -rf %s", sysfs);

    ck_assert_int_eq(system(rm), 0);
    g_free(sysfs);
}

static DiskId device(unsigned major_no, unsigned minor_no)
{
    return (DiskId){ .device = true, .dev = makedev(major_no, minor_no) };
}

static GArray *below(unsigned major_no, unsigned minor_no)
{
    DiskId id = device(major_no, minor_no);

    return disk_kin_below(sysfs, &id);
}

static bool has(GArray *array, DiskId id)
{
    guint i;

    for (i = 0; i < array->len; i++) {
        if (disk_id_equal(&id, &g_array_index(array, DiskId, i))) {
            return true;
        }
    }
    return false;
}

START_TEST(test_alone)
{
    g_autoptr(GArray) whole = below(8, 0);
    g_autoptr(GArray) unheard = below(9, 9);
    DiskId id = { .dev = makedev(8, 1), .ino = 1 };
    g_autoptr(GArray) file = disk_kin_below(sysfs, &id);

    ck_assert_int_eq(whole->len, 0);
    ck_assert_int_eq(unheard->len, 0);
    ck_assert_int_eq(file->len, 0);
}
END_TEST

START_TEST(test_partition)
{
    g_autoptr(GArray) part = below(8, 1);

    ck_assert_int_eq(part->len, 1);
    ck_assert(has(part, device(8, 0)));
}
END_TEST

START_TEST(test_stacked)
{
    g_autoptr(GArray) volume = below(253, 0);
    g_autoptr(GArray) upper = below(253, 1);

    ck_assert_int_eq(volume->len, 2);
    ck_assert(has(volume, device(8, 2)));
    ck_assert(has(volume, device(8, 0)));
    ck_assert_int_eq(upper->len, 4);
    ck_assert(has(upper, device(253, 0)));
    ck_assert(has(upper, device(8, 2)));
    ck_assert(has(upper, device(8, 0)));
    ck_assert(has(upper, device(8, 16)));
}
END_TEST

/* The same below twice, or even itself: looking comes to an end. */
START_TEST(test_circle)
{
    g_autoptr(GArray) found = NULL;

    put_slave("dm-0", "dm-1", "../../dm-1");
    found = below(253, 1);
    ck_assert_int_eq(found->len, 5);
}
END_TEST

/* By name, where the loop device itself cannot be asked: there is none of that
 * number. */
START_TEST(test_backing_name)
{
    g_autofree char *file = g_build_filename(test_fs_top, "backing", NULL);
    g_autofree char *line = g_strconcat(file, "\n", NULL);
    g_autoptr(GArray) found = NULL;
    struct stat st;
    DiskId id;

    ck_assert(g_file_set_contents(file, "", 0, NULL));
    ck_assert_int_eq(stat(file, &st), 0);
    id = disk_id_of(&st);
    put_device("loop999999", 7, 999999);
    put("devices/loop999999/loop", "backing_file", line);
    found = below(7, 999999);
    ck_assert_int_eq(found->len, 1);
    ck_assert(has(found, id));
    put_link("block/loop999999", "../devices/loop999999");
    ck_assert(disk_kin_is_claimed(sysfs, &id, -1));
    ck_assert_int_eq(g_remove(file), 0);
    ck_assert(!disk_kin_is_claimed(sysfs, &id, -1));
}
END_TEST

/* By the kernel's own word, whatever the name says */
START_TEST(test_backing_file)
{
    g_autofree char *file = g_build_filename(test_fs_top, "backing", NULL);
    g_autofree char *moved = g_build_filename(test_fs_top, "moved", NULL);
    LoopDevice *loop, *second;
    g_autoptr(GArray) found = NULL;
    g_autoptr(GArray) found_two = NULL;
    struct stat st, loop_st, second_st;
    DiskId id, loop_id, second_id;

    ck_assert(g_file_set_contents(file, "", 0, NULL));
    ck_assert_int_eq(truncate(file, 1 << 20), 0);
    ck_assert_int_eq(stat(file, &st), 0);
    id = disk_id_of(&st);
    ck_assert(!disk_kin_is_claimed("/sys", &id, -1));
    loop = loop_device_new(file, NULL);
    ck_assert_int_eq(fstat(loop->fd, &loop_st), 0);
    loop_id = disk_id_of(&loop_st);
    ck_assert(!disk_kin_is_claimed("/sys", &loop_id, loop->fd));
    /* a loop device on a loop device */
    second = loop_device_new(loop->node, NULL);
    ck_assert_int_eq(fstat(second->fd, &second_st), 0);
    second_id = disk_id_of(&second_st);
    ck_assert_int_eq(link(file, moved), 0);
    ck_assert_int_eq(g_remove(file), 0);

    found = disk_kin_below("/sys", &loop_id);
    ck_assert_int_eq(found->len, 1);
    ck_assert(has(found, id));
    ck_assert(disk_kin_is_claimed("/sys", &id, -1));
    found_two = disk_kin_below("/sys", &second_id);
    ck_assert_int_eq(found_two->len, 2);
    ck_assert(has(found_two, loop_id));
    ck_assert(has(found_two, id));
    ck_assert(disk_kin_is_claimed("/sys", &loop_id, loop->fd));
    loop_device_free(second);
    loop_device_free(loop);
    g_remove(moved);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("disk-kin");
    TCase *tc = tcase_create("disk-kin");
    int ret;

    test_fs_set_up_plain();
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, test_alone);
    tcase_add_test(tc, test_partition);
    tcase_add_test(tc, test_stacked);
    tcase_add_test(tc, test_circle);
    tcase_add_test(tc, test_backing_name);
    if (loop_device_possible()) {
        tcase_add_test(tc, test_backing_file);
    }
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
