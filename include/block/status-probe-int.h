/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the prober share, and the seam where tests put a file
 * system of their own. Not installed.
 */
#ifndef BLOCK_STATUS_PROBE_INT_H
#define BLOCK_STATUS_PROBE_INT_H

#include <linux/fiemap.h>
#include <sys/types.h>
#include <sys/vfs.h>

#include "block/status-probe.h"
#include "util/thread.h"

/* What cachestat(2) tells that matters here, in pages of the kernel */
typedef struct StatusPages {
    uint64_t cached;
    uint64_t evicted; /* each costs the kernel as much time as a cached one */
} StatusPages;

/* The system calls of the prober: results and errno as those have them */
typedef struct StatusProbeOps {
    int (*fstatfs)(int fd, struct statfs *buf);
    off_t (*lseek)(int fd, off_t offset, int whence);
    int (*fiemap)(int fd, struct fiemap *map);
    int (*cachestat)(int fd, int64_t offset, int64_t bytes, StatusPages *pages);
} StatusProbeOps;

extern const StatusProbeOps status_probe_linux_ops;

StatusProbe *status_probe_new_with_ops(int fd, StatusProbeStrategy strategy,
                                       const StatusProbeOps *ops);

/*
 * Extents one FIEMAP may return. The kernel spends 130 to 150 ns on each
 * extent and on each gap before one (ext4 and XFS), so that this is some 20 us:
 * an interrupt in the middle, which is charged to the thread, shall not make it
 * 100. A system call costs little beside it.
 */
#define PROBE_MAX_EXTENTS 128

/* What is known between two unknown parts, and not worth a window's end */
#define PROBE_ISLAND (INT64_C(1) << 20)

/* One half-open range of bytes */
typedef struct ProbeRange {
    int64_t start, end;
} ProbeRange;

/* Up to where it is all data, or all gap: nothing mapped, or unwritten */
typedef struct ProbeRun {
    int64_t end;
    bool data;
} ProbeRun;

/* One look at the mapping: runs of whole blocks from @start to @end */
typedef struct ProbeMapping {
    int64_t start, end;
    int n_runs;
    bool gaps; /* at least one run is a gap */
    ProbeRun runs[2 * PROBE_MAX_EXTENTS + 1];
} ProbeMapping;

/* Page looks of one probe, ascending */
#define PROBE_MAX_LOOKS 128
typedef struct ProbeLooks {
    int n;
    ProbeRange at[PROBE_MAX_LOOKS];
} ProbeLooks;

typedef enum ProbeCachestat {
    PROBE_CACHESTAT_UNTRIED,
    PROBE_CACHESTAT_WORKS,
    PROBE_CACHESTAT_REFUSED,
} ProbeCachestat;

struct StatusProbe {
    int fd;
    const StatusProbeOps *ops;
    bool pages_are_truth; /* tmpfs: there is no mapping but the pages */
    int strategy;         /* StatusProbeStrategy; atomic */
    int cachestat;        /* ProbeCachestat; atomic */

    Mutex lock;        /* one probe at a time; protects what follows */
    int64_t next_data; /* seek: data is known to begin here, or -1 */
    int64_t window;    /* fiemap: bytes of the next page look */
    int gaps;          /* fiemap: for so many windows gaps are expected */
    int max_extents;   /* fiemap: of the next window */
    ProbeLooks looks;
    ProbeMapping mapping;
    struct fiemap *fiemap; /* with room for PROBE_MAX_EXTENTS */
};

/* One question to the file system, from status_query() */
typedef struct StatusQuestion {
    StatusProbe *probe;
    StatusCache *cache;
    StatusCacheMode mode;
    int64_t granularity;
    int64_t length;     /* of the disk */
    int64_t asked;      /* the offset that somebody wants to know */
    int64_t start, end; /* where to learn: the block of @asked, and on */
    StatusOp op;
    StatusCacheStats delta;
    BlockState state; /* the answer: unknown until learned */
    int64_t answer_end;
} StatusQuestion;

/* Offsets rounded to blocks; the end of the disk counts as a block's end. */
int64_t status_question_floor(const StatusQuestion *q, int64_t offset);
int64_t status_question_ceil(const StatusQuestion *q, int64_t offset);

/*
 * [@start, @end) has state @state: put it into the cache, and into the answer.
 * To be called in ascending order, after the last look of the probe.
 */
void status_question_learn(StatusQuestion *q, int64_t start, int64_t end,
                           BlockState state);

/*
 * lseek(@whence) from @offset: where, or INT64_MAX for ENXIO (nothing of the
 * kind up to the end of file); a negative errno. -ENOTSUP stands for all that
 * a file system says that cannot tell.
 */
int64_t status_question_seek(StatusQuestion *q, int64_t offset, int whence);

/*
 * Ask, and learn all of the answer. Return 0 or a negative errno; nothing is
 * learned then. -ENOTSUP: this strategy does not work here.
 */
int status_probe_seek(StatusQuestion *q);
int status_probe_fiemap(StatusQuestion *q);

/*
 * Page looks. What is seen to have no pages is noted among the looks of the
 * probe, and in the cache for later ones.
 *
 * look() and look_seek() walk [@start, @end), and store in *@done how far they
 * came with the @calls they had, which they count down; more than @start in any
 * case. Where they have been and noted nothing, there may be pages. look() is
 * for long ranges, look_seek() for those that soon end in data. Return 0 or a
 * negative errno.
 */
int status_probe_look(StatusQuestion *q, int64_t start, int64_t end, int *calls,
                      int64_t *done);
int status_probe_look_seek(StatusQuestion *q, int64_t start, int64_t end,
                           int *calls, int64_t *done);
/*
 * One cachestat(2) over a window from @start on: returns how many bytes of
 * [@start, @end) that was, or -ENOTSUP, and stores in *@cached how many pages
 * there were.
 */
int64_t status_probe_look_window(StatusQuestion *q, int64_t start, int64_t end,
                                 uint64_t *cached);
/* One look at [@start, @end), if cachestat(2) works; true: no pages. */
bool status_probe_look_at(StatusQuestion *q, int64_t start, int64_t end);
/* What former probes have seen at q->start and behind. */
void status_probe_load_looks(StatusQuestion *q);
/* Where the look that covers @offset ends, or @offset itself. */
int64_t status_probe_looked_until(const StatusProbe *p, int64_t offset);

#endif
