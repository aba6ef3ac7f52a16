/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * status-oracle: what its files share. status-oracle.c says what it is, and has the
 * options; oracle-combination.c runs one combination, oracle-ops.c makes requests,
 * oracle-claims.c checks what is said about the disk, oracle-faults.c makes
 * system calls slow and fail, oracle-shadow.c knows the truth, oracle-compare.c
 * compares with it, oracle-log.c has the last operations, oracle-place.c makes disks.
 */
#ifndef TESTS_ORACLE_H
#define TESTS_ORACLE_H

#include <pthread.h>

#include "block/block-int.h"
#include "block/status-probe-int.h"
#include "oracle-place.h"
#include "oracle-random.h"
#include "oracle-shadow.h"

#define KIB INT64_C(1024)
#define MIB (KIB * KIB)
#define MAX_REQUEST (256 * KIB)

/* What is run at once */
typedef struct Combination {
    const PlaceKind *place;
    bool direct;
    bool seek;         /* otherwise fiemap, where the place has it */
    bool no_cachestat; /* as if the kernel had none */
    /* chosen by the seed */
    uint64_t seed;
    bool learn;
    bool detect_zeroes;
    uint32_t granularity;
} Combination;

/* What all have in common */
typedef struct Settings {
    int threads;
    int64_t operations;  /* of a combination */
    int64_t drop_caches; /* after so many of them; 0: never */
    int64_t deadline_us; /* monotonic; 0: none */
    const char *directory;
    const char *command_line; /* to be shown */
} Settings;

typedef struct Counts {
    int64_t ops[OP_KINDS];
    int64_t failed_on_purpose;
    int64_t submitted; /* of the writes and reads: in two halves */
    int64_t zero_claims, zero_units; /* of zero, and how much of the disk */
    int64_t data_claims;
    int64_t read_backs, read_back_units; /* of claims of zero, past the node */
    int64_t node_reads, node_read_units; /* compared */
    int64_t pauses;                      /* all of the disk was compared */
    int64_t failures;
} Counts;

typedef enum Mood {
    MOOD_EVEN,
    MOOD_ZEROES, /* more zeroes than data */
    MOOD_DATA,   /* hardly any zeroes */
    MOODS,
} Mood;

typedef struct Worker Worker;

/* One combination that is being run */
typedef struct Oracle {
    const Settings *settings;
    const Combination *c;
    Place *place;
    Shadow *shadow;
    BlockDriverState *bs;
    BlockBackend *blk;
    StatusCache *cache;
    StatusProbe *probe;
    uint64_t least_memory; /* what the cache takes while it knows nothing */
    int side; /* the disk past the node, with O_DIRECT if that has it */
    int side_buffered; /* without */
    int64_t hot;       /* where many requests go; changes in pauses */
    Mood mood;         /* changes in pauses, too */
    int resizes;       /* begun and ended; atomic */
    bool stop;         /* atomic */
    Mutex stranger_lock;
    int strangers; /* stranger_lock */
    Mutex failure_lock;
    bool failed; /* failure_lock */
    pthread_barrier_t barrier;
} Oracle;

struct Worker {
    Oracle *o;
    int number;
    pthread_t thread;
    Random rand;
    int64_t written, written_bytes; /* the last */
    int resizes; /* begun and ended when the operation began */
    Counts counts;
    ShadowRead read;
    char *buf;             /* MAX_REQUEST and a page */
    char *side;            /* the same, for reads past the node */
    struct io_uring *ring; /* or NULL */
};

/* ---- oracle-combination.c ----------------------------------------------- */

/* Run it; false if there was something wrong. */
bool combination_run(const Combination *c, const Settings *settings,
                     Place *place, Counts *counts, double *seconds);
void counts_add(Counts *to, const Counts *from);
/* Those that are requests to the node */
int64_t counts_requests(const Counts *c);
/* What was found at the byte @offset is wrong: the first time, it is told. */
void oracle_fail(Worker *w, int64_t offset, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
static inline bool oracle_stopped(Oracle *o)
{
    return __atomic_load_n(&o->stop, __ATOMIC_ACQUIRE);
}

/* ---- oracle-ops.c ------------------------------------------------------- */

/* Make a request, or something that is none. */
void oracle_step(Worker *w);

/* ---- oracle-claims.c ---------------------------------------------------- */

/*
 * Somebody who was asked since @since (shadow_now()) says that
 * [@offset, @offset + @bytes) is zero, or that it is not.
 */
void oracle_claim(Worker *w, OpKind kind, uint32_t since, int64_t offset,
                  int64_t bytes, bool zero);
/* The same of all rows of a map of the disk from @offset on, @limit at most; where
 * to go on, or -1 */
int64_t oracle_map(Worker *w, int64_t offset, int limit, bool probe);
/* A read through the node; the result of that */
int oracle_read(Worker *w, int64_t offset, int64_t bytes, size_t shift);
/* Nothing is in flight: compare all. @ask: and have all asked, so that it is known. */
void oracle_pause(Worker *w, bool ask);
/* The same: compare what the map knows, after a pause, with what was seen. */
void oracle_check_map(Worker *w);
/* Are the counters of the cache what they can be? */
void oracle_check_counters(Worker *w, const Counts *all);

/* ---- oracle-submit.c ---------------------------------------------------- */

/* Do it in two halves, with the result *@ret; or false, and nothing has happened. */
bool oracle_submit(Worker *w, bool is_write, int64_t offset, void *buf,
                   int64_t bytes, int *ret);
/* At the end of the thread */
void oracle_submit_end(Worker *w);

/* ---- oracle-faults.c ---------------------------------------------------- */

/* The system calls of the prober, that let others go first here and there */
extern const StatusProbeOps faults_probe_ops;
/*
 * From now on the system calls of this thread let others go first (if @yields), and
 * fail here and there. Until faults_end(), which tells if one failed on purpose.
 */
void faults_begin(Random *rand, bool yields);
bool faults_end(void);
/* Is something else that is done now to fail on purpose? */
bool faults_fail(void);

#endif
