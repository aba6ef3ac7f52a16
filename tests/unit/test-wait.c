/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Waits that somebody else puts an end to (block/wait.c) */
#include <sched.h>

#include "block/wait.h"
#include "unit-main.h"

typedef struct Room {
    Mutex lock;
    Cond cond;
    BdrvCancel *cancel;
    int inside; /* lock: threads that are in bdrv_wait(), or about to be */
    bool open;  /* lock: what they wait for */
    bool turn;  /* they only wait to let others go first */
    int woken, cancelled, hurried;
} Room;

static void room_init(Room *room, BdrvCancel *cancel)
{
    *room = (Room){ .cancel = cancel };
    mutex_init(&room->lock);
    cond_init(&room->cond);
}

static void room_destroy(Room *room)
{
    cond_destroy(&room->cond);
    mutex_destroy(&room->lock);
}

static void *visitor(void *opaque)
{
    Room *room = opaque;
    int ret = 0;

    mutex_lock(&room->lock);
    room->inside++;
    while (ret == 0 && !room->open) {
        int (*wait)(Cond *, Mutex *, int64_t, BdrvCancel *) =
            room->turn ? bdrv_wait_turn : bdrv_wait;

        ret = wait(&room->cond, &room->lock, INT64_MAX, room->cancel);
    }
    room->inside--;
    if (ret == 0) {
        room->woken++;
    } else if (ret == -EAGAIN) {
        ck_assert(room->turn);
        room->hurried++;
    } else {
        ck_assert_int_eq(ret, -ECANCELED);
        room->cancelled++;
    }
    mutex_unlock(&room->lock);
    return NULL;
}

static void wait_for_inside(Room *room, int n)
{
    for (;;) {
        int inside;

        mutex_lock(&room->lock);
        inside = room->inside;
        mutex_unlock(&room->lock);
        if (inside == n) {
            return;
        }
        sched_yield();
    }
}

static void open_room(Room *room)
{
    mutex_lock(&room->lock);
    room->open = true;
    cond_broadcast(&room->cond);
    mutex_unlock(&room->lock);
}

START_TEST(test_deadline)
{
    BdrvCancel *cancel = bdrv_cancel_new();
    Room room;

    room_init(&room, cancel);
    mutex_lock(&room.lock);
    ck_assert_int_eq(bdrv_wait(&room.cond, &room.lock, 0, NULL), -ETIMEDOUT);
    ck_assert_int_eq(bdrv_wait(&room.cond, &room.lock, 0, cancel), -ETIMEDOUT);
    ck_assert_int_eq(bdrv_wait(&room.cond, &room.lock,
                               g_get_monotonic_time() + 1000, cancel),
                     -ETIMEDOUT);
    mutex_unlock(&room.lock);
    ck_assert(!bdrv_cancelled(cancel));

    /* Fired beforehand: even without a deadline it returns at once. */
    bdrv_cancel(cancel);
    ck_assert(bdrv_cancelled(cancel));
    mutex_lock(&room.lock);
    ck_assert_int_eq(bdrv_wait(&room.cond, &room.lock, INT64_MAX, cancel),
                     -ECANCELED);
    mutex_unlock(&room.lock);
    room_destroy(&room);
    bdrv_cancel_unref(cancel);
}
END_TEST

#define N 8

START_TEST(test_cancel)
{
    BdrvCancel *cancel = bdrv_cancel_new();
    pthread_t threads[3][N];
    Room rooms[3];
    int i, j;

    /* Two rooms share the token, the third has none. */
    for (i = 0; i < 3; i++) {
        room_init(&rooms[i], i < 2 ? cancel : NULL);
        for (j = 0; j < N; j++) {
            pthread_create(&threads[i][j], NULL, visitor, &rooms[i]);
        }
        wait_for_inside(&rooms[i], N);
    }
    bdrv_cancel(cancel);
    open_room(&rooms[2]);
    for (i = 0; i < 3; i++) {
        for (j = 0; j < N; j++) {
            pthread_join(threads[i][j], NULL);
        }
        ck_assert_int_eq(rooms[i].cancelled, i < 2 ? N : 0);
        ck_assert_int_eq(rooms[i].woken, i < 2 ? 0 : N);
        room_destroy(&rooms[i]);
    }
    bdrv_cancel(cancel);
    bdrv_cancel_unref(cancel);
}
END_TEST

START_TEST(test_woken)
{
    BdrvCancel *cancel = bdrv_cancel_new();
    pthread_t thread;
    Room room;

    room_init(&room, cancel);
    pthread_create(&thread, NULL, visitor, &room);
    wait_for_inside(&room, 1);
    open_room(&room);
    pthread_join(thread, NULL);
    ck_assert_int_eq(room.woken, 1);
    room_destroy(&room);
    bdrv_cancel_unref(cancel);
}
END_TEST

/* Who waits for a turn goes on, all others wait again; and so several times. */
START_TEST(test_hurry)
{
    BdrvCancel *cancel = bdrv_cancel_new();
    pthread_t threads[2][N];
    Room rooms[2];
    int round, i, j;

    room_init(&rooms[0], cancel);
    room_init(&rooms[1], cancel);
    rooms[1].turn = true;
    for (j = 0; j < N; j++) {
        pthread_create(&threads[0][j], NULL, visitor, &rooms[0]);
    }
    wait_for_inside(&rooms[0], N);
    for (round = 1; round <= 3; round++) {
        for (j = 0; j < N; j++) {
            pthread_create(&threads[1][j], NULL, visitor, &rooms[1]);
        }
        wait_for_inside(&rooms[1], N);
        bdrv_hurry_begin(cancel);
        for (j = 0; j < N; j++) {
            pthread_join(threads[1][j], NULL);
        }
        ck_assert_int_eq(rooms[1].hurried, round * N);

        /* It holds on until the end. */
        mutex_lock(&rooms[1].lock);
        ck_assert_int_eq(
            bdrv_wait_turn(&rooms[1].cond, &rooms[1].lock, INT64_MAX, cancel),
            -EAGAIN);
        mutex_unlock(&rooms[1].lock);
        bdrv_hurry_end(cancel);
        mutex_lock(&rooms[1].lock);
        ck_assert_int_eq(
            bdrv_wait_turn(&rooms[1].cond, &rooms[1].lock, 0, cancel),
            -ETIMEDOUT);
        mutex_unlock(&rooms[1].lock);
        wait_for_inside(&rooms[0], N);
    }
    /* Those that were told to hurry can still be told that it is over. */
    bdrv_hurry_begin(cancel);
    bdrv_cancel(cancel);
    mutex_lock(&rooms[1].lock);
    ck_assert_int_eq(
        bdrv_wait_turn(&rooms[1].cond, &rooms[1].lock, INT64_MAX, cancel),
        -ECANCELED);
    mutex_unlock(&rooms[1].lock);
    bdrv_hurry_end(cancel);
    for (j = 0; j < N; j++) {
        pthread_join(threads[0][j], NULL);
    }
    ck_assert_int_eq(rooms[0].cancelled, N);
    ck_assert_int_eq(rooms[0].hurried, 0);
    for (i = 0; i < 2; i++) {
        room_destroy(&rooms[i]);
    }
    bdrv_cancel_unref(cancel);
}
END_TEST

static void *hurrier(void *opaque)
{
    int i;

    for (i = 0; i < 20; i++) {
        bdrv_hurry_begin(opaque);
        bdrv_hurry_end(opaque);
    }
    return NULL;
}

/* Several tell the same waiters at the same time. */
START_TEST(test_hurry_and_cancel)
{
    int round;

    for (round = 0; round < 500; round++) {
        BdrvCancel *cancel = bdrv_cancel_new();
        pthread_t threads[4];
        pthread_t hurry;
        Room *rooms = g_new(Room, 2);
        int i;

        for (i = 0; i < 2; i++) {
            room_init(&rooms[i], cancel);
            rooms[i].turn = i == 1;
        }
        for (i = 0; i < 4; i++) {
            pthread_create(&threads[i], NULL, visitor, &rooms[i % 2]);
        }
        pthread_create(&hurry, NULL, hurrier, cancel);
        bdrv_cancel(cancel);
        for (i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
        }
        pthread_join(hurry, NULL);
        ck_assert_int_eq(rooms[0].cancelled, 2);
        ck_assert_int_eq(rooms[1].cancelled + rooms[1].hurried, 2);
        room_destroy(&rooms[0]);
        room_destroy(&rooms[1]);
        g_free(rooms);
        bdrv_cancel_unref(cancel);
    }
}
END_TEST

static void *opener(void *opaque)
{
    open_room(opaque);
    return NULL;
}

/* Wake-ups and cancellation at the same time; rooms go away right after. */
START_TEST(test_race)
{
    int round;

    for (round = 0; round < 500; round++) {
        BdrvCancel *cancel = bdrv_cancel_new();
        Room *rooms = g_new(Room, 2);
        pthread_t threads[4];
        pthread_t wake;
        int i;

        for (i = 0; i < 2; i++) {
            room_init(&rooms[i], cancel);
        }
        for (i = 0; i < 4; i++) {
            pthread_create(&threads[i], NULL, visitor, &rooms[i % 2]);
        }
        pthread_create(&wake, NULL, opener, &rooms[0]);
        bdrv_cancel(cancel);
        for (i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
        }
        pthread_join(wake, NULL);
        ck_assert_int_eq(rooms[0].woken + rooms[0].cancelled, 2);
        ck_assert_int_eq(rooms[1].cancelled, 2);
        room_destroy(&rooms[0]);
        room_destroy(&rooms[1]);
        g_free(rooms);
        bdrv_cancel_unref(cancel);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("wait");
    TCase *tc = tcase_create("wait");
    TCase *hurry = tcase_create("hurry");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_deadline);
    tcase_add_test(tc, test_cancel);
    tcase_add_test(tc, test_woken);
    tcase_add_test(tc, test_race);
    suite_add_tcase(s, tc);
    tcase_add_test(hurry, test_hurry);
    tcase_add_test(hurry, test_hurry_and_cancel);
    suite_add_tcase(s, hurry);
    return unit_main(s);
}
