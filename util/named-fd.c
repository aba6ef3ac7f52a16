/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * File descriptors with names: those that clients passed, and those that the
 * process was started with.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/error.h"
#include "util/fdset-int.h"
#include "util/fdset.h"
#include "util/limits.h"
#include "util/thread.h"

/* Where sd_listen_fds(3) has them begin */
#define LISTEN_FDS_START 3

typedef struct NamedFd {
    int fd;
    char *name; /* NULL: it goes by its number */
    bool kept;  /* passed by a service manager: what is taken is a duplicate */
} NamedFd;

static Mutex lock = MUTEX_INIT;
static GArray *passed;    /* lock: of NamedFd */
static GArray *inherited; /* lock: of NamedFd */

static void named_clear(void *element)
{
    NamedFd *n = element;

    if (n->fd >= 0) {
        close(n->fd);
    }
    g_free(n->name);
}

/* lock held */
static void append(GArray **list, NamedFd n)
{
    if (!*list) {
        *list = g_array_new(false, false, sizeof(NamedFd));
        g_array_set_clear_func(*list, named_clear);
    }
    g_array_append_val(*list, n);
}

static guint length(const GArray *list)
{
    return list ? list->len : 0;
}

/* ---- what the process was started with ---------------------------------- */

static guint64 get_number(const char *variable)
{
    const char *text = g_getenv(variable);
    guint64 n;

    if (!text || !g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT, &n, NULL)) {
        return 0;
    }
    return n;
}

static void add_inherited(int fd, int first_free, char **names)
{
    NamedFd n = { .fd = fd, .kept = fd < first_free };
    guint i = fd - LISTEN_FDS_START;

    if (n.kept && names && i < g_strv_length(names)) {
        n.name = g_strdup(names[i]);
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    append(&inherited, n);
}

static int compare_fds(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* All that are open now, ascending; without standard streams */
static GArray *open_fds(void)
{
    GArray *fds = g_array_new(false, false, sizeof(int));
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;

    /* cppcheck-suppress readdirCalled; there is one thread */
    while (dir && (entry = readdir(dir))) {
        int fd = atoi(entry->d_name); /* 0: "." and ".." */

        if (fd >= LISTEN_FDS_START && fd != dirfd(dir)) {
            g_array_append_val(fds, fd);
        }
    }
    if (dir) {
        closedir(dir);
    }
    g_array_sort(fds, compare_fds);
    return fds;
}

void named_fd_init(void)
{
    g_autoptr(GArray) fds = open_fds();
    const char *text = g_getenv("LISTEN_FDNAMES");
    g_auto(GStrv) names = text ? g_strsplit(text, ":", -1) : NULL;
    guint64 n = 0;
    guint i;

    MUTEX_GUARD(&lock);

    /* They may be meant for a parent of ours. */
    if (get_number("LISTEN_PID") == (guint64)getpid()) {
        n = get_number("LISTEN_FDS");
    }
    for (i = 0; i < fds->len; i++) {
        add_inherited(g_array_index(fds, int, i),
                      MIN(n + LISTEN_FDS_START, G_MAXINT), names);
    }
    g_unsetenv("LISTEN_PID");
    g_unsetenv("LISTEN_FDS");
    g_unsetenv("LISTEN_FDNAMES");
}

/* ---- what clients passed ------------------------------------------------ */

/* lock held. Close those of that name. */
static bool forget(const char *name)
{
    bool found = false;
    guint i;

    for (i = length(passed); i-- > 0;) {
        if (!strcmp(g_array_index(passed, NamedFd, i).name, name)) {
            g_array_remove_index(passed, i);
            found = true;
        }
    }
    return found;
}

bool named_fd_add(const char *name, int fd, GError **errp)
{
    MUTEX_GUARD(&lock);

    if (!name[0] || g_ascii_isdigit(name[0])) {
        close(fd);
        error_setg(errp,
                   "Parameter 'fdname' expects a name not starting with a "
                   "digit, not '%s'",
                   name);
        return false;
    }
    if (!limit_length(name, NAME_MAX_BYTES, "Parameter 'fdname'", errp)) {
        close(fd);
        return false;
    }
    forget(name);
    if (!limit_allows(length(passed), limits.passed_fds,
                      "file descriptors with names", errp)) {
        close(fd);
        return false;
    }
    append(&passed, (NamedFd){ .fd = fd, .name = g_strdup(name) });
    return true;
}

bool named_fd_close(const char *name, GError **errp)
{
    MUTEX_GUARD(&lock);

    if (forget(name)) {
        return true;
    }
    error_setg(errp, "File descriptor named '%s' not found", name);
    return false;
}

/* ---- both --------------------------------------------------------------- */

static bool is_called(const NamedFd *n, const char *name)
{
    guint64 number;

    if (n->name && !strcmp(n->name, name)) {
        return true;
    }
    return g_ascii_string_to_unsigned(name, 10, 0, G_MAXINT, &number, NULL) &&
           (int)number == n->fd;
}

/* lock held. Move or copy those of that name into @fds; 0 or -errno. */
static int take_from(GArray *list, const char *name, GArray *fds)
{
    guint i;
    int fd;

    for (i = 0; i < length(list); i++) {
        NamedFd *n = &g_array_index(list, NamedFd, i);

        if (n->fd < 0 || !is_called(n, name)) {
            continue;
        }
        fd = n->kept ? fcntl(n->fd, F_DUPFD_CLOEXEC, LISTEN_FDS_START) : n->fd;
        if (fd < 0) {
            return -errno;
        }
        g_array_append_val(fds, fd);
        if (!n->kept) {
            n->fd = -1;
        }
    }
    return 0;
}

static void close_fd(void *element)
{
    close(*(int *)element);
}

GArray *named_fd_take(const char *name, GError **errp)
{
    g_autoptr(GArray) fds = g_array_new(false, false, sizeof(int));
    int ret;

    g_array_set_clear_func(fds, close_fd);

    MUTEX_GUARD(&lock);

    ret = take_from(passed, name, fds);
    if (fds->len > 0) {
        forget(name);
    } else {
        ret = take_from(inherited, name, fds);
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not duplicate file descriptor '%s'",
                         name);
        return NULL;
    }
    if (fds->len == 0) {
        error_setg(errp,
                   "File descriptor named '%s' has not been found: neither "
                   "passed by getfd, nor by a service manager, nor open when "
                   "the daemon was started",
                   name);
        return NULL;
    }
    return g_steal_pointer(&fds);
}

void named_fd_close_passed(void)
{
    MUTEX_GUARD(&lock);

    g_clear_pointer(&passed, g_array_unref);
}

void named_fd_close_inherited(void)
{
    MUTEX_GUARD(&lock);

    g_clear_pointer(&inherited, g_array_unref);
}
