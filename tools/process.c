/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A daemon as a process: into the background, what its manager is told, and a
 * file that names it */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tools/process.h"
#include "util/error.h"

/* Where the parent waits for a byte, or for the end of file; -1: no parent */
static int parent_fd = -1;

static ssize_t read_retry(int fd, void *buf, size_t len)
{
    ssize_t ret;

    do {
        ret = read(fd, buf, len);
    } while (ret < 0 && errno == EINTR);
    return ret;
}

bool process_open_stdio(GError **errp)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR);
        if (fd < 0) {
            error_setg_errno(errp, errno, "Could not open '/dev/null'");
            return false;
        }
    } while (fd <= STDERR_FILENO);
    close(fd);
    return true;
}

/* The end of the process that was started: never returns. */
static void parent_wait(int fd)
{
    char byte;

    /* _exit(): what stdio has buffered is the child's to write, too. */
    _exit(read_retry(fd, &byte, 1) == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
}

bool process_fork(GError **errp)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        error_setg_errno(errp, errno, "Could not create a pipe");
        return false;
    }
    pid = fork();
    if (pid < 0) {
        error_setg_errno(errp, errno, "Could not fork");
        close(fds[0]);
        close(fds[1]);
        return false;
    }
    if (pid > 0) {
        close(fds[1]);
        parent_wait(fds[0]);
    }

    /*
     * A session of its own, but not as its leader: opening a terminal must not
     * make it the daemon's controlling one.
     */
    close(fds[0]);
    setsid();
    pid = fork();
    if (pid < 0) {
        error_setg_errno(errp, errno, "Could not fork");
        close(fds[1]);
        return false;
    }
    if (pid > 0) {
        _exit(EXIT_SUCCESS);
    }
    umask(027);
    parent_fd = fds[1];
    return true;
}

bool process_detach(GError **errp)
{
    ssize_t ret;
    int fd, i;

    if (parent_fd < 0) {
        return true;
    }
    if (chdir("/") < 0) {
        error_setg_errno(errp, errno, "Could not change directory to '/'");
        return false;
    }
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        error_setg_errno(errp, errno, "Could not open '/dev/null'");
        return false;
    }
    for (i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
        dup2(fd, i);
    }
    if (fd > STDERR_FILENO) {
        close(fd);
    }
    /* If the parent was killed meanwhile there is nobody left to tell. */
    do {
        ret = write(parent_fd, "", 1);
    } while (ret < 0 && errno == EINTR);
    close(parent_fd);
    parent_fd = -1;
    return true;
}

/* ---- a service manager -------------------------------------------------- */

void process_notify(const char *state)
{
    const char *path = g_getenv("NOTIFY_SOCKET");
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    size_t len = path ? strlen(path) : 0;
    int fd;

    if ((len == 0) || (path[0] != '/' && path[0] != '@') ||
        len > sizeof(un.sun_path)) {
        return;
    }
    memcpy(un.sun_path, path, len);
    if (path[0] == '@') {
        un.sun_path[0] = '\0'; /* no file: a name in the kernel */
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return;
    }
    /* Who does not take it learns later, when its own patience ends. */
    (void)!sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT,
                  (struct sockaddr *)&un,
                  offsetof(struct sockaddr_un, sun_path) + len);
    close(fd);
}

/* ---- the pid file ------------------------------------------------------- */

static char *pidfile_path; /* absolute: the working directory may change */
static int pidfile_fd = -1;

static bool lock_file(int fd, GError **errp)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        error_setg_errno(errp, errno, "Cannot lock pid file");
        return false;
    }
    return true;
}

/* Is it what a daemon may have left behind? What is no pid file stays as it is. */
static bool check_content(int fd, const struct stat *st, const char *path,
                          GError **errp)
{
    char text[32];
    ssize_t len = S_ISREG(st->st_mode) ? pread(fd, text, sizeof(text), 0) : -1;
    ssize_t digits = 0;

    while (digits < len && g_ascii_isdigit(text[digits])) {
        digits++;
    }
    if (len == digits || (len == digits + 1 && text[digits] == '\n')) {
        return true;
    }
    error_setg(errp, "'%s' is there, and is not a pid file", path);
    return false;
}

/* Open and lock; -1 on error, -2 if the file was removed meanwhile */
static int open_locked(const char *path, GError **errp)
{
    struct stat here, there;
    /* A link may have been put there by somebody else. */
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        error_setg_errno(errp, errno, "Could not create '%s'", path);
        return -1;
    }
    if (!lock_file(fd, errp)) {
        close(fd);
        return -1;
    }
    if (fstat(fd, &here) < 0) {
        error_setg_errno(errp, errno, "Cannot stat file");
        close(fd);
        return -1;
    }
    /* Who ended between our open and our lock has removed its file. */
    if (lstat(path, &there) < 0 || here.st_dev != there.st_dev ||
        here.st_ino != there.st_ino) {
        close(fd);
        return -2;
    }
    if (!check_content(fd, &here, path, errp)) {
        close(fd);
        return -1;
    }
    return fd;
}

bool pidfile_create(const char *path, GError **errp)
{
    g_autofree char *text = g_strdup_printf("%d\n", (int)getpid());
    ssize_t len = strlen(text);
    int fd;

    do {
        fd = open_locked(path, errp);
    } while (fd == -2);
    if (fd < 0) {
        return false;
    }
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, len, 0) != len) {
        error_setg_errno(errp, errno, "Failed to write pid file");
        unlink(path);
        close(fd);
        return false;
    }
    /* The lock lasts as long as the descriptor. */
    pidfile_fd = fd;
    pidfile_path = g_canonicalize_filename(path, NULL);
    return true;
}

void pidfile_remove(void)
{
    if (pidfile_fd >= 0) {
        unlink(pidfile_path);
        close(pidfile_fd);
        g_clear_pointer(&pidfile_path, g_free);
        pidfile_fd = -1;
    }
}
