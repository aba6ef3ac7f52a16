/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The status cache against a small disk that knows the truth.
 *
 * The disk consists of units, four to a block of the cache, each with a page
 * (absent, zeroes, data) and a mapping (hole, data); a reader sees the page if
 * there is one. Writers, zero-writers, discards and probes are small state
 * machines of which a seeded random scheduler takes one step at a time; in
 * between pages are written back, reclaimed and read in, parts are forgotten,
 * the disk shrinks and grows, and other programs write while the cache is told
 * so. Reads look at one unit after the other and tell what they saw, to have it
 * learned; verifications do the same with what is called zero, and must not find
 * that wrong. After every step no unit may be called zero where a reader sees data,
 * and at the end of each episode every block must become known again.
 *
 * TEST_SEED and TEST_STEPS choose another run; a failure prints its seed.
 */
#include <check.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/status-cache.h"
#include "unit-main.h"

#define UNIT 128
#define PER_BLOCK 4
#define BLOCK (UNIT * PER_BLOCK)
#define MAX_UNITS (10 * PER_BLOCK)
#define ACTORS 6

enum {
    PAGE_ABSENT,
    PAGE_ZERO,
    PAGE_DATA
};
enum {
    ACT_IDLE,
    ACT_WRITE,
    ACT_ZERO,
    ACT_DISCARD,
    ACT_PROBE,
    ACT_READ,
    ACT_VERIFY
};
#define ACTIONS 6

typedef struct Actor {
    int what;
    StatusOp op;
    int start, end; /* units */
    int fail_after; /* units touched before it fails; -1: it succeeds */
    int step;
    bool done[MAX_UNITS];
    int seen_start, seen_end; /* what a probe saw and has not told yet */
    BlockState seen_state;
    bool read_zero[MAX_UNITS]; /* what a read saw */
} Actor;

static struct {
    StatusCache *cache;
    int units;
    bool dirty[MAX_UNITS];
    int page[MAX_UNITS];
    bool mapped[MAX_UNITS]; /* data on disk */
    Actor actors[ACTORS];
    GRand *rand;
    guint32 seed;
    bool foreign; /* others may write */
    int verified; /* verifications that have ended, */
    int crossed;  /* and those that saw data */
} sim;

static int rnd(int n)
{
    return g_rand_int_range(sim.rand, 0, n);
}

static bool reads_data(int unit)
{
    if (sim.page[unit] != PAGE_ABSENT) {
        return sim.page[unit] == PAGE_DATA;
    }
    return sim.mapped[unit];
}

static void check_truth(const char *after)
{
    int unit;
    int64_t pnum;

    for (unit = 0; unit < sim.units; unit++) {
        BlockState state =
            status_cache_peek(sim.cache, unit * UNIT, UNIT, &pnum);

        /* libcheck's assertions write a file even when they hold: too slow */
        if (state == BLOCK_STATE_ZERO && reads_data(unit)) {
            ck_abort_msg("seed %u: unit %d is data, called zero after %s",
                         sim.seed, unit, after);
        }
    }
}

static bool busy(int what)
{
    int i;

    for (i = 0; i < ACTORS; i++) {
        if (sim.actors[i].what == what) {
            return true;
        }
    }
    return false;
}

/* ---- actors -------------------------------------------------------------- */

static void verify_start(Actor *a)
{
    int64_t start, bytes;

    if (!status_cache_verify_begin(sim.cache, &a->op, (int64_t)a->start * UNIT,
                                   (int64_t)(a->end - a->start) * UNIT, &start,
                                   &bytes)) {
        a->what = ACT_IDLE;
        return;
    }
    a->start = start / UNIT;
    a->end = (start + bytes) / UNIT;
}

static void actor_start(Actor *a)
{
    int64_t offset, bytes;

    a->start = rnd(sim.units);
    a->end = a->start + 1 + rnd(MIN(sim.units - a->start, 3 * PER_BLOCK));
    a->end = MIN(a->end, sim.units);
    a->step = 0;
    a->seen_start = a->seen_end = 0;
    memset(a->done, 0, sizeof(a->done));
    a->fail_after = rnd(5) ? -1 : rnd(a->end - a->start);
    a->what = ACT_WRITE + rnd(ACTIONS);
    offset = (int64_t)a->start * UNIT;
    bytes = (int64_t)(a->end - a->start) * UNIT;
    switch (a->what) {
    case ACT_WRITE:
        status_cache_write_begin(sim.cache, &a->op, offset, bytes);
        break;
    case ACT_ZERO:
        status_cache_zero_begin(sim.cache, &a->op, offset, bytes, rnd(2));
        break;
    case ACT_DISCARD:
        status_cache_discard_begin(sim.cache, &a->op, offset, bytes);
        break;
    case ACT_PROBE:
        a->start = a->start / PER_BLOCK * PER_BLOCK;
        a->end =
            MIN((a->end + PER_BLOCK - 1) / PER_BLOCK * PER_BLOCK, sim.units);
        status_cache_probe_begin(sim.cache, &a->op, (int64_t)a->start * UNIT,
                                 (int64_t)(a->end - a->start) * UNIT);
        break;
    case ACT_READ:
        memset(a->read_zero, 0, sizeof(a->read_zero));
        if (!status_cache_read_begin(sim.cache, &a->op, offset, bytes)) {
            a->what = ACT_IDLE;
        }
        break;
    case ACT_VERIFY:
        verify_start(a);
        break;
    }
}

/* The next unit that the request has not touched yet, in random order; -1 */
static int next_untouched(Actor *a)
{
    int n = a->end - a->start, i, unit, from = rnd(n);

    for (i = 0; i < n; i++) {
        unit = a->start + (from + i) % n;
        if (!a->done[unit]) {
            a->done[unit] = true;
            return unit;
        }
    }
    return -1;
}

static void touch(Actor *a, int unit)
{
    switch (a->what) {
    case ACT_WRITE:
        sim.page[unit] = PAGE_DATA;
        sim.dirty[unit] = true;
        break;
    case ACT_ZERO:
        sim.page[unit] = PAGE_ABSENT;
        sim.dirty[unit] = false;
        sim.mapped[unit] = false;
        break;
    case ACT_DISCARD: /* whatever: old data, other data, zeroes */
        sim.page[unit] = PAGE_ABSENT;
        sim.dirty[unit] = false;
        sim.mapped[unit] = rnd(2);
        break;
    }
}

static void request_step(Actor *a)
{
    int unit = -1;
    bool ok;

    if (a->fail_after < 0 || a->step < a->fail_after) {
        unit = next_untouched(a);
    }
    if (unit >= 0) {
        a->step++;
        touch(a, unit);
        return;
    }
    ok = a->fail_after < 0;
    switch (a->what) {
    case ACT_WRITE:
        status_cache_write_end(sim.cache, &a->op, ok);
        break;
    case ACT_ZERO:
        status_cache_zero_end(sim.cache, &a->op, ok);
        break;
    case ACT_DISCARD:
        status_cache_discard_end(sim.cache, &a->op);
        break;
    }
    a->what = ACT_IDLE;
}

static void look_at_pages(Actor *a)
{
    int unit, run;

    for (unit = a->start; unit < a->end; unit = run) {
        run = unit;
        while (run < a->end && sim.page[run] == PAGE_ABSENT) {
            run++;
        }
        if (run > unit) {
            status_cache_set_looked(sim.cache, &a->op, (int64_t)unit * UNIT,
                                    (int64_t)(run - unit) * UNIT);
        } else {
            run++;
        }
    }
}

/* The last look: what it sees is kept, and told to the cache a step later. */
static void look_at_mapping(Actor *a, int unit)
{
    int64_t pnum;
    int run = unit;

    a->seen_start = unit;
    if (sim.mapped[unit]) {
        a->seen_state = BLOCK_STATE_DATA;
        a->seen_end = unit + 1;
        return;
    }
    while (
        run < MIN(a->end, sim.units) && !sim.mapped[run] &&
        status_cache_has_looked(sim.cache, (int64_t)run * UNIT, UNIT, &pnum)) {
        run++;
    }
    a->seen_state = BLOCK_STATE_ZERO;
    a->seen_end = run; /* if that is the start: there may be a page */
}

static void tell(Actor *a)
{
    int64_t pnum, offset = (int64_t)a->seen_start * UNIT;
    int unit;
    BlockState told;

    if (a->seen_start == a->seen_end) {
        return;
    }
    told = status_cache_probe_fill(
        sim.cache, &a->op, offset,
        (int64_t)(a->seen_end - a->seen_start) * UNIT, a->seen_state, &pnum);
    unit = a->seen_start;
    a->seen_start = a->seen_end;
    if (told == BLOCK_STATE_ZERO && !sim.foreign) {
        for (; unit < sim.units && (int64_t)unit * UNIT < offset + pnum;
             unit++) {
            if (reads_data(unit)) {
                ck_abort_msg("seed %u: told zero of data", sim.seed);
            }
        }
    }
}

static void probe_step(Actor *a)
{
    int unit;

    if (a->step++ == 0) {
        look_at_pages(a);
        return;
    }
    if (a->seen_start != a->seen_end) {
        tell(a);
        return;
    }
    unit = next_untouched(a);
    if (unit >= 0 && unit < sim.units) {
        look_at_mapping(a, unit);
        return;
    }
    if (unit < 0) {
        status_cache_probe_end(sim.cache, &a->op);
        a->what = ACT_IDLE;
    }
}

/* A read tells each run of zeroes once it has them all. */
static void read_step(Actor *a)
{
    int unit = next_untouched(a), run;

    if (unit >= 0) {
        /* beyond the end of a disk that has shrunk there is nothing to see */
        a->read_zero[unit] = unit >= sim.units || !reads_data(unit);
        return;
    }
    for (unit = a->start; unit < a->end; unit = run + 1) {
        run = unit;
        while (run < a->end && a->read_zero[run]) {
            run++;
        }
        if (run > unit) {
            status_cache_read_fill(sim.cache, &a->op, (int64_t)unit * UNIT,
                                   (int64_t)(run - unit) * UNIT);
        }
    }
    status_cache_read_end(sim.cache, &a->op);
    a->what = ACT_IDLE;
}

static void verify_step(Actor *a)
{
    StatusCut found[MAX_UNITS], lie;
    int unit = next_untouched(a), n = 0;

    if (unit >= 0) {
        a->read_zero[unit] = unit >= sim.units || !reads_data(unit);
        return;
    }
    for (unit = a->start; unit < a->end; unit++) {
        if (!a->read_zero[unit]) {
            found[n++] =
                (StatusCut){ (int64_t)unit * UNIT, (int64_t)(unit + 1) * UNIT };
        }
    }
    sim.crossed += n > 0;
    sim.verified++;
    if (status_cache_verify_end(sim.cache, &a->op,
                                (int64_t)(a->end - a->start) * UNIT, found, n,
                                &lie, 1)) {
        ck_abort_msg("seed %u: a false lie at unit %d", sim.seed,
                     (int)(lie.start / UNIT));
    }
    a->what = ACT_IDLE;
}

static void actor_step(Actor *a)
{
    if (a->what == ACT_READ) {
        read_step(a);
    } else if (a->what == ACT_VERIFY) {
        verify_step(a);
    } else if (a->what == ACT_PROBE) {
        probe_step(a);
    } else if (a->what != ACT_IDLE) {
        request_step(a);
    } else {
        actor_start(a);
    }
}

/* ---- the world ----------------------------------------------------------- */

static void resize(void)
{
    int units = 1 + rnd(MAX_UNITS), i;

    if (busy(ACT_WRITE) || busy(ACT_ZERO) || busy(ACT_DISCARD)) {
        return; /* the block layer drains requests, but not probes */
    }
    for (i = MIN(units, sim.units); i < MAX_UNITS; i++) {
        sim.page[i] = PAGE_ABSENT;
        sim.dirty[i] = false;
        sim.mapped[i] = false;
    }
    sim.units = units;
    status_cache_resize(sim.cache, (int64_t)units * UNIT);
}

static const char *world_step(void)
{
    int unit = rnd(sim.units);
    int64_t offset = (int64_t)unit * UNIT;

    switch (rnd(12)) {
    case 0:
    case 1:
    case 2: /* writeback: first the mapping, then the page is clean */
        if (sim.dirty[unit]) {
            sim.mapped[unit] = true;
            sim.dirty[unit] = false;
        }
        return "writeback";
    case 3:
    case 4:
    case 5:
        if (!sim.dirty[unit]) {
            sim.page[unit] = PAGE_ABSENT;
        }
        return "reclaim";
    case 6: /* a read brings the page in */
        if (sim.page[unit] == PAGE_ABSENT) {
            sim.page[unit] = sim.mapped[unit] ? PAGE_DATA : PAGE_ZERO;
        }
        return "read";
    case 7:
        status_cache_forget(sim.cache, offset, UNIT);
        return "forget";
    case 8:
        if (!rnd(8)) {
            status_cache_flush(sim.cache);
        }
        return "flush";
    case 9:
        if (!rnd(4)) {
            resize();
        }
        return "resize";
    case 10:
        if (!rnd(8)) {
            sim.foreign = !sim.foreign;
            status_cache_set_mode(sim.cache, sim.foreign
                                                 ? STATUS_CACHE_DATA_ONLY
                                                 : STATUS_CACHE_ON);
        }
        return "mode";
    default:
        if (sim.foreign) {
            sim.page[unit] = PAGE_DATA;
            sim.dirty[unit] = true;
        }
        return "foreign write";
    }
}

static void settle(void)
{
    int i, unit;
    int64_t pnum;
    Actor *a = &sim.actors[0];

    for (i = 0; i < ACTORS; i++) {
        while (sim.actors[i].what != ACT_IDLE) {
            actor_step(&sim.actors[i]);
        }
    }
    check_truth("settling");
    status_cache_set_mode(sim.cache, STATUS_CACHE_ON);
    sim.foreign = false;
    for (unit = 0; unit < sim.units; unit++) {
        sim.mapped[unit] |= sim.dirty[unit];
        sim.dirty[unit] = false;
        sim.page[unit] = PAGE_ABSENT;
    }
    memset(a, 0, sizeof(*a));
    a->what = ACT_PROBE;
    a->end = sim.units;
    status_cache_probe_begin(sim.cache, &a->op, 0, (int64_t)a->end * UNIT);
    look_at_pages(a);
    for (unit = 0; unit < sim.units; unit++) {
        look_at_mapping(a, unit);
        tell(a);
    }
    status_cache_probe_end(sim.cache, &a->op);
    a->what = ACT_IDLE;
    check_truth("the last probe");
    for (unit = 0; unit < sim.units; unit++) {
        ck_assert_msg(status_cache_peek(sim.cache, (int64_t)unit * UNIT, UNIT,
                                        &pnum) != BLOCK_STATE_UNKNOWN,
                      "seed %u: unit %d stays unknown", sim.seed, unit);
    }
}

static void episode(guint32 seed, int steps)
{
    StatusCacheOptions o = {
        .granularity = BLOCK,
        .mode = STATUS_CACHE_ON,
    };

    memset(&sim, 0, sizeof(sim));
    sim.seed = seed;
    sim.rand = g_rand_new_with_seed(seed);
    sim.units = 1 + rnd(MAX_UNITS);
    o.length = (int64_t)sim.units * UNIT;
    sim.cache = status_cache_new(&o, NULL);
    while (steps--) {
        if (rnd(3)) {
            actor_step(&sim.actors[rnd(ACTORS)]);
            check_truth("a request's step");
        } else {
            check_truth(world_step());
        }
    }
    settle();
    status_cache_unref(sim.cache);
    g_rand_free(sim.rand);
}

START_TEST(zero_is_never_said_of_data)
{
    const char *seed_text = g_getenv("TEST_SEED");
    const char *steps_text = g_getenv("TEST_STEPS");
    int64_t steps = steps_text ? atoll(steps_text) : 2000000;
    guint32 seed = seed_text ? strtoul(seed_text, NULL, 0) : 1;
    int64_t done, verified = 0, crossed = 0;

    for (done = 0; done < steps; done += 500) {
        episode(seed++, 500);
        verified += sim.verified;
        crossed += sim.crossed;
    }
    printf("# %jd verifications, %jd of them saw data\n", (intmax_t)verified,
           (intmax_t)crossed);
    ck_assert(steps < 100000 || crossed > 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status-model");
    TCase *tc = tcase_create("model");

    tcase_set_timeout(tc, 0);
    tcase_add_test(tc, zero_is_never_said_of_data);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
