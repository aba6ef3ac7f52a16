/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bitmaps of three kinds beside each other: nanoseconds of one operation, and
 * memory. The kinds take turns; what they answer must be the same. Prints one
 * JSON object. All bitmaps of a run have the same contents, a LAYOUT:
 *
 *   uniform      all set
 *   dense        one block clear in each 16384 (64 MiB), anywhere
 *   sparse       one block set in each 16384, anywhere
 *   alternating  every other block set
 *   runs         runs of 1 to 4096 blocks, most of them short
 *
 * usage: bitmap BITS LAYOUT [ROUNDS [MILLISECONDS]]
 *
 * BITS: 2^28 is 1 TiB of blocks of 4 KiB. MILLISECONDS: how long one operation
 * is repeated in one round.
 */
#include <glib.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bitmap-kinds.h"

#define MIB_BLOCKS 256 /* in 1 MiB, if a block has 4 KiB */
#define GIB_BLOCKS (1024 * MIB_BLOCKS)
#define SPARSE_BLOCKS 16384
#define MAX_RUN_SHIFT 12
#define N_PLACES (1 << 18)
#define N_WARM 4096 /* few enough to stay in a processor's cache */
#define MAX_ROUNDS 64
#define MIN_BITS (UINT64_C(1) << 20) /* parts of all sizes below fit in */
#define CHANGES N_WARM               /* of one round */

static const BitmapKind *const kinds[] = {
    &bitmap_sparse,
#ifdef HAVE_ROARING
    &bitmap_roaring,
#endif
    &bitmap_plain,
};
#define KINDS G_N_ELEMENTS(kinds)

static uint64_t nbits, slice_ns;
static unsigned rounds;
static void *bitmaps[KINDS];
static uint64_t places[N_PLACES];

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

static uint64_t random_bits(void)
{
    static uint64_t state = 1;
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* ---- layouts ------------------------------------------------------------ */

/* The next run of set bits behind @at, which ends at nbits at the latest */
typedef struct Run {
    uint64_t start, end;
} Run;

static Run uniform(uint64_t at)
{
    return (Run){ at, nbits };
}

static Run sparse(uint64_t at)
{
    uint64_t bit = (at + SPARSE_BLOCKS - 1) / SPARSE_BLOCKS * SPARSE_BLOCKS +
                   random_bits() % SPARSE_BLOCKS;

    return (Run){ bit, bit + 1 };
}

static Run dense(uint64_t at)
{
    uint64_t start = at ? at + 1 : 0;

    return (Run){ start, sparse(start).start };
}

static Run alternating(uint64_t at)
{
    return (Run){ at + 1, at + 2 };
}

static Run runs(uint64_t at)
{
    uint64_t start =
        at + 1 + random_bits() % (1 << random_bits() % MAX_RUN_SHIFT);

    return (Run){
        start, start + 1 + random_bits() % (1 << random_bits() % MAX_RUN_SHIFT)
    };
}

static const struct {
    const char *name;
    Run (*next)(uint64_t at);
} layouts[] = {
    { "uniform", uniform },         { "dense", dense }, { "sparse", sparse },
    { "alternating", alternating }, { "runs", runs },
};

/* ---- operations that change nothing ------------------------------------- */

typedef struct Job {
    const BitmapKind *kind;
    void *bitmap;
    uint64_t next; /* place, or bit */
} Job;

/*
 * Between two operations there is a request to the disk: the processor must not
 * work on the next one while it waits for the memory that the last one needs.
 */
static inline void fence(void)
{
#ifdef __x86_64__
    __builtin_ia32_lfence();
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static inline uint64_t place(Job *job)
{
    fence();
    return places[job->next++ % N_WARM];
}

static inline uint64_t cold_place(Job *job)
{
    fence();
    return places[job->next++ % N_PLACES];
}

/* Does @expression @n times with b, a bitmap, and at, a bit. */
#define REPEATED(name, where, expression)                                      \
    static uint64_t name(Job *job, uint64_t n)                                 \
    {                                                                          \
        const BitmapKind *k = job->kind;                                       \
        void *b = job->bitmap;                                                 \
        uint64_t at, sum = 0;                                                  \
                                                                               \
        while (n-- > 0) {                                                      \
            at = where;                                                        \
            sum += expression;                                                 \
        }                                                                      \
        return sum;                                                            \
    }

static uint64_t mib_end(uint64_t at)
{
    return MIN(nbits, at + MIB_BLOCKS);
}

REPEATED(nothing, place(job), (k && b) * at)
REPEATED(test, place(job), k->test(b, at))
REPEATED(lookup, place(job), k->next_change(b, at, mib_end(at)) - at)
REPEATED(lookup_cold, cold_place(job), k->next_change(b, at, mib_end(at)) - at)
REPEATED(next_set, place(job), k->next_set(b, at, nbits) - at)
REPEATED(next_clear, place(job), k->next_clear(b, at, nbits) - at)
REPEATED(count, place(job), k->count(b) + at)
REPEATED(count_mib, place(job), k->count_range(b, at, mib_end(at) - at))
REPEATED(count_rest, place(job), k->count_range(b, at, nbits - at))
REPEATED(map, (fence(), job->next == nbits ? 0 : job->next),
         (job->next = k->next_change(b, at, mib_end(at))) - at)

static uint64_t iterate(Job *job, uint64_t n)
{
    const BitmapKind *k = job->kind;
    uint64_t start, end = job->next, sum = 0;

    while (n-- > 0) {
        fence();
        start = k->next_set(job->bitmap, end, nbits);
        end = k->next_clear(job->bitmap, start, nbits);
        sum += end - start;
        if (end == nbits) {
            end = 0;
        }
    }
    job->next = end;
    return sum;
}

static const struct {
    const char *name;
    uint64_t (*repeat)(Job *job, uint64_t n);
} looks[] = {
    { "nothing", nothing },
    { "test", test },
    { "lookup 1 MiB", lookup },
    { "lookup 1 MiB, cold", lookup_cold },
    { "lookup 1 MiB, ascending", map },
    { "next set", next_set },
    { "next clear", next_clear },
    { "iterate, a run", iterate },
    { "count", count },
    { "count 1 MiB", count_mib },
    { "count to the end", count_rest },
};

/* ---- operations that change bits ---------------------------------------- */

/* A function does one round and returns how often it did it. */
typedef uint64_t Change(const BitmapKind *kind, void *bitmap, unsigned round);

static uint64_t place_in(unsigned round, unsigned i)
{
    return places[(round * CHANGES + i) % N_PLACES];
}

static uint64_t set_blocks(const BitmapKind *kind, void *bitmap, unsigned round)
{
    unsigned i;

    for (i = 0; i < CHANGES; i++) {
        fence();
        kind->set(bitmap, place_in(round, i), 1);
    }
    return i;
}

static uint64_t clear_blocks(const BitmapKind *kind, void *bitmap,
                             unsigned round)
{
    unsigned i;

    for (i = 0; i < CHANGES; i++) {
        fence();
        kind->clear(bitmap, place_in(round, i), 1);
    }
    return i;
}

/* A part of the disk for each round, from its end downward */
static uint64_t part_of(unsigned round)
{
    uint64_t part = MIN(GIB_BLOCKS, nbits / (4 * MAX_ROUNDS));

    return (nbits - (round + 1) * part) / MIB_BLOCKS * MIB_BLOCKS;
}

static uint64_t clear_mib(const BitmapKind *kind, void *bitmap, unsigned round)
{
    uint64_t at, n = 0;

    for (at = part_of(round);
         at < part_of(round) + MIN(GIB_BLOCKS, nbits / 512);
         at += MIB_BLOCKS, n++) {
        fence();
        kind->clear(bitmap, at, MIB_BLOCKS);
    }
    return n;
}

static uint64_t set_mib(const BitmapKind *kind, void *bitmap, unsigned round)
{
    uint64_t at, n = 0;

    for (at = part_of(round);
         at < part_of(round) + MIN(GIB_BLOCKS, nbits / 512);
         at += MIB_BLOCKS, n++) {
        fence();
        kind->set(bitmap, at, MIB_BLOCKS);
    }
    return n;
}

/* What a mirror's workers do: find what is dirty, and call it clean. */
static uint64_t pick(const BitmapKind *kind, void *bitmap, unsigned round)
{
    uint64_t end, n, at = nbits / (2 * MAX_ROUNDS) * round;

    for (n = 0; n < CHANGES / 4; n++) {
        fence();
        at = kind->next_set(bitmap, at, nbits);
        if (at == nbits) {
            break;
        }
        end = kind->next_clear(bitmap, at, mib_end(at));
        kind->clear(bitmap, at, end - at);
        at = end;
    }
    return MAX(n, 1);
}

static const struct {
    const char *name;
    Change *change;
    bool single;
} changes[] = {
    { "set 4 KiB", set_blocks, true },
    { "clear 4 KiB", clear_blocks, true },
    { "clear 1 MiB, ascending", clear_mib, false },
    { "set 1 MiB, ascending", set_mib, false },
    { "find and clear, ascending", pick, false },
};

/* ---- measuring ---------------------------------------------------------- */

typedef struct Figures {
    double ns[KINDS][MAX_ROUNDS];
} Figures;

static const char *separator = "";

static void print_figures(const char *name, const Figures *f, unsigned n)
{
    unsigned k, i;

    printf("%s\n  \"%s\": {", separator, name);
    for (k = 0; k < KINDS; k++) {
        printf("%s\"%s\": [", k ? ", " : "", kinds[k]->name);
        for (i = 0; i < n; i++) {
            printf("%s%.2f", i ? ", " : "", f->ns[k][i]);
        }
        printf("]");
    }
    printf("}");
    separator = ",";
}

static void must_agree(const char *what, unsigned k, uint64_t seen,
                       uint64_t expected)
{
    if (seen != expected) {
        fprintf(stderr, "%s: %s says %" PRIu64 ", and %s says %" PRIu64 "\n",
                what, kinds[k]->name, seen, kinds[0]->name, expected);
        exit(1);
    }
}

static double time_look(uint64_t (*repeat)(Job *job, uint64_t n), Job *job)
{
    uint64_t start = now_ns(), spent, done = 0, batch = 1, sum;

    do {
        sum = repeat(job, batch);
        __asm__ volatile("" : : "r"(sum)); /* it is wanted */
        done += batch;
        spent = now_ns() - start;
        if (spent < slice_ns / 8) {
            batch *= 2;
        }
    } while (spent < slice_ns);
    return (double)spent / done;
}

static void measure_looks(void)
{
    unsigned op, round, k, i;

    for (op = 0; op < G_N_ELEMENTS(looks); op++) {
        Job jobs[KINDS];
        Figures f;

        for (k = 0; k < KINDS; k++) {
            jobs[k] = (Job){ kinds[k], bitmaps[k], 0 };
        }
        for (i = 0; i < 16; i++) {
            uint64_t expected = looks[op].repeat(&jobs[0], 1);

            for (k = 1; k < KINDS; k++) {
                must_agree(looks[op].name, k, looks[op].repeat(&jobs[k], 1),
                           expected);
            }
        }
        for (round = 0; round < rounds; round++) {
            for (k = 0; k < KINDS; k++) {
                f.ns[k][round] = time_look(looks[op].repeat, &jobs[k]);
            }
        }
        print_figures(looks[op].name, &f, rounds);
    }
}

/* Single bits are put back, and what they were before is noted in @was. */
static void note(unsigned round, unsigned k, bool *was)
{
    unsigned i;

    for (i = 0; i < CHANGES; i++) {
        was[i] = kinds[k]->test(bitmaps[k], place_in(round, i));
    }
}

static void put_back(unsigned round, unsigned k, const bool *was)
{
    unsigned i;

    for (i = 0; i < CHANGES; i++) {
        (was[i] ? kinds[k]->set : kinds[k]->clear)(bitmaps[k],
                                                   place_in(round, i), 1);
    }
}

static double time_change(Change *change, bool single, unsigned round,
                          unsigned k)
{
    g_autofree bool *was = g_new(bool, CHANGES);
    uint64_t start, spent, n;

    if (single) {
        note(round, k, was);
        change(kinds[k], bitmaps[k], round);
        put_back(round, k, was);
    }
    start = now_ns();
    n = change(kinds[k], bitmaps[k], round);
    spent = now_ns() - start;
    if (single) {
        put_back(round, k, was);
    }
    return (double)spent / n;
}

static void measure_changes(void)
{
    unsigned op, round, k, i;

    for (op = 0; op < G_N_ELEMENTS(changes); op++) {
        Figures f;

        for (round = 0; round < rounds; round++) {
            for (k = 0; k < KINDS; k++) {
                f.ns[k][round] = time_change(changes[op].change,
                                             changes[op].single, round, k);
            }
        }
        for (k = 1; k < KINDS; k++) {
            must_agree(changes[op].name, k, kinds[k]->count(bitmaps[k]),
                       kinds[0]->count(bitmaps[0]));
            for (i = 0; i < 1024; i++) {
                uint64_t at = places[i], end = MIN(nbits, at + GIB_BLOCKS);

                must_agree(changes[op].name, k,
                           kinds[k]->next_change(bitmaps[k], at, end),
                           kinds[0]->next_change(bitmaps[0], at, end));
            }
        }
        print_figures(changes[op].name, &f, rounds);
    }
}

static uint64_t heap(void)
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}

/* All bitmaps with the same contents, run by run from the start of the disk */
static void fill(Run (*next)(uint64_t at), uint64_t *memory)
{
    enum {
        BATCH = 65536
    };
    g_autofree Run *batch = g_new(Run, BATCH);
    uint64_t at = 0, start, before, n = 0, spent[KINDS] = { 0 };
    Figures f;
    unsigned i, k, got;

    for (k = 0; k < KINDS; k++) {
        before = heap();
        bitmaps[k] = kinds[k]->create(nbits);
        memory[k] = heap() - before;
    }
    do {
        for (got = 0; got < BATCH && at < nbits;) {
            Run run = next(at);

            at = run.end = MIN(run.end, nbits);
            if (run.start < run.end) {
                batch[got++] = run;
            }
        }
        for (k = 0; k < KINDS; k++) {
            before = heap();
            start = now_ns();
            for (i = 0; i < got; i++) {
                kinds[k]->set(bitmaps[k], batch[i].start,
                              batch[i].end - batch[i].start);
            }
            spent[k] += now_ns() - start;
            memory[k] += heap() - before;
        }
        n += got;
    } while (at < nbits);
    for (k = 0; k < KINDS; k++) {
        f.ns[k][0] = (double)spent[k] / n;
        if (kinds[k]->memory) {
            memory[k] = kinds[k]->memory(bitmaps[k]);
        }
    }
    print_figures("fill, a run", &f, 1);
}

int main(int argc, char **argv)
{
    uint64_t memory[KINDS];
    unsigned i, k;

    nbits = argc > 2 ? strtoull(argv[1], NULL, 0) : 0;
    rounds = MIN(argc > 3 ? atoi(argv[3]) : 5, MAX_ROUNDS);
    slice_ns = (argc > 4 ? atoi(argv[4]) : 10) * UINT64_C(1000000);
    for (i = 0; i < G_N_ELEMENTS(layouts) && nbits >= MIN_BITS; i++) {
        if (g_str_equal(argv[2], layouts[i].name)) {
            break;
        }
    }
    if (nbits < MIN_BITS || i == G_N_ELEMENTS(layouts)) {
        fprintf(stderr, "usage: bitmap BITS LAYOUT [ROUNDS [MILLISECONDS]]\n");
        return 2;
    }
    printf("{\"ns\": {");
    fill(layouts[i].next, memory);
    for (i = 0; i < N_PLACES; i++) {
        places[i] = random_bits() % nbits;
    }
    measure_looks();
    measure_changes();
    printf("},\n \"memory\": {");
    for (k = 0; k < KINDS; k++) {
        printf("%s\"%s\": %" PRIu64, k ? ", " : "", kinds[k]->name, memory[k]);
        kinds[k]->destroy(bitmaps[k]);
    }
    printf("}}\n");
    return 0;
}
