/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Image locks (block/image-lock.c): against each other, byte by byte, and
 * against stock QEMU where qemu-io is installed.
 */
#include <check.h>
#include <fcntl.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/block.h"
#include "block/image-lock.h"
#include "test-fs.h"
#include "unit-main.h"

static char *path;
static int fd_a, fd_b, fd_c; /* three descriptions of one file */
static ImageLock a, b;

static void setup(void)
{
    path = g_strdup_printf("%s/disk", test_fs[0].dir);
    fd_a = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    ck_assert_int_ge(fd_a, 0);
    ck_assert_int_eq(ftruncate(fd_a, 1 << 20), 0);
    fd_b = open(path, O_RDWR | O_CLOEXEC);
    fd_c = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert(image_lock_supported(fd_a));
    image_lock_init(&a, fd_a, path, true);
    image_lock_init(&b, fd_b, path, true);
}

static void teardown(void)
{
    image_lock_destroy(&a);
    image_lock_destroy(&b);
    close(fd_a);
    close(fd_b);
    close(fd_c);
    unlink(path);
    g_free(path);
}

/* The bytes that others than fd_c have locked, as "100 101 203" */
static char *locked_bytes(void)
{
    GString *s = g_string_new(NULL);
    int byte;

    for (byte = 0; byte < 300; byte++) {
        struct flock fl = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1
        };

        ck_assert_int_eq(fcntl(fd_c, F_OFD_GETLK, &fl), 0);
        if (fl.l_type != F_UNLCK) {
            g_string_append_printf(s, "%s%d", s->len ? " " : "", byte);
        }
    }
    return g_string_free(s, FALSE);
}

#define ASSERT_LOCKED(bytes)                                                   \
    do {                                                                       \
        g_autofree char *locked = locked_bytes();                              \
        ck_assert_str_eq(locked, bytes);                                       \
    } while (0)

/* Take @perm and share @shared at once; the message if that is refused */
static char *take(ImageLock *lock, uint64_t perm, uint64_t shared)
{
    g_autoptr(GError) err = NULL;

    if (!image_lock_check(lock, perm, shared, &err)) {
        ck_assert_ptr_nonnull(err);
        return g_strdup(err->message);
    }
    image_lock_set(lock, perm, shared);
    return NULL;
}

#define ASSERT_TAKES(lock, perm, shared)                                       \
    ck_assert_ptr_null(take(lock, perm, shared))
#define ASSERT_REFUSED(lock, perm, shared, text)                               \
    do {                                                                       \
        g_autofree char *msg = take(lock, perm, shared);                       \
        ck_assert_ptr_nonnull(msg);                                            \
        ck_assert_msg(strstr(msg, text), "'%s' lacks '%s'", msg, text);        \
        ck_assert_msg(strstr(msg, path), "'%s' lacks the path", msg);          \
    } while (0)

START_TEST(test_bytes)
{
    ASSERT_LOCKED("");
    ASSERT_TAKES(&a, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    ASSERT_LOCKED("100");
    ASSERT_TAKES(&a, BLK_PERM_ALL, 0);
    ASSERT_LOCKED("100 101 102 103 200 201 202 203");
    ASSERT_TAKES(&a, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                 BLK_PERM_ALL & ~BLK_PERM_RESIZE);
    ASSERT_LOCKED("100 101 203");
    ASSERT_TAKES(&a, 0, BLK_PERM_ALL);
    ASSERT_LOCKED("");
}
END_TEST

START_TEST(test_conflicts)
{
    const uint64_t no_write = BLK_PERM_ALL & ~BLK_PERM_WRITE;

    /* What the first does not share, the second does not get... */
    ASSERT_TAKES(&a, BLK_PERM_CONSISTENT_READ, no_write);
    ASSERT_REFUSED(&b, BLK_PERM_WRITE, BLK_PERM_ALL,
                   "Failed to get \"write\" lock");
    ASSERT_TAKES(&b, BLK_PERM_CONSISTENT_READ, no_write);
    /* ...and what the first has, the second must share. */
    ASSERT_TAKES(&b, 0, BLK_PERM_ALL);
    ASSERT_TAKES(&a, BLK_PERM_WRITE, BLK_PERM_ALL);
    ASSERT_REFUSED(&b, BLK_PERM_CONSISTENT_READ, no_write,
                   "Failed to get shared \"write\" lock");
    ASSERT_TAKES(&b, BLK_PERM_WRITE, BLK_PERM_ALL);
    ASSERT_REFUSED(&b, BLK_PERM_WRITE, no_write, "shared \"write\"");
    ASSERT_TAKES(&a, BLK_PERM_RESIZE, BLK_PERM_ALL);
    ASSERT_REFUSED(&b, 0, BLK_PERM_ALL & ~BLK_PERM_RESIZE,
                   "Failed to get shared \"resize\" lock. Is another process "
                   "using the image [");
}
END_TEST

START_TEST(test_refusal_changes_nothing)
{
    ASSERT_TAKES(&a, BLK_PERM_WRITE, BLK_PERM_ALL & ~BLK_PERM_RESIZE);
    ASSERT_TAKES(&b, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    ASSERT_LOCKED("100 101 203");
    ASSERT_REFUSED(&b, BLK_PERM_RESIZE | BLK_PERM_WRITE_UNCHANGED,
                   BLK_PERM_ALL & ~BLK_PERM_CONSISTENT_READ, "\"resize\"");
    ASSERT_LOCKED("100 101 203");
}
END_TEST

/* Somebody looks: he has locks that will not last. Who has his own keeps them, and
 * may give up some; only what is new is refused. */
START_TEST(test_letting_go)
{
    ASSERT_TAKES(&a, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                 BLK_PERM_CONSISTENT_READ);
    ck_assert_int_eq(fcntl(fd_b, F_OFD_SETLK,
                           &(struct flock){ .l_type = F_RDLCK,
                                            .l_whence = SEEK_SET,
                                            .l_start = 100,
                                            .l_len = 200 }),
                     0);
    ASSERT_TAKES(&a, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                 BLK_PERM_CONSISTENT_READ);
    ASSERT_TAKES(&a, BLK_PERM_WRITE,
                 BLK_PERM_CONSISTENT_READ | BLK_PERM_RESIZE);
    ASSERT_REFUSED(&a, BLK_PERM_WRITE | BLK_PERM_CONSISTENT_READ,
                   BLK_PERM_CONSISTENT_READ, "\"consistent read\" lock");
    ASSERT_REFUSED(&a, BLK_PERM_WRITE, BLK_PERM_CONSISTENT_READ,
                   "shared \"resize\" lock");
    ASSERT_TAKES(&a, 0, BLK_PERM_ALL);
}
END_TEST

START_TEST(test_two_steps)
{
    ASSERT_TAKES(&a, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    /* Between the steps the old and the new are held. */
    ck_assert(image_lock_check(&a, BLK_PERM_WRITE,
                               BLK_PERM_ALL & ~BLK_PERM_WRITE, NULL));
    ASSERT_LOCKED("100 101 201");
    image_lock_abort(&a);
    ASSERT_LOCKED("100");
    ck_assert(image_lock_check(&a, BLK_PERM_WRITE,
                               BLK_PERM_ALL & ~BLK_PERM_WRITE, NULL));
    image_lock_set(&a, BLK_PERM_WRITE, BLK_PERM_ALL & ~BLK_PERM_WRITE);
    ASSERT_LOCKED("101 201");
    image_lock_destroy(&a);
    ASSERT_LOCKED("");
}
END_TEST

START_TEST(test_guard)
{
    /* One's own write permission does not hinder it. */
    ASSERT_TAKES(&a, BLK_PERM_WRITE, BLK_PERM_ALL);
    ck_assert(image_lock_guard(&a));
    ck_assert(image_lock_guard(&a));
    ASSERT_LOCKED("101 201");
    ASSERT_REFUSED(&b, BLK_PERM_WRITE, BLK_PERM_ALL,
                   "Failed to get \"write\" lock");
    ASSERT_TAKES(&b, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    /* It outlives changes of permissions, also undone ones. */
    ASSERT_TAKES(&a, 0, BLK_PERM_ALL);
    ck_assert(image_lock_check(&a, BLK_PERM_RESIZE,
                               BLK_PERM_ALL & ~BLK_PERM_WRITE, NULL));
    image_lock_abort(&a);
    ASSERT_LOCKED("100 201");
    image_lock_unguard(&a);
    ASSERT_LOCKED("100");
    ASSERT_TAKES(&b, BLK_PERM_WRITE, BLK_PERM_ALL);
    /* And cannot be had now. */
    ck_assert(!image_lock_guard(&a));
    ASSERT_LOCKED("101");
    ASSERT_TAKES(&b, 0, BLK_PERM_ALL);
    ck_assert(image_lock_guard(&a));
    image_lock_destroy(&a);
    ASSERT_LOCKED("");
}
END_TEST

START_TEST(test_guard_over_unshared)
{
    ASSERT_TAKES(&a, 0, BLK_PERM_ALL & ~BLK_PERM_WRITE);
    ck_assert(image_lock_guard(&a));
    image_lock_unguard(&a);
    ASSERT_LOCKED("201");
}
END_TEST

START_TEST(test_read_only_descriptor)
{
    ImageLock c;

    image_lock_init(&c, fd_c, path, true);
    ASSERT_TAKES(&c, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL & ~BLK_PERM_WRITE);
    ASSERT_REFUSED(&b, BLK_PERM_WRITE, BLK_PERM_ALL, "\"write\"");
    ASSERT_TAKES(&c, 0, BLK_PERM_ALL);
    ck_assert(image_lock_guard(&c));
    ASSERT_REFUSED(&b, BLK_PERM_WRITE, BLK_PERM_ALL, "\"write\"");
    image_lock_destroy(&c);
    ASSERT_TAKES(&b, BLK_PERM_WRITE, BLK_PERM_ALL);
}
END_TEST

/* Another description takes the place of the first, or does not. */
START_TEST(test_second_description)
{
    int next = open(path, O_RDONLY | O_CLOEXEC);

    ASSERT_TAKES(&a, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                 BLK_PERM_ALL & ~BLK_PERM_RESIZE);
    ck_assert(image_lock_join(&a, next, NULL));
    image_lock_part(&a);
    close(next);
    ASSERT_LOCKED("100 101 203");

    next = open(path, O_RDONLY | O_CLOEXEC);
    ASSERT_TAKES(&a, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL & ~BLK_PERM_RESIZE);
    ck_assert(image_lock_guard(&a));
    ck_assert(image_lock_check(&a, BLK_PERM_RESIZE, BLK_PERM_ALL, NULL));
    ck_assert(image_lock_join(&a, next, NULL));
    ASSERT_LOCKED("100 103 201 203");
    image_lock_hand_over(&a);
    ASSERT_LOCKED("100 103 201 203");
    ASSERT_REFUSED(&b, BLK_PERM_WRITE, BLK_PERM_ALL, "\"write\" lock");
    ck_assert_int_eq(dup2(next, fd_a), fd_a);
    close(next);
    ASSERT_LOCKED("100 103 201 203");
    image_lock_set(&a, BLK_PERM_RESIZE, BLK_PERM_ALL);
    ASSERT_LOCKED("103 201");

    /* What changes meanwhile, changes on both. */
    next = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert(image_lock_join(&a, next, NULL));
    image_lock_unguard(&a);
    ASSERT_LOCKED("103");
    ck_assert(image_lock_guard(&a));
    image_lock_hand_over(&a);
    ASSERT_LOCKED("103 201");
    ck_assert_int_eq(dup2(next, fd_a), fd_a);
    close(next);
    image_lock_unguard(&a);
    ASSERT_LOCKED("103");
    ASSERT_TAKES(&b, BLK_PERM_WRITE, BLK_PERM_ALL);
}
END_TEST

START_TEST(test_disabled)
{
    ImageLock off;
    int fd = open(path, O_RDWR | O_CLOEXEC);

    image_lock_init(&off, fd, path, false);
    ASSERT_TAKES(&off, BLK_PERM_ALL, 0);
    ck_assert(!image_lock_guard(&off));
    ASSERT_LOCKED("");
    ASSERT_TAKES(&a, BLK_PERM_ALL, 0);
    ASSERT_TAKES(&off, BLK_PERM_WRITE, 0);
    image_lock_destroy(&off);
    close(fd);
}
END_TEST

START_TEST(test_unsupported)
{
    int fds[2];

    /* A descriptor that knows no locks: a closed one will do. */
    ck_assert_int_eq(pipe(fds), 0);
    close(fds[0]);
    ck_assert(!image_lock_supported(fds[0]));
    close(fds[1]);
}
END_TEST

/* ---- stock QEMU --------------------------------------------------------- */

static bool have_qemu_io(void)
{
    g_autofree char *program = g_find_program_in_path("qemu-io");

    if (!program) {
        g_printerr("qemu-io is not installed: not tested against it\n");
    }
    return program != NULL;
}

/* Run qemu-io with one command; what it printed. */
static char *qemu_io(const char *access, const char *command)
{
    g_autofree char *line = g_strdup_printf(
        "exec 2>&1; qemu-io %s -f raw -c '%s' %s", access, command, path);
    g_autoptr(GError) err = NULL;
    const char *argv[] = { "sh", "-c", line, NULL };
    char *out = NULL;

    ck_assert_msg(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH,
                               NULL, NULL, &out, NULL, NULL, &err),
                  "%s", err ? err->message : "");
    return out;
}

#define ASSERT_PRINTS(access, command, text)                                   \
    do {                                                                       \
        g_autofree char *out = qemu_io(access, command);                       \
        ck_assert_msg(strstr(out, text), "'%s' lacks '%s'", out, text);        \
    } while (0)

START_TEST(test_qemu_is_refused)
{
    if (!have_qemu_io()) {
        return;
    }
    ASSERT_PRINTS("", "write 0 4k", "wrote 4096/4096");
    ck_assert(image_lock_guard(&a));
    ASSERT_PRINTS("", "write 0 4k", "Failed to get \"write\" lock");
    ASSERT_PRINTS("-r", "read 0 4k", "read 4096/4096");
    image_lock_unguard(&a);
    ASSERT_TAKES(&a, BLK_PERM_WRITE, BLK_PERM_ALL);
    ASSERT_PRINTS("", "write 0 4k", "wrote 4096/4096");
    ASSERT_TAKES(&a, BLK_PERM_WRITE, 0);
    ASSERT_PRINTS("-r", "read 0 4k", "Failed to get \"consistent read\" lock");
    ASSERT_TAKES(&a, 0, BLK_PERM_ALL);
    ASSERT_PRINTS("", "write 0 4k", "wrote 4096/4096");
}
END_TEST

/* A qemu-io that has the image open until its standard input ends */
typedef struct Holder {
    GPid pid;
    int in, out;
} Holder;

static void holder_start(Holder *h)
{
    const char *argv[] = { "qemu-io", "-f", "raw", path, NULL };
    g_autoptr(GError) err = NULL;
    GString *said = g_string_new(NULL);
    char c;

    ck_assert_msg(g_spawn_async_with_pipes(
                      NULL, (char **)argv, NULL,
                      G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL,
                      NULL, &h->pid, &h->in, &h->out, NULL, &err),
                  "%s", err ? err->message : "");
    /* Its answer shows that it has opened the image. */
    ck_assert_int_eq(write(h->in, "length\n", 7), 7);
    while (!strstr(said->str, "1 MiB")) {
        ck_assert_int_eq(read(h->out, &c, 1), 1);
        g_string_append_c(said, c);
    }
    g_string_free(said, TRUE);
}

static void holder_end(Holder *h)
{
    int status;

    close(h->in);
    close(h->out);
    ck_assert_int_eq(waitpid(h->pid, &status, 0), h->pid);
}

START_TEST(test_qemu_refuses_us)
{
    Holder h;

    if (!have_qemu_io()) {
        return;
    }
    holder_start(&h);
    ck_assert(!image_lock_guard(&a));
    ASSERT_REFUSED(&a, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL & ~BLK_PERM_WRITE,
                   "Failed to get shared \"write\" lock");
    ASSERT_TAKES(&a, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    holder_end(&h);
    ck_assert(image_lock_guard(&a));
    ASSERT_TAKES(&a, BLK_PERM_RESIZE, BLK_PERM_ALL & ~BLK_PERM_WRITE);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("image-lock");
    TCase *tc = tcase_create("image-lock");
    int ret;

    test_fs_set_up_plain();
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_bytes);
    tcase_add_test(tc, test_conflicts);
    tcase_add_test(tc, test_refusal_changes_nothing);
    tcase_add_test(tc, test_letting_go);
    tcase_add_test(tc, test_two_steps);
    tcase_add_test(tc, test_guard);
    tcase_add_test(tc, test_guard_over_unshared);
    tcase_add_test(tc, test_read_only_descriptor);
    tcase_add_test(tc, test_second_description);
    tcase_add_test(tc, test_disabled);
    tcase_add_test(tc, test_unsupported);
    tcase_add_test(tc, test_qemu_is_refused);
    tcase_add_test(tc, test_qemu_refuses_us);
    suite_add_tcase(s, tc);
    ret = unit_main(s);
    test_fs_tear_down();
    return ret;
}
