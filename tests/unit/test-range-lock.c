/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Range locks (block/range-lock.c), whose insides show who waits */
#include <sched.h>

#include "block/range-lock.c"
#include "unit-main.h"

static RangeLock *lock;

static void set_up(void)
{
    lock = range_lock_new();
}

static void tear_down(void)
{
    range_lock_free(lock);
}

typedef struct Taker {
    int64_t offset, bytes;
    bool exclusive;
    BdrvCancel *cancel;
    pthread_t thread;
    int *sequence; /* under lock->lock, of all that got theirs */
    int turn;
    int ret;
} Taker;

static void *taker(void *opaque)
{
    Taker *t = opaque;
    RangeHold hold;

    t->ret = range_lock_acquire(lock, &hold, t->offset, t->bytes, t->exclusive,
                                t->cancel);
    if (t->ret == 0) {
        t->turn = ++*t->sequence;
        range_lock_release(lock, &hold);
    }
    return NULL;
}

/* Until @n threads sleep in range_lock_acquire() */
static void wait_for_waiters(unsigned n)
{
    for (;;) {
        unsigned waiting;

        mutex_lock(&lock->lock);
        waiting = lock->waiting;
        mutex_unlock(&lock->lock);
        if (waiting == n) {
            return;
        }
        sched_yield();
    }
}

static void start(Taker *t, unsigned n)
{
    pthread_create(&t->thread, NULL, taker, t);
    wait_for_waiters(n);
}

static void acquire(RangeHold *hold, int64_t offset, int64_t bytes, bool excl)
{
    ck_assert_int_eq(range_lock_acquire(lock, hold, offset, bytes, excl, NULL),
                     0);
}

START_TEST(test_no_conflict)
{
    RangeHold a, b, c, d;

    acquire(&a, 0, 100, false);
    acquire(&b, 50, 100, false);
    acquire(&c, 150, 10, true);
    acquire(&d, 160, 1, true);
    range_lock_release(lock, &b);
    acquire(&b, 100, 50, true);
    range_lock_release(lock, &a);
    range_lock_release(lock, &c);
    acquire(&c, 0, 100, true);
    range_lock_release(lock, &b);
    range_lock_release(lock, &c);
    range_lock_release(lock, &d);
}
END_TEST

/* An exclusive waiter is not overtaken by sharers that come later. */
START_TEST(test_fair)
{
    int sequence = 0;
    Taker excl = { .offset = 10, .bytes = 10, .exclusive = true };
    Taker shared = { .offset = 15, .bytes = 20 };
    Taker last = { .offset = 0, .bytes = 100, .exclusive = true };
    RangeHold hold, other;

    excl.sequence = shared.sequence = last.sequence = &sequence;
    acquire(&hold, 0, 11, false);
    start(&excl, 1);
    start(&shared, 2);
    start(&last, 3);
    acquire(&other, 100, 1, true);
    range_lock_release(lock, &other);
    ck_assert_int_eq(sequence, 0);
    range_lock_release(lock, &hold);
    pthread_join(excl.thread, NULL);
    pthread_join(shared.thread, NULL);
    pthread_join(last.thread, NULL);
    ck_assert_int_eq(excl.turn, 1);
    ck_assert_int_eq(shared.turn, 2);
    ck_assert_int_eq(last.turn, 3);
}
END_TEST

/* One that gives up does not stand in the way of those behind it. */
START_TEST(test_cancel)
{
    int sequence = 0;
    BdrvCancel *cancel = bdrv_cancel_new();
    Taker excl = { .bytes = 20, .exclusive = true, .cancel = cancel };
    Taker shared = { .offset = 15, .bytes = 5 };
    RangeHold hold;

    excl.sequence = shared.sequence = &sequence;
    acquire(&hold, 0, 10, false);
    start(&excl, 1);
    start(&shared, 2);
    bdrv_cancel(cancel);
    pthread_join(excl.thread, NULL);
    ck_assert_int_eq(excl.ret, -ECANCELED);
    pthread_join(shared.thread, NULL);
    ck_assert_int_eq(shared.ret, 0);
    ck_assert_int_eq(sequence, 1);

    /* Without a wait there is nothing to cancel. */
    ck_assert_int_eq(
        range_lock_acquire(lock, &(RangeHold){ 0 }, 5, 10, true, cancel),
        -ECANCELED);
    range_lock_release(lock, &hold);
    ck_assert_int_eq(range_lock_acquire(lock, &hold, 5, 10, true, cancel), 0);
    range_lock_release(lock, &hold);
    bdrv_cancel_unref(cancel);
}
END_TEST

#define CELLS 32
static int cells[CELLS]; /* what the lock protects, cell by cell */

static void *worker(void *opaque)
{
    GRand *rand = g_rand_new_with_seed(GPOINTER_TO_INT(opaque));
    int i, j;

    for (i = 0; i < 3000; i++) {
        int from = g_rand_int_range(rand, 0, CELLS);
        int n = g_rand_int_range(rand, 0, MIN(CELLS - from, 8) + 1);
        bool exclusive = g_rand_boolean(rand);
        int sum = 0;
        RangeHold hold;

        acquire(&hold, from, n, exclusive);
        for (j = from; j < from + n; j++) {
            if (exclusive) {
                cells[j]++;
            } else {
                sum += cells[j];
            }
        }
        for (j = from; j < from + n && !exclusive; j++) {
            sum -= cells[j];
        }
        range_lock_release(lock, &hold);
        ck_assert_int_eq(sum, 0);
    }
    g_rand_free(rand);
    return NULL;
}

START_TEST(test_stress)
{
    pthread_t threads[6];
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(threads); i++) {
        pthread_create(&threads[i], NULL, worker, GINT_TO_POINTER(i));
    }
    for (i = 0; i < G_N_ELEMENTS(threads); i++) {
        pthread_join(threads[i], NULL);
    }
    ck_assert_ptr_null(lock->head);
    ck_assert_ptr_null(lock->tail);
    ck_assert_uint_eq(lock->waiting, 0);
}
END_TEST

/* ---- without waiting ---------------------------------------------------- */

static void try_acquire(RangeHold *hold, int64_t offset, int64_t bytes,
                        int64_t expected, int64_t expected_next)
{
    int64_t next = -1;

    ck_assert_int_eq(
        range_lock_try_acquire(lock, hold, offset, bytes, 10, &next), expected);
    if (expected == 0) {
        ck_assert_int_eq(next, expected_next);
    }
}

/* What is free from the start on, in steps of 10; others' shared holds count */
START_TEST(test_try_acquire)
{
    RangeHold a, b, c, d;

    acquire(&a, 35, 4, false);
    acquire(&b, 60, 5, true);
    try_acquire(&c, 30, 40, 0, 40);
    try_acquire(&c, 40, 23, 20, -1);
    try_acquire(&d, 0, 100, 30, -1);
    range_lock_release(lock, &d);
    try_acquire(&d, 50, 20, 0, 60);
    try_acquire(&d, 60, 10, 0, 70);
    /* All of it need not be a multiple. */
    try_acquire(&d, 70, 33, 33, -1);
    range_lock_release(lock, &a);
    range_lock_release(lock, &b);
    range_lock_release(lock, &c);
    range_lock_release(lock, &d);
}
END_TEST

START_TEST(test_extend_and_shrink)
{
    int turns = 0;
    Taker t = {
        .offset = 15, .bytes = 1, .exclusive = true, .sequence = &turns
    };
    RangeHold a, b;

    try_acquire(&a, 0, 10, 10, -1);
    acquire(&b, 30, 1, false);
    ck_assert(range_lock_try_extend(lock, &a, 20));
    ck_assert(!range_lock_try_extend(lock, &a, 1));
    start(&t, 1);
    range_lock_shrink(lock, &a, 16);
    ck_assert_uint_eq(range_lock_waiting(lock), 1);
    range_lock_shrink(lock, &a, 15);
    pthread_join(t.thread, NULL);
    ck_assert_int_eq(t.ret, 0);
    /* Who waits is in the way, too. */
    t.offset = 14;
    t.bytes = 10;
    start(&t, 1);
    ck_assert(!range_lock_try_extend(lock, &a, 1));
    range_lock_release(lock, &a);
    pthread_join(t.thread, NULL);
    range_lock_release(lock, &b);
}
END_TEST

/* In line behind those who came before, and before those who come after */
START_TEST(test_line_up)
{
    int turns = 0;
    Taker t = {
        .offset = 15, .bytes = 1, .exclusive = true, .sequence = &turns
    };
    RangeHold a, mine;

    acquire(&a, 5, 10, false);
    range_lock_line_up(lock, &mine, 10, 10);
    ck_assert(!range_lock_is_mine(lock, &mine));
    start(&t, 1);
    range_lock_release(lock, &a);
    ck_assert(range_lock_is_mine(lock, &mine));
    ck_assert_uint_eq(range_lock_waiting(lock), 1);
    range_lock_release(lock, &mine);
    pthread_join(t.thread, NULL);
    ck_assert_int_eq(t.turn, 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("range-lock");
    TCase *tc = tcase_create("range-lock");

    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_no_conflict);
    tcase_add_test(tc, test_fair);
    tcase_add_test(tc, test_cancel);
    tcase_add_test(tc, test_stress);
    tcase_add_test(tc, test_try_acquire);
    tcase_add_test(tc, test_extend_and_shrink);
    tcase_add_test(tc, test_line_up);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
