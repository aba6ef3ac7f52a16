/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sets of file descriptors passed by clients */
#include "util/fdset.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "util/error.h"
#include "util/fdset-int.h"
#include "util/limits.h"
#include "util/thread.h"

#define PREFIX "/dev/fdset/"

typedef struct Member {
    int fd;
    char *opaque; /* or NULL */
} Member;

typedef struct Fdset {
    int64_t id;
    GArray *members; /* of Member */
    unsigned holders;
} Fdset;

static Mutex lock = MUTEX_INIT;
static GPtrArray *sets;    /* lock: of Fdset, by id; NULL: there are none */
static unsigned n_members; /* lock: of all sets */

static void member_clear(void *element)
{
    Member *m = element;

    n_members--;
    close(m->fd);
    g_free(m->opaque);
}

static void set_free(void *element)
{
    Fdset *set = element;

    g_array_unref(set->members);
    g_free(set);
}

/* lock held. NULL if there is none; its place in @index. */
static Fdset *find(int64_t id, guint *index)
{
    guint i;

    for (i = 0; sets && i < sets->len; i++) {
        Fdset *set = sets->pdata[i];

        if (set->id >= id) {
            *index = i;
            return set->id == id ? set : NULL;
        }
    }
    *index = i;
    return NULL;
}

/* lock held */
static int64_t lowest_free(void)
{
    guint i;

    for (i = 0; sets && i < sets->len; i++) {
        if (((Fdset *)sets->pdata[i])->id != i) {
            break;
        }
    }
    return i;
}

/* lock held */
static Fdset *find_or_add(int64_t id)
{
    guint index;
    Fdset *set = find(id, &index);

    if (set) {
        return set;
    }
    set = g_new0(Fdset, 1);
    set->id = id;
    set->members = g_array_new(false, false, sizeof(Member));
    g_array_set_clear_func(set->members, member_clear);
    if (!sets) {
        sets = g_ptr_array_new_with_free_func(set_free);
    }
    g_ptr_array_insert(sets, index, set);
    return set;
}

/* lock held. A set that is empty and not held goes away. */
static void drop_if_over(Fdset *set)
{
    if (set->members->len || set->holders) {
        return;
    }
    g_ptr_array_remove(sets, set);
    if (sets->len == 0) {
        g_clear_pointer(&sets, g_ptr_array_unref);
    }
}

/* lock held */
static bool has_room(const char *opaque, GError **errp)
{
    return limit_length(opaque ? opaque : "", FD_TEXT_MAX_BYTES,
                        "Parameter 'opaque'", errp) &&
           limit_allows(n_members, limits.passed_fds,
                        "file descriptors in sets", errp);
}

bool fdset_add(int fd, bool has_id, int64_t *id, const char *opaque,
               GError **errp)
{
    Member m = { fd, NULL };

    MUTEX_GUARD(&lock);

    if (has_id && *id < 0) {
        close(fd);
        error_setg(errp,
                   "Parameter 'fdset-id' expects a non-negative value, not "
                   "%" PRId64,
                   *id);
        return false;
    }
    if (!has_room(opaque, errp)) {
        close(fd);
        return false;
    }
    if (!has_id) {
        *id = lowest_free();
    }
    m.opaque = g_strdup(opaque);
    g_array_append_val(find_or_add(*id)->members, m);
    n_members++;
    /* cppcheck-suppress memleak; the array has a copy of @m */
    return true;
}

static bool remove_members(Fdset *set, int fd)
{
    bool found = false;
    guint i;

    for (i = set->members->len; i-- > 0;) {
        if (fd < 0 || g_array_index(set->members, Member, i).fd == fd) {
            g_array_remove_index(set->members, i);
            found = true;
        }
    }
    return found;
}

bool fdset_remove(int64_t id, int fd, GError **errp)
{
    Fdset *set;
    guint index;

    MUTEX_GUARD(&lock);

    set = find(id, &index);
    if (set && remove_members(set, fd)) {
        drop_if_over(set);
        return true;
    }
    if (fd < 0) {
        error_setg(
            errp, "File descriptor named 'fdset-id:%" PRId64 "' not found", id);
    } else {
        error_setg(errp,
                   "File descriptor named 'fdset-id:%" PRId64
                   ", fd:%d' not found",
                   id, fd);
    }
    return false;
}

static JsonArray *query_members(const Fdset *set)
{
    JsonArray *fds = json_array_new();
    guint i;

    for (i = 0; i < set->members->len; i++) {
        const Member *m = &g_array_index(set->members, Member, i);
        JsonObject *info = json_object_new();

        json_object_set_int_member(info, "fd", m->fd);
        if (m->opaque) {
            json_object_set_string_member(info, "opaque", m->opaque);
        }
        json_array_add_object_element(fds, info);
    }
    return fds;
}

JsonArray *fdset_query(void)
{
    JsonArray *list = json_array_new();
    guint i;

    MUTEX_GUARD(&lock);

    for (i = 0; sets && i < sets->len; i++) {
        const Fdset *set = sets->pdata[i];
        JsonObject *info = json_object_new();

        json_object_set_int_member(info, "fdset-id", set->id);
        json_object_set_array_member(info, "fds", query_members(set));
        json_array_add_object_element(list, info);
    }
    return list;
}

bool fdset_is_path(const char *path)
{
    return g_str_has_prefix(path, PREFIX);
}

static bool parse_path(const char *path, int64_t *id)
{
    guint64 n;

    if (!fdset_is_path(path) ||
        !g_ascii_string_to_unsigned(path + strlen(PREFIX), 10, 0, G_MAXINT64,
                                    &n, NULL)) {
        return false;
    }
    *id = n;
    return true;
}

static bool fits(int fd, int access, FdsetWant want)
{
    int has = fcntl(fd, F_GETFL);

    return has >= 0 && !(has & O_PATH) && (has & O_ACCMODE) == access &&
           (want == FDSET_ANY || !(has & O_DIRECT) == (want == FDSET_BUFFERED));
}

int fdset_dup(const char *path, int flags, FdsetWant want)
{
    int64_t id;
    Fdset *set;
    guint i;
    int fd;

    MUTEX_GUARD(&lock);

    if (!parse_path(path, &id)) {
        return -EINVAL;
    }
    set = find(id, &i);
    if (!set) {
        return -ENOENT;
    }
    for (i = 0; i < set->members->len; i++) {
        fd = g_array_index(set->members, Member, i).fd;
        if (fits(fd, flags & O_ACCMODE, want)) {
            fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
            return fd < 0 ? -errno : fd;
        }
    }
    return -EACCES;
}

bool fdset_hold(const char *path)
{
    int64_t id;
    guint index;
    Fdset *set;

    MUTEX_GUARD(&lock);

    set = parse_path(path, &id) ? find(id, &index) : NULL;
    if (set) {
        set->holders++;
    }
    return set != NULL;
}

void fdset_release(const char *path)
{
    int64_t id;
    guint index;
    Fdset *set;

    MUTEX_GUARD(&lock);

    set = parse_path(path, &id) ? find(id, &index) : NULL;
    g_assert(set && set->holders);
    set->holders--;
    drop_if_over(set);
}

static void close_sets(bool held)
{
    guint i;

    MUTEX_GUARD(&lock);

    for (i = sets ? sets->len : 0; i-- > 0;) {
        Fdset *set = sets->pdata[i];

        if (held || !set->holders) {
            g_array_set_size(set->members, 0);
            drop_if_over(set);
        }
    }
}

void fdset_close_unused(void)
{
    close_sets(false);
    named_fd_close_passed();
}

void fdset_close_all(void)
{
    close_sets(true);
    named_fd_close_passed();
    named_fd_close_inherited();
}
