/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the status cache costs: memory of its bitmaps, and nanoseconds that it
 * adds to one request, for 1 to 8 threads on one cache. Prints one JSON object.
 *
 * Times are of all threads together: how long it took, divided by what all of
 * them did. With two processors it is at best half of what a thread waits for.
 *
 * usage: cache-threads [GIB [GRANULARITY [ROUNDS [MILLISECONDS]]]]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/status-cache.h"
#include "util/thread.h"

#define GIB (INT64_C(1) << 30)
#define LOOKUP_BYTES (INT64_C(1) << 20)
#define N_PLACES 4096
#define MAX_THREADS 8
#define MAX_ROUNDS 32
#define BATCH 64
#define FILE_BLOCK 4096
#define FILE_BLOCKS 256

static int64_t length = 1024 * GIB, granularity = 4096;
static int rounds = 3;
static double slice_ns = 20e6;
static int64_t places[N_PLACES];

static double now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1e9 + ts.tv_nsec;
}

static StatusCache *new_cache(void)
{
    StatusCacheOptions options = {
        .length = length,
        .granularity = granularity,
        .mode = STATUS_CACHE_ON,
    };

    return status_cache_new(&options, NULL);
}

static uint64_t memory(StatusCache *cache)
{
    StatusCacheStats stats;

    status_cache_get_stats(cache, &stats);
    return stats.memory;
}

/* ---- operations --------------------------------------------------------- */

static void write_range(StatusCache *cache, int64_t offset, int64_t bytes)
{
    StatusOp op;

    status_cache_write_begin(cache, &op, offset, bytes);
    status_cache_write_end(cache, &op, true);
}

static void zero_range(StatusCache *cache, int64_t offset, int64_t bytes)
{
    StatusOp op;

    status_cache_zero_begin(cache, &op, offset, bytes, false);
    status_cache_zero_end(cache, &op, true);
}

/* What one thread does things with */
typedef struct Worker {
    pthread_t thread;
    pthread_barrier_t *start;
    StatusCache *cache;
    void (*once)(struct Worker *w, uint64_t i);
    uint64_t first, done;
    const int *stop; /* atomic */
    int fd;          /* of a file in memory, its own */
} Worker;

static void lookup(Worker *w, uint64_t i)
{
    int64_t pnum;

    status_cache_lookup(w->cache, places[i % N_PLACES], LOOKUP_BYTES, &pnum);
}

static void write_block(Worker *w, uint64_t i)
{
    write_range(w->cache, places[i % N_PLACES], granularity);
}

static void zero_block(Worker *w, uint64_t i)
{
    zero_range(w->cache, places[i % N_PLACES], granularity);
}

/* A read, as a guest's: is there anything that need not be read? */
static void cut_read(Worker *w, uint64_t i)
{
    static const StatusCutLimits limits = { 4096, 65536, 65536 };
    StatusCut cut;

    status_cache_cut_read(w->cache, places[i % N_PLACES], granularity, &limits,
                          &cut, 1);
}

static void mixed(Worker *w, uint64_t i)
{
    switch (i % 4) {
    case 0:
        lookup(w, i);
        break;
    case 1:
        cut_read(w, i);
        break;
    default:
        write_block(w, i);
    }
}

/* A write of data to a file in memory, without and with the cache */
static void write_file(Worker *w, uint64_t i)
{
    static const char data[FILE_BLOCK];

    if (pwrite(w->fd, data, FILE_BLOCK, i % FILE_BLOCKS * FILE_BLOCK) !=
        FILE_BLOCK) {
        perror("pwrite");
        exit(1);
    }
}

static void write_known_file(Worker *w, uint64_t i)
{
    StatusOp op;

    status_cache_write_begin(w->cache, &op, places[i % N_PLACES], granularity);
    write_file(w, i);
    status_cache_write_end(w->cache, &op, true);
}

static const struct {
    const char *name;
    void (*once)(Worker *w, uint64_t i);
} operations[] = {
    { "lookup", lookup },
    { "cut-read", cut_read },
    { "write", write_block },
    { "zero-write", zero_block },
    { "mixed", mixed },
    { "pwrite", write_file },
    { "pwrite and cache", write_known_file },
};

/* ---- threads ------------------------------------------------------------ */

static void *work(void *opaque)
{
    Worker *w = opaque;
    uint64_t i, n;

    for (i = 0; i < FILE_BLOCKS; i++) {
        write_file(w, i);
    }
    i = w->first;
    pthread_barrier_wait(w->start);
    while (!__atomic_load_n(w->stop, __ATOMIC_RELAXED)) {
        for (n = 0; n < BATCH; n++) {
            w->once(w, i++);
        }
    }
    w->done = i - w->first;
    return NULL;
}

static double time_threads(StatusCache *cache, unsigned op, unsigned n)
{
    Worker workers[MAX_THREADS];
    pthread_barrier_t barrier;
    uint64_t done = 0;
    double start;
    int stop = 0;
    unsigned i;

    pthread_barrier_init(&barrier, NULL, n + 1);
    for (i = 0; i < n; i++) {
        workers[i] = (Worker){
            .start = &barrier,
            .cache = cache,
            .once = operations[op].once,
            .first = N_PLACES / MAX_THREADS * i,
            .stop = &stop,
            .fd = memfd_create("cache-threads", MFD_CLOEXEC),
        };
        g_assert(workers[i].fd >= 0);
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    pthread_barrier_wait(&barrier);
    start = now_ns();
    g_usleep(slice_ns / 1000);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (i = 0; i < n; i++) {
        pthread_join(workers[i].thread, NULL);
        done += workers[i].done;
        close(workers[i].fd);
    }
    pthread_barrier_destroy(&barrier);
    return (now_ns() - start) / done;
}

/* ---- all of it ---------------------------------------------------------- */

static void measure(const char *disk, StatusCache *cache)
{
    unsigned op, n;
    int round;

    printf("\"%s\": {", disk);
    for (op = 0; op < G_N_ELEMENTS(operations); op++) {
        double ns[MAX_THREADS + 1][MAX_ROUNDS];

        for (round = 0; round < rounds; round++) {
            for (n = 1; n <= MAX_THREADS; n *= 2) {
                ns[n][round] = time_threads(cache, op, n);
            }
        }
        printf("%s\n  \"%s\": {", op ? "," : "", operations[op].name);
        for (n = 1; n <= MAX_THREADS; n *= 2) {
            printf("%s\"%u\": [", n > 1 ? ", " : "", n);
            for (round = 0; round < rounds; round++) {
                printf("%s%.1f", round ? ", " : "", ns[n][round]);
            }
            printf("]");
        }
        printf("}");
    }
    printf("}");
}

static void zero_every_other(StatusCache *cache)
{
    int64_t offset;

    for (offset = 0; offset < length; offset += 2 * granularity) {
        zero_range(cache, offset, granularity);
    }
}

int main(int argc, char **argv)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    uint64_t empty, all_data, alternating;
    StatusCache *cache;
    int i;

    length = (argc > 1 ? atoll(argv[1]) : 1024) * GIB;
    granularity = argc > 2 ? atoll(argv[2]) : granularity;
    rounds = MIN(argc > 3 ? atoi(argv[3]) : rounds, MAX_ROUNDS);
    slice_ns = argc > 4 ? atoi(argv[4]) * 1e6 : slice_ns;
    for (i = 0; i < N_PLACES; i++) {
        places[i] = (int64_t)(g_rand_double(rand) * (length / granularity)) *
                    granularity;
    }
    cache = new_cache();
    empty = memory(cache);
    write_range(cache, 0, length);
    all_data = memory(cache);
    printf("{\"ns\": {");
    measure("all data", cache);
    printf(",\n ");
    zero_every_other(cache);
    alternating = memory(cache);
    measure("alternating", cache);
    status_cache_flush(cache);
    zero_every_other(cache);
    printf("},\n \"memory\": {\"empty\": %" PRIu64 ", \"all data\": %" PRIu64
           ", \"data and zero alternating\": %" PRIu64
           ", \"unknown and zero alternating\": %" PRIu64 "}}\n",
           empty, all_data, alternating, memory(cache));
    status_cache_unref(cache);
    return 0;
}
