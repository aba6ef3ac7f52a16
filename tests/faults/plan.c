/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define END 0
#define MAX_ERRORS 24

enum {
    TRANSFER = 0x1, /* may stop short */
    CHANGES = 0x2,  /* may fail though it was done, in part or as a whole */
    TAKES = 0x4,    /* only that is possible: done and failed */
    ONCE = 0x8,     /* never for ever */
};

typedef struct Kind {
    const char *name, *detail; /* NULL: any */
    int traits;
    int few[MAX_ERRORS], many[MAX_ERRORS];
} Kind;

#define NOT_SUPPORTED EOPNOTSUPP, ENOSYS, EINVAL
#define READ_ERRORS EIO, ENOMEM, EAGAIN, EBADF, ENXIO, ESTALE, EFAULT, EINTR
#define WRITE_ERRORS READ_ERRORS, ENOSPC, EDQUOT, EFBIG, EPERM, EROFS, ETXTBSY
#define OPEN_ERRORS                                                            \
    EIO, ENOMEM, EMFILE, ENFILE, EACCES, EPERM, EROFS, ENOENT, ENXIO, EBUSY,   \
        ETXTBSY, ELOOP, EWOULDBLOCK, ESTALE, EINTR, EINVAL

/* The first that fits counts. What is not here fails with EIO. */
static const Kind kinds[] = {
    { "pwritev64v2",
      "RWF_DSYNC",
      TRANSFER | CHANGES,
      { EIO, ENOSPC, EINTR, EOPNOTSUPP },
      { WRITE_ERRORS, NOT_SUPPORTED } },
    { "pwritev64v2",
      NULL,
      TRANSFER | CHANGES,
      { EIO, ENOSPC, EINTR },
      { WRITE_ERRORS, NOT_SUPPORTED } },
    { "pwrite64",
      NULL,
      TRANSFER | CHANGES,
      { EIO, ENOSPC, EINTR },
      { WRITE_ERRORS } },
    { "preadv64v2",
      NULL,
      TRANSFER,
      { EIO, EINTR },
      { READ_ERRORS, NOT_SUPPORTED } },
    { "pread64",
      NULL,
      TRANSFER,
      { EIO, EINTR, EINVAL },
      { READ_ERRORS, NOT_SUPPORTED } },
    { "fallocate64",
      NULL,
      CHANGES,
      { EIO, ENOSPC, EINTR, EOPNOTSUPP, EINVAL },
      { WRITE_ERRORS, NOT_SUPPORTED, ENODEV, EBUSY } },
    { "ioctl",
      "BLKZEROOUT",
      CHANGES,
      { EIO, EINTR, EOPNOTSUPP, EINVAL, EBUSY },
      { WRITE_ERRORS, NOT_SUPPORTED, ENOTTY, EBUSY, EREMOTEIO } },
    { "ioctl",
      "BLKDISCARD",
      CHANGES,
      { EIO, EINTR, EOPNOTSUPP, EINVAL, EBUSY },
      { WRITE_ERRORS, NOT_SUPPORTED, ENOTTY, EBUSY, EREMOTEIO } },
    { "ioctl",
      "FS_IOC_FIEMAP",
      0,
      { EIO, EINTR, EOPNOTSUPP, EINVAL },
      { READ_ERRORS, NOT_SUPPORTED, ENOTTY, EBADR } },
    { "ioctl",
      NULL,
      0,
      { EIO, ENOTTY },
      { EIO, ENOTTY, EINVAL, ENXIO, ENOMEM, EINTR } },
    { "ftruncate64",
      NULL,
      CHANGES,
      { EIO, EINTR, ENOSPC },
      { WRITE_ERRORS, EINVAL } },
    { "fdatasync",
      NULL,
      0,
      { EIO, ENOSPC, EINTR },
      { EIO, ENOSPC, EDQUOT, EROFS, EINVAL, ENOMEM, EINTR } },
    { "fsync",
      NULL,
      0,
      { EIO, EINTR },
      { EIO, ENOSPC, EDQUOT, EROFS, EINVAL, EINTR } },
    { "sync_file_range",
      NULL,
      0,
      { EIO, EINTR },
      { EIO, ENOSPC, ENOMEM, ESPIPE, EINVAL, EINTR } },
    { "lseek64",
      NULL,
      0,
      { EIO, EINTR, EINVAL },
      { EIO, ENOMEM, ESTALE, EINTR, NOT_SUPPORTED, ENOTTY, ESPIPE } },
    { "open64", NULL, 0, { EIO, EMFILE, EINVAL }, { OPEN_ERRORS } },
    { "stat64",
      NULL,
      0,
      { EIO, ENOMEM },
      { EIO, ENOMEM, EACCES, ENOENT, ELOOP, ENOTDIR, EOVERFLOW } },
    { "fstat64", NULL, 0, { EIO, ENOMEM }, { EIO, ENOMEM, EOVERFLOW, ESTALE } },
    { "statx", NULL, 0, { ENOSYS }, { EIO, ENOMEM, ENOSYS, EINVAL } },
    { "fcntl64",
      "F_OFD_SETLK",
      0,
      { EAGAIN, EINTR, ENOLCK },
      { EAGAIN, EACCES, EINTR, ENOLCK, EINVAL, EIO } },
    { "fcntl64",
      "F_OFD_GETLK",
      0,
      { EIO, EINVAL },
      { EIO, EINVAL, ENOLCK, EINTR } },
    { "fcntl64", "F_DUPFD_CLOEXEC", 0, { EMFILE }, { EMFILE, EINVAL } },
    { "fcntl64", "F_SETFL", 0, { EPERM }, { EPERM, EINVAL, EIO } },
    /* These cannot fail. */
    { "fcntl64", "F_GETFL", 0, { END }, { END } },
    { "fcntl64", "F_GETFD", 0, { END }, { END } },
    { "fcntl64", "F_SETFD", 0, { END }, { END } },
    { "close", NULL, TAKES | ONCE, { EIO }, { EIO, EINTR, ENOSPC, EDQUOT } },
    /* Descriptors that there are and numbers that are taken: nothing else */
    { "dup3", NULL, ONCE, { EINTR, EBUSY }, { EINTR, EBUSY } },
    { "syscall",
      "cachestat",
      0,
      { ENOSYS, EIO },
      { ENOSYS, EPERM, EOPNOTSUPP, EBADF, EIO, EFAULT } },
    { "syscall", "kcmp", 0, { ENOSYS, EPERM }, { ENOSYS, EPERM, EBADF } },
    { "fstatfs64", NULL, 0, { EIO }, { EIO, ENOSYS, ENOMEM, EINTR } },
    { "posix_fadvise64", NULL, 0, { EIO }, { EIO, EINVAL, ENOMEM } },
    { "access", NULL, 0, { ENOENT }, { ENOENT, EACCES, EIO } },
};

static const Kind any = { NULL, NULL, 0, { EIO }, { EIO, ENOMEM } };

static const Kind *kind_of(const SeamCall *call)
{
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (!strcmp(kinds[i].name, call->name) &&
            (!kinds[i].detail || !strcmp(kinds[i].detail, call->detail))) {
            return &kinds[i];
        }
    }
    return &any;
}

static void add(GArray *list, FaultKind kind, int err)
{
    Fault f = { .kind = kind, .err = err };

    g_array_append_val(list, f);
}

static bool is_unsupported(int err)
{
    return err == EOPNOTSUPP || err == ENOSYS || err == ENOTTY;
}

/* Who is interrupted tries again; so he is not interrupted for ever. */
static bool may_last(const Kind *k, int err)
{
    return !(k->traits & ONCE) && err != EINTR;
}

GArray *plan_faults(const SeamCall *call, bool thorough)
{
    const Kind *k = kind_of(call);
    const int *errors = thorough ? k->many : k->few;
    GArray *list = g_array_new(false, false, sizeof(Fault));
    int i;

    for (i = 0; errors[i] != END; i++) {
        int err = errors[i];

        if (k->traits & TAKES) {
            add(list, FAULT_AFTER, err);
            continue;
        }
        add(list, FAULT_FAIL, err);
        if (may_last(k, err) && (thorough || is_unsupported(err))) {
            add(list, FAULT_ALWAYS, err);
        }
        if ((k->traits & CHANGES) && !is_unsupported(err) && err != EINVAL &&
            err != EBUSY && err != EINTR && (thorough || err == EIO)) {
            add(list, FAULT_AFTER, err);
            add(list, FAULT_PARTLY, err);
        }
    }
    if (k->traits & TRANSFER) {
        add(list, FAULT_SHORT, 0);
        add(list, FAULT_NOTHING, 0);
    }
    return list;
}

/* ---- what is to come of it ---------------------------------------------- */

static bool is_one_of(const char *name, const char *const *names)
{
    return g_strv_contains(names, name);
}

bool plan_is_sync(const Fault *f)
{
    static const char *const names[] = { "fdatasync", "fsync",
                                         "sync_file_range", NULL };

    return is_one_of(f->call.name, names);
}

/* Another way is to be found, or none: then nothing was asked of the disk. */
static bool may_be_avoided(const Fault *f)
{
    static const char *const names[] = { "fallocate64", "ioctl", NULL };

    if (f->call.durable) {
        return is_unsupported(f->err);
    }
    return is_one_of(f->call.name, names) &&
           (is_unsupported(f->err) || f->err == EINVAL || f->err == EFBIG ||
            f->err == EBUSY);
}

int plan_above;

static bool is_for_itself(const Fault *f)
{
    return ((plan_above & PLAN_FORMAT) &&
            (!strcmp(f->call.name, "preadv64v2") ||
             !strcmp(f->call.detail, "PUNCH_HOLE") ||
             f->err == EOPNOTSUPP)) || /* a zero-write becomes a plain one */
           ((plan_above & PLAN_CLOSES) && plan_is_sync(f));
}

Verdict plan_verdict(const Fault *f)
{
    static const char *const names[] = { "pwritev64v2", "preadv64v2",
                                         "pwrite64",    "fallocate64",
                                         "ftruncate64", "fdatasync",
                                         "fsync",       "sync_file_range",
                                         NULL };
    bool counts = is_one_of(f->call.name, names) ||
                  !strcmp(f->call.detail, "BLKZEROOUT") ||
                  !strcmp(f->call.detail, "BLKDISCARD");
    bool asks = !strcmp(f->call.detail, "SEEK_DATA") ||
                !strcmp(f->call.detail, "SEEK_HOLE") ||
                !strcmp(f->call.detail, "FS_IOC_FIEMAP") ||
                !strcmp(f->call.detail, "F_OFD_SETLK") ||
                !strcmp(f->call.name, "dup3");

    if (f->kind == FAULT_SHORT) {
        return VERDICT_ABSORB;
    }
    if (f->kind == FAULT_NOTHING) {
        return VERDICT_FREE;
    }
    if (f->err == EINTR && (counts || asks)) {
        return VERDICT_ABSORB;
    }
    return counts && !may_be_avoided(f) && !is_for_itself(f) ? VERDICT_REPORT
                                                             : VERDICT_FREE;
}

int plan_error(const Fault *f)
{
    return f->err ? f->err : EIO;
}

/* ---- as text ------------------------------------------------------------ */

char *plan_fault_text(const Fault *f)
{
    return g_strdup_printf("%d:%s:%s", f->after, fault_kind_names[f->kind],
                           f->err ? strerrorname_np(f->err) : "0");
}

bool plan_parse_fault(const char *text, Fault *f)
{
    g_auto(GStrv) words = g_strsplit(text, ":", -1);
    int kind, err;

    if (g_strv_length(words) != 3) {
        return false;
    }
    for (kind = 0; fault_kind_names[kind]; kind++) {
        if (!strcmp(fault_kind_names[kind], words[1])) {
            break;
        }
    }
    for (err = 0; err < 256; err++) {
        const char *name = err ? strerrorname_np(err) : "0";

        if (name && !strcmp(name, words[2])) {
            break;
        }
    }
    if (!fault_kind_names[kind] || err == 256) {
        return false;
    }
    *f = (Fault){ .after = atoi(words[0]), .kind = kind, .err = err };
    return true;
}

char *plan_call_text(const SeamCall *call)
{
    return g_strdup_printf("%s(%s)", call->name, call->detail);
}
