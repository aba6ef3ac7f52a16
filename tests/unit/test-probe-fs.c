/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Probes of files on real file systems: ext4, XFS and btrfs on loop devices
 * (as root), and tmpfs
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "block/status-probe.h"
#include "loop-fs.h"
#include "unit-main.h"

#define BLOCK 4096
#define MIB (INT64_C(1) << 20)

static const struct {
    const char *name;
    const char *mkfs; /* NULL: a memfd, which is tmpfs */
    bool unwritten;   /* fallocate() leaves no data in SEEK_DATA's eyes */
} kinds[] = {
    { "tmpfs", NULL, false },
    { "ext4", "mkfs.ext4 -q -F -b 4096 -O inline_data", true },
    { "xfs", "mkfs.xfs -q -f -m reflink=1", true },
    { "btrfs", "mkfs.btrfs -q -f", true },
};
enum {
    TMPFS,
    EXT4,
    XFS,
    BTRFS
};

static LoopFs *file_systems[G_N_ELEMENTS(kinds)];

/* ---- files -------------------------------------------------------------- */

static int kind; /* of the test that runs */

/* A new file of @size bytes, all hole; it has no name. */
static int new_file(int64_t size)
{
    int fd;

    if (kinds[kind].mkfs) {
        /* not O_TMPFILE: ext4 gives such files no room for inline data */
        g_autofree char *path =
            g_strconcat(file_systems[kind]->dir, "/disk", NULL);

        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        unlink(path);
    } else {
        fd = memfd_create("disk", MFD_CLOEXEC);
    }
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, size), 0);
    /* no pages but those of what is read: no read-ahead */
    ck_assert_int_eq(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);
    return fd;
}

static void put(int fd, int64_t offset, int64_t bytes)
{
    g_autofree char *buf = g_malloc(bytes);

    memset(buf, 0x5a, bytes);
    ck_assert_int_eq(pwrite(fd, buf, bytes, offset), bytes);
}

/* All data is on disk, and no pages are left. */
/* Are there pages of the file? */
static bool has_pages(int fd)
{
    int64_t length = lseek(fd, 0, SEEK_END);
    g_autofree unsigned char *resident = g_malloc0(length / BLOCK + 1);
    void *mapped = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
    bool found = false;
    int64_t i;

    ck_assert_ptr_ne(mapped, MAP_FAILED);
    ck_assert_int_eq(mincore(mapped, length, resident), 0);
    munmap(mapped, length);
    for (i = 0; i <= length / BLOCK; i++) {
        found |= resident[i] & 1;
    }
    return found;
}

/* The kernel leaves pages that somebody happens to look at, as reclaim does. */
static void settle(int fd)
{
    struct statfs fs;

    ck_assert_int_eq(fstatfs(fd, &fs), 0);
    if (fs.f_type == TMPFS_MAGIC) {
        return; /* pages are all there is */
    }
    do {
        ck_assert_int_eq(fsync(fd), 0);
        ck_assert_int_eq(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    } while (has_pages(fd));
}

static void read_pages(int fd, int64_t offset, int64_t bytes)
{
    g_autofree char *buf = g_malloc(bytes);

    ck_assert_int_ge(pread(fd, buf, bytes, offset), 0);
}

/* ---- maps --------------------------------------------------------------- */

/* The ways to ask: strategy, and whether cachestat(2) may be used */
static const struct {
    StatusProbeStrategy strategy;
    bool cachestat;
} ways[] = {
    { STATUS_PROBE_AUTO, true },       { STATUS_PROBE_AUTO, false },
    { STATUS_PROBE_USE_FIEMAP, true }, { STATUS_PROBE_USE_FIEMAP, false },
    { STATUS_PROBE_USE_SEEK, true },
};

/* What is said of the file, a letter a block, to be freed */
static char *map_file(int fd, int way)
{
    StatusCacheOptions options = {
        .length = lseek(fd, 0, SEEK_END),
        .granularity = BLOCK,
        .mode = STATUS_CACHE_ON,
    };
    g_autoptr(StatusCache) cache = status_cache_new(&options, NULL);
    g_autoptr(StatusProbe) probe = status_probe_new(fd, ways[way].strategy);
    GString *map = g_string_new(NULL);
    int64_t offset, pnum;

    if (!ways[way].cachestat) {
        status_probe_disable_cachestat(probe);
    }
    for (offset = 0; offset < options.length; offset += pnum) {
        int r = status_query(cache, probe, offset, 1, &pnum, NULL);

        ck_assert_int_ge(r, 0);
        ck_assert_int_gt(pnum, 0);
        while ((int64_t)map->len * BLOCK < offset + pnum) {
            g_string_append_c(map, r == BLOCK_STATE_ZERO ? 'z' : 'd');
        }
    }
    return g_string_free(map, FALSE);
}

static bool block_is_zero(int fd, int block)
{
    char buf[BLOCK], zero[BLOCK] = { 0 };
    ssize_t n = pread(fd, buf, BLOCK, (int64_t)block * BLOCK);

    ck_assert_int_ge(n, 0);
    return memcmp(buf, zero, n) == 0;
}

/*
 * Is each block of [@start, @end), in bytes, called zero (all else: data)? In
 * any case none may be that is not.
 */
typedef struct Expected {
    int64_t start, end;
} Expected;

static void check_map(int fd, const Expected *zeroes, int n)
{
    g_autoptr(GPtrArray) maps = g_ptr_array_new_with_free_func(g_free);
    size_t way;
    int i, j;

    for (way = 0; way < G_N_ELEMENTS(ways); way++) {
        g_ptr_array_add(maps, map_file(fd, way));
    }
    /* reading leaves pages, so that comes last */
    for (way = 0; way < G_N_ELEMENTS(ways); way++) {
        const char *map = g_ptr_array_index(maps, way);

        for (i = 0; map[i]; i++) {
            ck_assert_msg(map[i] == 'd' || block_is_zero(fd, i),
                          "%s, way %zu: block %d is called zero",
                          kinds[kind].name, way, i);
        }
        for (j = 0; j < n; j++) {
            for (i = zeroes[j].start / BLOCK;
                 i < (zeroes[j].end + BLOCK - 1) / BLOCK; i++) {
                ck_assert_msg(map[i] == 'z',
                              "%s, way %zu: block %d is called data",
                              kinds[kind].name, way, i);
            }
        }
    }
}

#define CHECK_MAP(fd, ...)                                                     \
    do {                                                                       \
        static const Expected zeroes[] = { __VA_ARGS__ };                      \
        check_map(fd, zeroes, G_N_ELEMENTS(zeroes));                           \
    } while (0)

/* ---- tests, each for every file system ---------------------------------- */

static bool start_test(int i)
{
    kind = i;
    return !kinds[i].mkfs || file_systems[i];
}

START_TEST(test_holes)
{
    int fd;

    if (!start_test(_i)) {
        return;
    }
    fd = new_file(8 * MIB);
    CHECK_MAP(fd, { 0, 8 * MIB });
    put(fd, MIB, MIB);
    put(fd, 5 * MIB, BLOCK);
    /* delayed allocation, where there is such a thing */
    CHECK_MAP(fd, { 0, MIB }, { 2 * MIB, 5 * MIB },
              { 5 * MIB + BLOCK, 8 * MIB });
    settle(fd);
    CHECK_MAP(fd, { 0, MIB }, { 2 * MIB, 5 * MIB },
              { 5 * MIB + BLOCK, 8 * MIB });
    /* a punched hole among data */
    ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               MIB + 3 * BLOCK, 7 * BLOCK),
                     0);
    CHECK_MAP(fd, { 0, MIB }, { MIB + 3 * BLOCK, MIB + 10 * BLOCK });
    close(fd);
}
END_TEST

START_TEST(test_unwritten)
{
    char *mapped;
    int fd;

    if (!start_test(_i) || !kinds[_i].unwritten) {
        return;
    }
    fd = new_file(8 * MIB);
    ck_assert_int_eq(fallocate(fd, 0, 0, 8 * MIB), 0);
    CHECK_MAP(fd, { 0, 8 * MIB });
    settle(fd);
    /* acknowledged data that has not changed the mapping yet */
    put(fd, MIB + 5, 10);
    CHECK_MAP(fd, { 0, MIB }, { 2 * MIB, 8 * MIB });
    settle(fd);
    CHECK_MAP(fd, { 0, MIB }, { MIB + BLOCK, 8 * MIB });
    settle(fd);
    mapped = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4 * MIB);
    ck_assert_ptr_ne(mapped, MAP_FAILED);
    madvise(mapped, MIB, MADV_RANDOM);
    mapped[3 * BLOCK] = 1;
    CHECK_MAP(fd, { 0, MIB }, { 5 * MIB, 8 * MIB });
    munmap(mapped, MIB);
    settle(fd);
    /* pages that were only read say nothing of what is far from them */
    read_pages(fd, 6 * MIB, BLOCK);
    CHECK_MAP(fd, { 0, MIB }, { 2 * MIB, 4 * MIB }, { 7 * MIB, 8 * MIB });
    close(fd);
}
END_TEST

/* Zeroed ranges: ZERO_RANGE over data */
START_TEST(test_zero_range)
{
    int fd;

    if (!start_test(_i)) {
        return;
    }
    fd = new_file(4 * MIB);
    put(fd, 0, 4 * MIB);
    settle(fd);
    if (fallocate(fd, FALLOC_FL_ZERO_RANGE, MIB + 1, MIB) == 0) {
        CHECK_MAP(fd, { MIB + BLOCK, 2 * MIB });
    } else {
        ck_assert_int_eq(errno, EOPNOTSUPP);
    }
    close(fd);
}
END_TEST

START_TEST(test_end_of_file)
{
    int fd;

    if (!start_test(_i)) {
        return;
    }
    fd = new_file(MIB + 100);
    CHECK_MAP(fd, { 0, MIB + 100 });
    put(fd, MIB + 99, 1);
    CHECK_MAP(fd, { 0, MIB });
    settle(fd);
    CHECK_MAP(fd, { 0, MIB });
    ck_assert_int_eq(ftruncate(fd, MIB + 50), 0);
    CHECK_MAP(fd, { 0, MIB });
    ck_assert_int_eq(ftruncate(fd, 2 * MIB), 0);
    CHECK_MAP(fd, { 0, MIB }, { MIB + BLOCK, 2 * MIB });
    close(fd);
}
END_TEST

/* A whole file in its inode */
START_TEST(test_small)
{
    int fd;

    if (!start_test(_i)) {
        return;
    }
    fd = new_file(60);
    put(fd, 0, 60);
    CHECK_MAP(fd, { 0, 0 });
    settle(fd);
    CHECK_MAP(fd, { 0, 0 });
    ck_assert_int_eq(ftruncate(fd, MIB), 0);
    CHECK_MAP(fd, { BLOCK, MIB });
    close(fd);
}
END_TEST

/* More extents than one window has, alternating */
START_TEST(test_many_extents)
{
    g_autofree char *map = NULL;
    int fd, i, n = 1000;
    size_t way;

    if (!start_test(_i)) {
        return;
    }
    fd = new_file(2 * n * BLOCK);
    for (i = 0; i < n; i++) {
        put(fd, 2 * i * BLOCK, BLOCK);
    }
    settle(fd);
    for (way = 0; way < G_N_ELEMENTS(ways); way++) {
        map = map_file(fd, way);
        for (i = 0; i < 2 * n; i++) {
            ck_assert_msg(map[i] == (i % 2 ? 'z' : 'd'),
                          "%s, way %zu: block %d is called %c",
                          kinds[kind].name, way, i, map[i]);
        }
        g_clear_pointer(&map, g_free);
    }
    close(fd);
}
END_TEST

/*
 * A file that shares its blocks. New data waits in XFS's COW fork; and so does
 * data written to a hole nearby, of which the mapping then says nothing.
 */
START_TEST(test_reflinked)
{
    struct fsxattr attr = { 0 };
    int fd, clone;

    if (!start_test(_i)) {
        return;
    }
    fd = new_file(8 * MIB);
    put(fd, MIB, MIB);
    settle(fd);
    clone = new_file(8 * MIB);
    if (kind == XFS) {
        attr.fsx_xflags = FS_XFLAG_COWEXTSIZE;
        attr.fsx_cowextsize = 2 * MIB;
        ck_assert_int_eq(ioctl(clone, FS_IOC_FSSETXATTR, &attr), 0);
    }
    ck_assert_int_eq(ioctl(clone, FICLONE, fd), 0);
    CHECK_MAP(clone, { 0, MIB }, { 2 * MIB, 8 * MIB });
    put(clone, MIB + 4 * BLOCK, BLOCK);
    put(clone, MIB / 2, BLOCK);
    put(clone, 2 * MIB - 1, 3);
    CHECK_MAP(clone, { 3 * MIB, 8 * MIB });
    ck_assert_int_eq(fdatasync(clone), 0);
    CHECK_MAP(clone, { 3 * MIB, 8 * MIB });
    settle(clone);
    CHECK_MAP(clone, { 0, MIB / 2 }, { 2 * MIB + BLOCK, 8 * MIB });
    CHECK_MAP(fd, { 0, MIB }, { 2 * MIB, 8 * MIB });
    close(clone);
    close(fd);
}
END_TEST

static void mount_all(void)
{
    size_t i;

    if (!loop_fs_possible()) {
        printf("# loop mounts need root: only tmpfs is tested\n");
        return;
    }
    for (i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autoptr(GError) err = NULL;

        if (kinds[i].mkfs) {
            file_systems[i] = loop_fs_mount(kinds[i].mkfs, 512 * MIB, &err);
            if (err) {
                printf("# no tests on %s: %s\n", kinds[i].name, err->message);
            }
        }
    }
}

int main(void)
{
    Suite *s = suite_create("probe-fs");
    TCase *tc = tcase_create("file systems");
    size_t i;
    int r;

    mount_all();
    tcase_add_loop_test(tc, test_holes, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, test_unwritten, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, test_zero_range, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, test_end_of_file, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, test_small, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, test_many_extents, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, test_reflinked, XFS, G_N_ELEMENTS(kinds));
    suite_add_tcase(s, tc);
    r = unit_main(s);
    for (i = 0; i < G_N_ELEMENTS(kinds); i++) {
        loop_fs_umount(file_systems[i]);
    }
    return r;
}
