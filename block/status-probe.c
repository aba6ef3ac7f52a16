/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The prober of one file: its strategy, its system calls, and what the
 * strategies share.
 */
#include "block/status-probe-int.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/* The same number on all architectures but alpha */
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

/* ---- system calls ------------------------------------------------------- */

static int linux_fiemap(int fd, struct fiemap *map)
{
    return ioctl(fd, FS_IOC_FIEMAP, map);
}

static int linux_cachestat(int fd, int64_t offset, int64_t bytes,
                           StatusPages *pages)
{
    /* struct cachestat_range and struct cachestat of Linux 6.5 */
    struct {
        uint64_t off, len;
    } range = { offset, bytes };
    struct {
        uint64_t nr_cache, nr_dirty, nr_writeback, nr_evicted,
            nr_recently_evicted;
    } counts;

    if (syscall(SYS_cachestat, fd, &range, &counts, 0) < 0) {
        return -1;
    }
    pages->cached = counts.nr_cache;
    pages->evicted = counts.nr_evicted;
    return 0;
}

const StatusProbeOps status_probe_linux_ops = {
    .fstatfs = fstatfs,
    .lseek = lseek,
    .fiemap = linux_fiemap,
    .cachestat = linux_cachestat,
};

/* ---- the prober --------------------------------------------------------- */

static uint32_t file_system(int fd, const StatusProbeOps *ops)
{
    struct statfs fs = { 0 };

    return ops->fstatfs(fd, &fs) < 0 ? 0 : (uint32_t)fs.f_type;
}

static StatusProbeStrategy choose(StatusProbeStrategy strategy, uint32_t fs)
{
    if (strategy != STATUS_PROBE_AUTO) {
        return strategy;
    }
    /* EXT4_SUPER_MAGIC is that of ext2 and ext3 as well */
    return fs == EXT4_SUPER_MAGIC || fs == XFS_SUPER_MAGIC
               ? STATUS_PROBE_USE_FIEMAP
               : STATUS_PROBE_USE_SEEK;
}

StatusProbe *status_probe_new_with_ops(int fd, StatusProbeStrategy strategy,
                                       const StatusProbeOps *ops)
{
    StatusProbe *p = g_new0(StatusProbe, 1);
    uint32_t fs = file_system(fd, ops);

    p->fd = fd;
    p->ops = ops;
    p->pages_are_truth = fs == TMPFS_MAGIC;
    p->strategy = choose(strategy, fs);
    p->next_data = -1;
    p->gaps = 1; /* nothing is known of the file */
    p->max_extents = PROBE_MAX_EXTENTS;
    p->fiemap = g_malloc0(sizeof(struct fiemap) +
                          PROBE_MAX_EXTENTS * sizeof(struct fiemap_extent));
    mutex_init(&p->lock);
    return p;
}

StatusProbe *status_probe_new(int fd, StatusProbeStrategy strategy)
{
    return status_probe_new_with_ops(fd, strategy, &status_probe_linux_ops);
}

void status_probe_set_strategy(StatusProbe *p, StatusProbeStrategy strategy)
{
    strategy = choose(strategy, file_system(p->fd, p->ops));
    MUTEX_GUARD(&p->lock);

    __atomic_store_n(&p->strategy, strategy, __ATOMIC_RELAXED);
}

void status_probe_free(StatusProbe *p)
{
    if (p) {
        mutex_destroy(&p->lock);
        g_free(p->fiemap);
        g_free(p);
    }
}

StatusProbeStrategy status_probe_strategy(StatusProbe *p)
{
    return __atomic_load_n(&p->strategy, __ATOMIC_RELAXED);
}

const char *status_probe_strategy_name(StatusProbeStrategy strategy)
{
    static const char *const names[] = {
        [STATUS_PROBE_AUTO] = "auto",
        [STATUS_PROBE_USE_SEEK] = "seek",
        [STATUS_PROBE_USE_FIEMAP] = "fiemap",
        [STATUS_PROBE_NONE] = "none",
    };

    return names[strategy];
}

bool status_probe_uses_cachestat(StatusProbe *p)
{
    return __atomic_load_n(&p->cachestat, __ATOMIC_RELAXED) ==
           PROBE_CACHESTAT_WORKS;
}

void status_probe_disable_cachestat(StatusProbe *p)
{
    __atomic_store_n(&p->cachestat, PROBE_CACHESTAT_REFUSED, __ATOMIC_RELAXED);
}

/* ---- what the strategies share ------------------------------------------ */

int64_t status_question_floor(const StatusQuestion *q, int64_t offset)
{
    return offset >= q->length ? q->length : offset & -q->granularity;
}

int64_t status_question_ceil(const StatusQuestion *q, int64_t offset)
{
    int64_t block = status_question_floor(q, offset);

    if (block >= offset) {
        return block;
    }
    return q->length - block > q->granularity ? block + q->granularity
                                              : q->length;
}

void status_question_learn(StatusQuestion *q, int64_t start, int64_t end,
                           BlockState state)
{
    BlockState got;
    int64_t n;

    if (start >= end) {
        return;
    }
    got = status_cache_probe_fill(q->cache, &q->op, start, end - start, state,
                                  &n);
    if (q->state != BLOCK_STATE_UNKNOWN) {
        if (start == q->answer_end && got == q->state) {
            q->answer_end += n;
        }
        return;
    }
    if (start <= q->asked && q->asked < end) {
        if (start < q->asked) {
            got = status_cache_probe_fill(q->cache, &q->op, q->asked,
                                          end - q->asked, state, &n);
        }
        q->state = got;
        q->answer_end = q->asked + n;
    }
}

int64_t status_question_seek(StatusQuestion *q, int64_t offset, int whence)
{
    off_t where;

    q->delta.probe_calls[whence == SEEK_DATA ? STATUS_PROBE_SEEK_DATA
                                             : STATUS_PROBE_SEEK_HOLE]++;
    do {
        where = q->probe->ops->lseek(q->probe->fd, offset, whence);
    } while (where < 0 && errno == EINTR);
    if (where >= 0) {
        /* an answer from before the question is none */
        return where >= offset ? where : -EIO;
    }
    switch (errno) {
    case ENXIO:
        return INT64_MAX;
    case EINVAL:
    case ENOSYS:
    case ENOTTY:
    case EOPNOTSUPP:
    case ESPIPE:
        return -ENOTSUP;
    default:
        return -errno;
    }
}
