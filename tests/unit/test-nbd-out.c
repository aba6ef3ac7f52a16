/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Replies on their way out, to a client that takes them slowly or not at all */
#include <check.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nbd-peer.h"
#include "unit-main.h"

#define BLOCK 4096

typedef struct Piped {
    NbdConn conn;
    NbdThread thread;
    int client;
    GByteArray *all; /* what is to come */
} Piped;

static Piped *piped_new(void)
{
    Piped *p = g_new0(Piped, 1);
    int sv[2], least = 1;

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    ck_assert_int_eq(
        setsockopt(sv[0], SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
    p->conn.fd = sv[0];
    p->client = sv[1];
    mutex_init(&p->conn.send_lock);
    p->thread.conn = &p->conn;
    p->all = g_byte_array_new();
    return p;
}

static void piped_free(Piped *p)
{
    nbd_buffer_free(&p->thread);
    close(p->conn.fd);
    close(p->client);
    mutex_destroy(&p->conn.send_lock);
    g_byte_array_unref(p->all);
    g_free(p);
}

/* A reply of @bytes of data, all of them @i */
static void piped_reply(Piped *p, uint8_t i, size_t bytes)
{
    uint8_t head[16], fields[8];

    memset(head, 0x80 | i, sizeof(head));
    memset(fields, 0x40 | i, sizeof(fields));
    ck_assert_uint_eq(nbd_buffer_want(&p->thread, bytes), bytes);
    memset(p->thread.data, i, bytes);
    g_byte_array_append(p->all, head, sizeof(head));
    g_byte_array_append(p->all, fields, sizeof(fields));
    g_byte_array_append(p->all, p->thread.data, bytes);
    ck_assert(nbd_out_add(&p->thread, head, sizeof(head), fields,
                          sizeof(fields), p->thread.data, bytes));
}

/* The next @bytes are as they should be. */
static void piped_take(Piped *p, size_t bytes)
{
    g_autofree uint8_t *got = g_malloc(bytes);

    peer_recv(p->client, got, bytes);
    ck_assert_mem_eq(got, p->all->data, bytes);
    g_byte_array_remove_range(p->all, 0, bytes);
}

/* The watch sends what goes in, again and again; others come behind that. */
START_TEST(test_in_small_bits)
{
    Piped *p = piped_new();
    int n = 0;

    p->thread.may_hold = 100;
    while (n < 9) {
        n++;
        piped_reply(p, n, BLOCK + n);
    }
    ck_assert(nbd_out_waits(&p->conn));
    ck_assert_uint_eq(nbd_out_held(&p->thread), 18 * BLOCK);
    while (!nbd_out_try_send(&p->conn)) {
        ck_assert_uint_gt(nbd_out_held(&p->thread), 0);
        if (n < 12) {
            n++;
            piped_reply(p, n, 1000);
        }
        piped_take(p, 1500);
    }
    ck_assert(!nbd_out_waits(&p->conn));
    ck_assert_uint_eq(nbd_out_held(&p->thread), 0);
    ck_assert_int_eq(n, 12);
    piped_take(p, p->all->len);
    piped_free(p);
}
END_TEST

/* Nobody takes its replies any more, and they are forgotten. */
START_TEST(test_nobody_takes_it)
{
    Piped *p = piped_new();

    p->thread.may_hold = 100;
    piped_reply(p, 1, BLOCK);
    shutdown(p->client, SHUT_RD);
    ck_assert(nbd_out_try_send(&p->conn));
    ck_assert(nbd_conn_hung_up(&p->conn));
    ck_assert_uint_eq(nbd_out_held(&p->thread), 0);
    ck_assert(!nbd_out_waits(&p->conn));
    piped_free(p);
}
END_TEST

/* So many wait, and no more. */
START_TEST(test_how_many_wait)
{
    Piped *p = piped_new();

    p->thread.may_hold = 2;
    for (int i = 0; i < 6; i++) {
        piped_reply(p, i, 100);
        ck_assert(nbd_out_waits(&p->conn) == (i % 3 != 2));
    }
    piped_take(p, p->all->len);
    /* No buffer is so large. */
    p->thread.may_hold = 1000;
    ck_assert(nbd_buffer_has_room(&p->thread, 2 * NBD_MAX_REQUEST));
    piped_reply(p, 0, 100);
    ck_assert(nbd_buffer_has_room(&p->thread, NBD_IN_BYTES));
    ck_assert(!nbd_buffer_has_room(&p->thread, NBD_MAX_REQUEST));
    ck_assert(nbd_out_send(&p->conn));
    ck_assert(nbd_buffer_has_room(&p->thread, NBD_MAX_REQUEST));
    piped_free(p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("nbd-out");
    TCase *out = tcase_create("out");

    tcase_add_test(out, test_in_small_bits);
    tcase_add_test(out, test_nobody_takes_it);
    tcase_add_test(out, test_how_many_wait);
    suite_add_tcase(s, out);

    return unit_main(s);
}
