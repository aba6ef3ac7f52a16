/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Scatter/gather lists (util/iov.c) against one flat buffer */
#include <glib.h>
#include <stdint.h>
#include <string.h>

#include "unit-main.h"
#include "util/iov.h"

static char a[3], b[1], c[5];
static const struct iovec list[] = {
    { a, sizeof(a) },
    { NULL, 0 },
    { b, sizeof(b) },
    { c, sizeof(c) },
};
#define N (int)G_N_ELEMENTS(list)

static void set_up(void)
{
    memcpy(a, "abc", 3);
    memcpy(b, "d", 1);
    memcpy(c, "efghi", 5);
}

START_TEST(test_copy)
{
    size_t offset, bytes;

    ck_assert_uint_eq(iov_size(list, N), 9);
    ck_assert_uint_eq(iov_size(list, 0), 0);
    for (offset = 0; offset <= 10; offset++) {
        for (bytes = 0; bytes <= 10; bytes++) {
            size_t want = offset > 9 ? 0 : MIN(bytes, 9 - offset);
            char flat[9] = "abcdefghi";
            char buf[10];

            set_up();
            ck_assert_uint_eq(iov_to_buf(list, N, offset, buf, bytes), want);
            ck_assert_mem_eq(buf, flat + MIN(offset, 9), want);

            ck_assert_uint_eq(
                iov_from_buf(list, N, offset, "0123456789", bytes), want);
            memcpy(flat + MIN(offset, 9), "0123456789", want);
            ck_assert_uint_eq(iov_to_buf(list, N, 0, buf, 10), 9);
            ck_assert_mem_eq(buf, flat, 9);
        }
    }
}
END_TEST

START_TEST(test_slice)
{
    size_t offset, bytes;

    set_up();
    for (offset = 0; offset <= 9; offset++) {
        for (bytes = 0; bytes <= 9 - offset; bytes++) {
            struct iovec slice[G_N_ELEMENTS(list)];
            int n = iov_slice(list, N, offset, bytes, slice);
            char buf[9];

            ck_assert_int_le(n, N);
            ck_assert_uint_eq(iov_size(slice, n), bytes);
            ck_assert_uint_eq(iov_to_buf(slice, n, 0, buf, 9), bytes);
            ck_assert_mem_eq(buf, &"abcdefghi"[offset], bytes);
        }
    }
}
END_TEST

START_TEST(test_aligned)
{
    static char mem[64] __attribute__((aligned(64)));
    struct iovec iov[2] = { { mem, 16 }, { mem + 16, 8 } };

    ck_assert(iov_is_aligned(iov, 2, 16, 8));
    ck_assert(!iov_is_aligned(iov, 2, 16, 16));
    ck_assert(!iov_is_aligned(iov, 2, 32, 8));
    ck_assert(iov_is_aligned(iov, 1, 64, 16));
    ck_assert(iov_is_aligned(iov, 0, 64, 64));
}
END_TEST

START_TEST(test_zero)
{
    static uint8_t mem[1024];
    struct iovec iov[3] = { { mem, 7 }, { mem + 7, 0 }, { mem + 7, 1017 } };
    size_t start, bytes, i;

    /* One byte that is not zero, at each place of buffers of many a length */
    for (start = 0; start < 3; start++) {
        for (bytes = 0; bytes <= 700; bytes += bytes < 300 ? 1 : 97) {
            memset(mem, 1, sizeof(mem));
            memset(mem + start, 0, bytes);
            ck_assert(buffer_is_zero(mem + start, bytes));
            for (i = start; i < start + bytes; i++) {
                mem[i] = 0x80;
                ck_assert(!buffer_is_zero(mem + start, bytes));
                mem[i] = 0;
            }
        }
    }
    memset(mem, 0, sizeof(mem));
    ck_assert(iov_is_zero(iov, 3));
    ck_assert(iov_is_zero(iov, 0));
    mem[6] = 1;
    ck_assert(!iov_is_zero(iov, 3));
    mem[6] = 0;
    mem[1023] = 1;
    ck_assert(!iov_is_zero(iov, 3));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("iov");
    TCase *tc = tcase_create("iov");

    tcase_add_test(tc, test_copy);
    tcase_add_test(tc, test_slice);
    tcase_add_test(tc, test_aligned);
    tcase_add_test(tc, test_zero);
    suite_add_tcase(s, tc);
    return unit_main(s);
}
