/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Probes against writeback and page reclaim.
 *
 * Writers put data through the page cache into unwritten extents and
 * acknowledge it, have it written back, and drop the pages; then they zero the
 * range again, which makes it unwritten, and go on. Meanwhile others ask for the
 * block status all the time. A block that is called zero although its data was
 * acknowledged before the question, and still is there after the answer, is a
 * false zero: the program counts these, and fails if there are any.
 *
 * With --learn zeroes are written as data, and those who ask are readers: they
 * read, and teach what is all zero; what the cache says then is the answer. With
 * --learn-late they tell that they read only when they have read, which must be
 * caught, too.
 *
 * With --swap-looks the prober's looks are swapped, the mapping first and the
 * pages last, to see that such a prober would be caught. The looks are swapped
 * behind its back, in the system calls that it makes.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../unit/loop-fs.h"
#include "block/status-probe-int.h"
#include "util/error.h"
#include "util/iov.h"

#define BLOCK 4096
#define RACE_BLOCKS 8 /* those that are written and zeroed again */
#define FILE_EXTENTS PROBE_MAX_EXTENTS /* behind them */
#define MAX_RACES 16
#define FILE_SYSTEM_BYTES (INT64_C(512) << 20)

static gint64 n_writes = 2500;
static gint64 n_races = 2;
static gboolean swap_looks, no_cachestat, seek, learn, learn_late;
static gchar *directory;

static const GOptionEntry entries[] = {
    { "writes", 0, 0, G_OPTION_ARG_INT64, &n_writes, "how many in each race",
      "N" },
    { "races", 0, 0, G_OPTION_ARG_INT64, &n_races,
      "how many at once, with a file, a writer and a reader each", "N" },
    { "swap-looks", 0, 0, G_OPTION_ARG_NONE, &swap_looks,
      "the wrong order, which must be caught", NULL },
    { "no-cachestat", 0, 0, G_OPTION_ARG_NONE, &no_cachestat,
      "do as if the kernel had no cachestat(2)", NULL },
    { "seek", 0, 0, G_OPTION_ARG_NONE, &seek,
      "strategy seek, not what suits the file system", NULL },
    { "learn", 0, 0, G_OPTION_ARG_NONE, &learn,
      "readers that teach, not probes", NULL },
    { "learn-late", 0, 0, G_OPTION_ARG_NONE, &learn_late,
      "such as say so too late, which must be caught", NULL },
    { "directory", 0, 0, G_OPTION_ARG_FILENAME, &directory,
      "use a file there, not loop-mounted file systems", "DIR" },
    { NULL },
};

typedef struct Race {
    int fd;
    StatusCache *cache;
    StatusProbe *probe;
    pthread_t writer, reader;
    unsigned generation; /* odd: the data is acknowledged; atomic */
    bool finished;       /* atomic */
    int64_t queries;     /* answered; atomic */
    /* the reader's, until it has ended */
    int64_t checked;      /* with acknowledged data before and after */
    int64_t false_zeroes; /* of these */
    int64_t taught;       /* so often a read found zeroes */
} Race;

static void die(const char *what)
{
    fprintf(stderr, "status-race: %s: %s\n", what, g_strerror(errno));
    exit(2);
}

/* ---- system calls of the prober ----------------------------------------- */

/*
 * The prober may be preempted between any two of its system calls; have it so
 * more often, for else a probe is over in no time.
 */
static off_t right_lseek(int fd, off_t offset, int whence)
{
    sched_yield();
    return status_probe_linux_ops.lseek(fd, offset, whence);
}

static int right_cachestat(int fd, int64_t offset, int64_t bytes,
                           StatusPages *pages)
{
    sched_yield();
    return status_probe_linux_ops.cachestat(fd, offset, bytes, pages);
}

static int right_fiemap(int fd, struct fiemap *f)
{
    sched_yield();
    return status_probe_linux_ops.fiemap(fd, f);
}

static const StatusProbeOps right_ops = {
    .fstatfs = fstatfs,
    .lseek = right_lseek,
    .fiemap = right_fiemap,
    .cachestat = right_cachestat,
};

/* What the mapping was at the first page look of this thread's probe */
static __thread union {
    struct fiemap head;
    char room[sizeof(struct fiemap) +
              FILE_EXTENTS * sizeof(struct fiemap_extent)];
} early;
static __thread bool early_valid;

static void look_at_mapping_early(int fd, int64_t offset)
{
    if (!early_valid) {
        memset(&early.head, 0, sizeof(early.head));
        early.head.fm_start = offset;
        early.head.fm_length = FIEMAP_MAX_OFFSET - offset;
        early.head.fm_extent_count = FILE_EXTENTS;
        early_valid = status_probe_linux_ops.fiemap(fd, &early.head) == 0;
    }
}

static off_t swapped_lseek(int fd, off_t offset, int whence)
{
    if (whence == SEEK_DATA) {
        look_at_mapping_early(fd, offset);
    }
    return right_lseek(fd, offset, whence);
}

static int swapped_cachestat(int fd, int64_t offset, int64_t bytes,
                             StatusPages *pages)
{
    look_at_mapping_early(fd, offset);
    return right_cachestat(fd, offset, bytes, pages);
}

/* After a page look, the answer from before it */
static int swapped_fiemap(int fd, struct fiemap *f)
{
    uint64_t end = f->fm_start + f->fm_length;
    uint32_t i;

    if (!early_valid || early.head.fm_start > f->fm_start) {
        return right_fiemap(fd, f);
    }
    early_valid = false;
    f->fm_mapped_extents = 0;
    for (i = 0; i < early.head.fm_mapped_extents; i++) {
        const struct fiemap_extent *e = &early.head.fm_extents[i];

        if (e->fe_logical + e->fe_length > f->fm_start && e->fe_logical < end &&
            f->fm_mapped_extents < f->fm_extent_count) {
            f->fm_extents[f->fm_mapped_extents++] = *e;
        }
    }
    return 0;
}

static const StatusProbeOps swapped_ops = {
    .fstatfs = fstatfs,
    .lseek = swapped_lseek,
    .fiemap = swapped_fiemap,
    .cachestat = swapped_cachestat,
};

/* ---- writers ------------------------------------------------------------ */

static void write_bytes(Race *r, int byte)
{
    char buf[RACE_BLOCKS * BLOCK];
    StatusOp op;
    ssize_t n;

    memset(buf, byte, sizeof(buf));
    status_cache_write_begin(r->cache, &op, 0, sizeof(buf));
    n = pwrite(r->fd, buf, sizeof(buf), 0);
    status_cache_write_end(r->cache, &op, n == sizeof(buf));
    if (n != sizeof(buf)) {
        die("write");
    }
}

static void write_blocks(Race *r)
{
    write_bytes(r, 0x5a);
    __atomic_add_fetch(&r->generation, 1, __ATOMIC_SEQ_CST);
}

static void zero_blocks(Race *r)
{
    StatusOp op;

    __atomic_add_fetch(&r->generation, 1, __ATOMIC_SEQ_CST);
    if (learn) {
        write_bytes(r, 0);
        return;
    }
    status_cache_zero_begin(r->cache, &op, 0, RACE_BLOCKS * BLOCK, false);
    if (fallocate(r->fd, FALLOC_FL_ZERO_RANGE, 0, RACE_BLOCKS * BLOCK) < 0) {
        die("fallocate");
    }
    status_cache_zero_end(r->cache, &op, true);
}

/* A question that was under way is answered while the data is still there. */
static void wait_for_answers(Race *r)
{
    int64_t queries = __atomic_load_n(&r->queries, __ATOMIC_ACQUIRE);

    while (__atomic_load_n(&r->queries, __ATOMIC_ACQUIRE) < queries + 2) {
        sched_yield();
    }
}

static void *writer(void *opaque)
{
    Race *r = opaque;
    int64_t i;

    for (i = 0; i < n_writes; i++) {
        write_blocks(r);
        if (learn) {
            wait_for_answers(r);
            zero_blocks(r);
            wait_for_answers(r);
            continue;
        }
        /* no fdatasync(): the journal has nothing to do with this race */
        sync_file_range(r->fd, 0, RACE_BLOCKS * BLOCK, SYNC_FILE_RANGE_WRITE);
        sync_file_range(r->fd, 0, RACE_BLOCKS * BLOCK,
                        SYNC_FILE_RANGE_WAIT_BEFORE);
        posix_fadvise(r->fd, 0, RACE_BLOCKS * BLOCK, POSIX_FADV_DONTNEED);
        wait_for_answers(r);
        zero_blocks(r);
    }
    __atomic_store_n(&r->finished, true, __ATOMIC_RELEASE);
    return NULL;
}

/* ---- readers ------------------------------------------------------------ */

/* Read a block and teach that it is zero, if it is; what the cache says then */
static int read_and_teach(Race *r)
{
    char buf[BLOCK];
    StatusOp op;
    int64_t pnum;
    bool told = !learn_late && status_cache_read_begin(r->cache, &op, 0, BLOCK);

    if (pread(r->fd, buf, BLOCK, 0) != BLOCK) {
        return -errno;
    }
    sched_yield();
    told = told ||
           (learn_late && status_cache_read_begin(r->cache, &op, 0, BLOCK));
    if (told && buffer_is_zero(buf, BLOCK)) {
        status_cache_read_fill(r->cache, &op, 0, BLOCK);
        r->taught++;
    }
    if (told) {
        status_cache_read_end(r->cache, &op);
    }
    return status_cache_peek(r->cache, 0, BLOCK, &pnum);
}

static int ask(Race *r)
{
    int64_t pnum;

    if (learn) {
        return read_and_teach(r);
    }
    /* nothing is known, as the memory limit may have it at any time */
    status_cache_forget(r->cache, 0, status_cache_length(r->cache));
    return status_query(r->cache, r->probe, 0, BLOCK, &pnum, NULL);
}

static void *reader(void *opaque)
{
    Race *r = opaque;
    unsigned before, after;
    int result;

    while (!__atomic_load_n(&r->finished, __ATOMIC_ACQUIRE)) {
        before = __atomic_load_n(&r->generation, __ATOMIC_SEQ_CST);
        result = ask(r);
        after = __atomic_load_n(&r->generation, __ATOMIC_SEQ_CST);
        if (result < 0) {
            errno = -result;
            die("block status");
        }
        if (before == after && after % 2) {
            r->checked++;
            r->false_zeroes += result == BLOCK_STATE_ZERO;
        }
        __atomic_add_fetch(&r->queries, 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

/* ---- one race ----------------------------------------------------------- */

static int new_file(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0) {
        die(path);
    }
    g_unlink(path);
    return fd;
}

/* The race's blocks, and others behind them */
static int make_file(const char *dir)
{
    int fd = new_file(dir, "status-race");
    int spacer = new_file(dir, "status-race-spacer");
    int64_t start = RACE_BLOCKS * BLOCK;
    int i;

    if (fallocate(fd, 0, 0, start) < 0) {
        die("fallocate");
    }
    for (i = 0; i < FILE_EXTENTS; i++) {
        if (fallocate(spacer, 0, i * BLOCK, BLOCK) < 0 ||
            fallocate(fd, 0, start + i * BLOCK, BLOCK) < 0) {
            die("fallocate");
        }
    }
    close(spacer);
    return fd;
}

static void start_race(Race *r, const char *dir, StatusCacheMode mode)
{
    StatusCacheOptions options = {
        .length = (RACE_BLOCKS + FILE_EXTENTS) * BLOCK,
        .granularity = BLOCK,
        .mode = mode,
    };

    r->fd = make_file(dir);
    r->cache = status_cache_new(&options, NULL);
    r->probe = status_probe_new_with_ops(
        r->fd, seek ? STATUS_PROBE_USE_SEEK : STATUS_PROBE_AUTO,
        swap_looks ? &swapped_ops : &right_ops);
    if (no_cachestat) {
        status_probe_disable_cachestat(r->probe);
    }
    if (pthread_create(&r->writer, NULL, writer, r) ||
        pthread_create(&r->reader, NULL, reader, r)) {
        die("thread");
    }
}

/* Returns how many false zeroes there were. */
static int64_t race(const char *name, const char *dir, StatusCacheMode mode)
{
    g_autofree Race *races = g_new0(Race, n_races);
    int64_t start = g_get_monotonic_time();
    int64_t queries = 0, checked = 0, bad = 0, taught = 0, i;
    const char *strategy = NULL;
    bool cachestat = false;

    for (i = 0; i < n_races; i++) {
        start_race(&races[i], dir, mode);
    }
    for (i = 0; i < n_races; i++) {
        Race *r = &races[i];

        pthread_join(r->writer, NULL);
        pthread_join(r->reader, NULL);
        queries += r->queries;
        checked += r->checked;
        bad += r->false_zeroes;
        taught += r->taught;
        cachestat = status_probe_uses_cachestat(r->probe);
        strategy = status_probe_strategy_name(status_probe_strategy(r->probe));
        status_probe_free(r->probe);
        status_cache_unref(r->cache);
        close(r->fd);
    }
    printf("{\"filesystem\": \"%s\", \"mode\": \"%s\", \"swap-looks\": %s, "
           "\"strategy\": \"%s\", \"uses-cachestat\": %s, \"writes\": %" PRId64
           ", \"queries\": %" PRId64 ", \"checked\": %" PRId64
           ", \"false-zeroes\": %" PRId64 ", \"taught\": %" PRId64
           ", \"seconds\": %.1f}\n",
           name, mode == STATUS_CACHE_ON ? "on" : "off",
           swap_looks ? "true" : "false", strategy,
           cachestat ? "true" : "false", n_races * n_writes, queries, checked,
           bad, taught, (g_get_monotonic_time() - start) / 1e6);
    fflush(stdout);
    return bad;
}

static int64_t race_modes(const char *name, const char *dir)
{
    if (learn) {
        return race(name, dir, STATUS_CACHE_ON);
    }
    return race(name, dir, STATUS_CACHE_ON) + race(name, dir, STATUS_CACHE_OFF);
}

static int64_t race_on_loop(const char *name, const char *mkfs)
{
    g_autoptr(GError) err = NULL;
    LoopFs *fs = loop_fs_mount(mkfs, FILE_SYSTEM_BYTES, &err);
    int64_t bad;

    if (!fs) {
        fprintf(stderr, "status-race: no %s: %s\n", name, err->message);
        return 0;
    }
    bad = race_modes(name, fs->dir);
    loop_fs_umount(fs);
    return bad;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) err = NULL;
    int64_t bad;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err) || argc != 1) {
        fprintf(stderr, "status-race: %s\n",
                err ? err->message : "there are no arguments but options");
        return 2;
    }
    if (swap_looks && (seek || no_cachestat)) {
        /* SEEK_DATA looks at mapping and pages at once: hard to get wrong */
        fprintf(stderr, "status-race: --swap-looks is about cachestat(2), and "
                        "goes with neither --seek nor --no-cachestat\n");
        return 2;
    }
    learn |= learn_late;
    if (learn && (swap_looks || seek || no_cachestat)) {
        fprintf(stderr, "status-race: with --learn there are no probes\n");
        return 2;
    }
    if (n_races < 1 || n_races > MAX_RACES) {
        fprintf(stderr, "status-race: %" PRId64 " races: not 1 to %d\n",
                n_races, MAX_RACES);
        return 2;
    }
    if (directory) {
        bad = race_modes(directory, directory);
    } else if (loop_fs_possible()) {
        bad = race_on_loop("ext4", "mkfs.ext4 -q -F") +
              race_on_loop("xfs", "mkfs.xfs -q -f");
    } else {
        fprintf(stderr, "status-race: loop mounts need root: using %s\n",
                g_get_tmp_dir());
        bad = race_modes(g_get_tmp_dir(), g_get_tmp_dir());
    }
    return bad ? 1 : 0;
}
