/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The allocation-status cache of one disk: for every block whether its
 * status is known, and if so, whether it holds data or reads as zeroes.
 *
 * "Zero" says what a reader would see; it says nothing about allocation.
 * Zero reported for data is corruption, data reported for zero is only slow:
 * every doubt becomes data or unknown. The rules are in status-cache.c.
 *
 * All functions may be called from any thread; none of them waits for I/O, and
 * the lock is held only for a time that grows with the runs touched. A begin
 * and its end may run on different threads. Offsets and lengths are bytes.
 */
#ifndef BLOCK_STATUS_CACHE_H
#define BLOCK_STATUS_CACHE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

G_BEGIN_DECLS

typedef struct StatusCache StatusCache;

typedef enum StatusCacheMode {
    STATUS_CACHE_OFF,       /* nothing is remembered */
    STATUS_CACHE_DATA_ONLY, /* somebody else may write: no zero knowledge */
    STATUS_CACHE_ON,
} StatusCacheMode;

typedef enum BlockState {
    BLOCK_STATE_UNKNOWN,
    BLOCK_STATE_DATA,
    BLOCK_STATE_ZERO,
} BlockState;

typedef struct StatusCacheOptions {
    int64_t length;       /* of the disk */
    uint32_t granularity; /* bytes a block; a power of two, 512 at least */
    uint64_t max_memory;  /* bytes for the bitmaps; 0: no limit */
    StatusCacheMode mode;
} StatusCacheOptions;

#define STATUS_CACHE_MIN_GRANULARITY 512
#define STATUS_CACHE_MAX_GRANULARITY (UINT32_C(1) << 30)

/* The kinds of probe that are counted apart */
typedef enum StatusProbeKind {
    STATUS_PROBE_SEEK_DATA,
    STATUS_PROBE_SEEK_HOLE,
    STATUS_PROBE_FIEMAP,
    STATUS_PROBE_CACHESTAT,
    STATUS_PROBE_KINDS,
} StatusProbeKind;

/*
 * Histogram of the thread CPU time of one probe: bucket i counts those below
 * status_cache_histogram_ns[i] nanoseconds, the last one all others.
 */
#define STATUS_CACHE_HISTOGRAM 10
extern const uint64_t status_cache_histogram_ns[STATUS_CACHE_HISTOGRAM - 1];

typedef struct StatusCacheStats {
    StatusCacheMode mode;
    uint32_t granularity;
    uint64_t length;
    uint64_t lookups;
    uint64_t hits;
    uint64_t misses;
    uint64_t probes;                          /* questions to the file system */
    uint64_t probe_calls[STATUS_PROBE_KINDS]; /* system calls in them */
    uint64_t extents;                         /* seen by all probes */
    uint64_t max_extents;                     /* seen by one probe */
    uint64_t probe_wall_ns, probe_wall_max_ns;
    uint64_t probe_cpu_ns, probe_cpu_max_ns;
    uint64_t histogram[STATUS_CACHE_HISTOGRAM];
    uint64_t probe_errors;
    uint64_t bytes_unknown, bytes_data, bytes_zero;
    uint64_t learned_writes, learned_zeroes, learned_discards; /* bytes */
    uint64_t learned_reads;  /* bytes that reads found to be zero */
    uint64_t reads_skipped;  /* runs of zeroes that were not read, */
    uint64_t bytes_not_read; /* and their bytes */
    uint64_t tainted_zeroes; /* zero-writes and discards ended tainted */
    uint64_t tainted_probes;
    uint64_t evictions; /* leaves forgotten for the memory limit */
    uint64_t memory, memory_max;
    uint64_t verified_bytes;    /* called zero, read, and found to be zero */
    uint64_t verify_mismatches; /* ranges that were called zero, and were not */
    bool distrusted;            /* zeroes are not believed any more: rule 11 */
} StatusCacheStats;

StatusCache *status_cache_new(const StatusCacheOptions *options, GError **errp);
/* Another limit of memory, bytes; 0: none. What is too much is forgotten. */
void status_cache_set_max_memory(StatusCache *cache, uint64_t bytes);
StatusCache *status_cache_ref(StatusCache *cache);
void status_cache_unref(StatusCache *cache);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StatusCache, status_cache_unref)

/*
 * One operation in flight. The caller provides the memory, which must stay
 * where it is from begin to end; the members are the cache's own business.
 */
typedef struct StatusOp StatusOp;
typedef struct StatusTaint {
    int64_t start, end; /* blocks */
} StatusTaint;
#define STATUS_OP_TAINTS 8
struct StatusOp {
    StatusOp *prev, *next;
    int64_t offset, bytes;
    int64_t start, end; /* blocks touched, rounded outward */
    int kind;
    int n_taints; /* beyond STATUS_OP_TAINTS they are merged */
    StatusTaint taints[STATUS_OP_TAINTS];
};

/* Data goes to [@offset, @offset + @bytes): rule 1. Also copy_file_range. */
void status_cache_write_begin(StatusCache *cache, StatusOp *op, int64_t offset,
                              int64_t bytes);
/* @ok: all bytes were written. Otherwise what is there is unknown. */
void status_cache_write_end(StatusCache *cache, StatusOp *op, bool ok);

/*
 * The range is made to read as zeroes by a call that says so when it succeeds
 * (FALLOC_FL_ZERO_RANGE, BLKZEROOUT; with @discard the same, by a hole punched
 * into a regular file, counted as a discard): rule 2.
 */
void status_cache_zero_begin(StatusCache *cache, StatusOp *op, int64_t offset,
                             int64_t bytes, bool discard);
/* @ok: it did. Failed and unsupported calls alike change nothing. */
void status_cache_zero_end(StatusCache *cache, StatusOp *op, bool ok);

/* A discard that promises nothing about what is read later (BLKDISCARD). */
void status_cache_discard_begin(StatusCache *cache, StatusOp *op,
                                int64_t offset, int64_t bytes);
void status_cache_discard_end(StatusCache *cache, StatusOp *op);

/*
 * What is known at @offset: stores how far the same holds in *@pnum (at most
 * @bytes, at least 1) and returns the state. Not beyond the length.
 */
BlockState status_cache_lookup(StatusCache *cache, int64_t offset,
                               int64_t bytes, int64_t *pnum);

/* The same for introspection: counts neither hit nor miss. */
BlockState status_cache_peek(StatusCache *cache, int64_t offset, int64_t bytes,
                             int64_t *pnum);

/*
 * What a read of [@offset, @offset + @bytes) may leave out, because it is known
 * to be zero (all of it at the same moment): up to @max runs in ascending order,
 * cut to multiples of @align but at the ends of the read. Unless it is the whole
 * read, a run is left out only if it has so many bytes as the limits say.
 * Returns how many there are. Whoever leaves one out accounts it.
 */
typedef struct StatusCutLimits {
    int64_t align;     /* a power of two */
    int64_t min_end;   /* of a run at either end of the read, */
    int64_t min_inner; /* and of one that cuts it in two */
} StatusCutLimits;
typedef struct StatusCut {
    int64_t start, end; /* bytes of the disk */
} StatusCut;
int status_cache_cut_read(StatusCache *cache, int64_t offset, int64_t bytes,
                          const StatusCutLimits *limits, StatusCut *cuts,
                          int max);
void status_cache_account_cut(StatusCache *cache, int64_t bytes);

/*
 * A read that is to teach (rule 10): begin before it; if that is true, fill()
 * with each range of it that was all zero, if it succeeded, and then end. False:
 * there is nothing to be learned, and nothing to end.
 */
bool status_cache_read_begin(StatusCache *cache, StatusOp *op, int64_t offset,
                             int64_t bytes);
void status_cache_read_fill(StatusCache *cache, StatusOp *op, int64_t offset,
                            int64_t bytes);
void status_cache_read_end(StatusCache *cache, StatusOp *op);

/*
 * A verification (rule 11): is what is called zero really zero on the disk? begin
 * finds the first range called zero at or behind @offset, up to @max bytes of it,
 * and stores it in *@start and *@bytes; false if there is none, and then there is
 * nothing to end. The caller reads that range from the disk, all of it, whatever
 * the cache says.
 *
 * end is told how many bytes from *@start on were read (0 if that failed), and
 * which ranges of them, in blocks or less and in ascending order, hold anything
 * but zeroes. Where nothing has touched the range since begin the cache has lied:
 * those parts are stored in @lies, @max at most, and it returns how many there
 * are. If there are any the cache is distrusted from then on.
 */
bool status_cache_verify_begin(StatusCache *cache, StatusOp *op, int64_t offset,
                               int64_t max, int64_t *start, int64_t *bytes);
int status_cache_verify_end(StatusCache *cache, StatusOp *op, int64_t read,
                            const StatusCut *found, int n, StatusCut *lies,
                            int max);
/* How many bytes are called zero from @offset on? */
uint64_t status_cache_zeroes_left(StatusCache *cache, int64_t offset);
/*
 * No zeroes are believed from now on: all are forgotten, and the mode is DATA_ONLY
 * at most, whatever is set.
 */
void status_cache_distrust(StatusCache *cache);
bool status_cache_is_distrusted(StatusCache *cache);

/*
 * A probe of [@offset, @offset + @bytes): begin before its first look, then
 * fill() each answer (any number, in any order, within the range), then end.
 * fill() caches what rule 3 lets it and returns the state that may be told to
 * the one who asked: tainted parts are never zero. *@pnum is how much of
 * [@offset, @offset + @bytes), from its start, the returned state covers.
 */
void status_cache_probe_begin(StatusCache *cache, StatusOp *op, int64_t offset,
                              int64_t bytes);
BlockState status_cache_probe_fill(StatusCache *cache, StatusOp *op,
                                   int64_t offset, int64_t bytes,
                                   BlockState state, int64_t *pnum);
void status_cache_probe_end(StatusCache *cache, StatusOp *op);

/*
 * Page looks. A probe that has established, before its look at the mapping,
 * that no pages are cached over a range, may look at the mapping in several
 * later steps: what no write touched since is still without pages that matter.
 * looked() stores that, for what is untainted in @op; has_looked() tells
 * whether it holds from @offset on, and how far.
 */
void status_cache_set_looked(StatusCache *cache, StatusOp *op, int64_t offset,
                             int64_t bytes);
bool status_cache_has_looked(StatusCache *cache, int64_t offset, int64_t bytes,
                             int64_t *pnum);

/* Account one probe: counters of @delta's probe members are added. */
void status_cache_account_probe(StatusCache *cache,
                                const StatusCacheStats *delta);

/* The disk has a new size: rule 5. */
void status_cache_resize(StatusCache *cache, int64_t length);
/* The disk is at least so long: a write beyond its end has ended. */
void status_cache_grow(StatusCache *cache, int64_t length);
int64_t status_cache_length(StatusCache *cache);
uint32_t status_cache_granularity(StatusCache *cache);

/* Forget a range, or everything (rule 8). In-flight probes are tainted. */
void status_cache_forget(StatusCache *cache, int64_t offset, int64_t bytes);
void status_cache_flush(StatusCache *cache);

/*
 * A flush of the disk failed (rule 6): all zero knowledge is forgotten, and
 * zero-writes in flight bring none.
 */
void status_cache_flush_failed(StatusCache *cache);

/*
 * Somebody else may write from now on, or no longer (rule 7). Leaving ON
 * forgets all zeroes; OFF forgets everything. Of a cache that is distrusted ON
 * makes DATA_ONLY.
 */
void status_cache_set_mode(StatusCache *cache, StatusCacheMode mode);
StatusCacheMode status_cache_get_mode(StatusCache *cache);

void status_cache_get_stats(StatusCache *cache, StatusCacheStats *stats);

G_END_DECLS

#endif
