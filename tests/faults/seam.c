/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "seam.h"

#include <errno.h>
#include <glib.h>
#include <linux/major.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "util/thread.h"
#include "../unit/wrapped-calls.h"

int __real_stat64(const char *path, struct stat *st);

const char *const fault_kind_names[] = {
    "fail", "always", "after", "partly", "short", "nothing", NULL,
};

static Mutex lock = MUTEX_INIT;
/* lock */
static bool opened, sync_for_real, healed;
static GArray *calls; /* of SeamCall */
static Fault faults[SEAM_MAX_FAULTS];
static int n_faults, n_hit;
static dev_t own_loop;
static int since; /* calls since the last fault that came */

void seam_reset(const Fault *list, int n)
{
    MUTEX_GUARD(&lock);

    g_assert(n <= SEAM_MAX_FAULTS);
    if (!calls) {
        calls = g_array_new(false, false, sizeof(SeamCall));
    }
    g_array_set_size(calls, 0);
    n_faults = n;
    n_hit = since = 0;
    healed = false;
    if (n > 0) {
        memcpy(faults, list, n * sizeof(*list));
    }
}

static void set_opened(bool value)
{
    MUTEX_GUARD(&lock);

    opened = value;
}

void seam_open(void)
{
    set_opened(true);
}

void seam_shut(void)
{
    set_opened(false);
}

bool seam_is_open(void)
{
    MUTEX_GUARD(&lock);

    return opened;
}

int seam_hits(void)
{
    MUTEX_GUARD(&lock);

    return n_hit;
}

const Fault *seam_hit(int i)
{
    MUTEX_GUARD(&lock);

    g_assert(i < n_hit);
    return &faults[i];
}

void seam_heal(void)
{
    MUTEX_GUARD(&lock);

    healed = true;
}

int seam_count(void)
{
    MUTEX_GUARD(&lock);

    return calls->len;
}

const SeamCall *seam_call(int i)
{
    MUTEX_GUARD(&lock);

    return &g_array_index(calls, SeamCall, i);
}

void seam_sync_for_real(void)
{
    sync_for_real = true;
}

bool seam_syncs(void)
{
    MUTEX_GUARD(&lock);

    return sync_for_real;
}

static bool is_same(const SeamCall *a, const SeamCall *b)
{
    return !strcmp(a->name, b->name) && !strcmp(a->detail, b->detail) &&
           a->dev == b->dev && a->ino == b->ino && a->durable == b->durable;
}

bool fault_lasts(const Fault *f)
{
    return !healed && (f->kind == FAULT_ALWAYS || f->kind == FAULT_NOTHING);
}

/* One that lasts, and has begun */
static const Fault *find_always(const SeamCall *call)
{
    int i;

    for (i = 0; i < n_hit; i++) {
        if (fault_lasts(&faults[i]) && is_same(&faults[i].call, call)) {
            return &faults[i];
        }
    }
    return NULL;
}

void seam_set_loop_device(dev_t dev)
{
    MUTEX_GUARD(&lock);

    own_loop = dev;
}

bool seam_has_loop_device(void)
{
    MUTEX_GUARD(&lock);

    return own_loop != 0;
}

/* lock held */
static bool is_foreign(const struct stat *st)
{
    return S_ISBLK(st->st_mode) && major(st->st_rdev) == LOOP_MAJOR &&
           st->st_rdev != own_loop;
}

bool seam_is_foreign(const char *path)
{
    struct stat st;
    MUTEX_GUARD(&lock);

    return __real_stat64(path, &st) == 0 && is_foreign(&st);
}

/* Where threads race, another call may have the number of the one that was meant:
 * what cannot happen to it, or would be an answer, is an error instead. */
static void suit(Fault *f, const SeamCall *call)
{
    bool transfers = g_str_has_prefix(call->name, "p") &&
                     strcmp(call->name, "posix_fadvise64") != 0;

    if ((!f->err && !transfers) ||
        (f->err == ENXIO && !strcmp(call->name, "lseek64"))) {
        f->kind = f->kind == FAULT_ALWAYS ? FAULT_ALWAYS : FAULT_FAIL;
        f->err = EIO;
    }
}

const Fault *seam_meet(const char *name, const char *detail, int fd,
                       bool durable, void *site)
{
    SeamCall call = {
        .name = name, .detail = detail, .site = site, .durable = durable
    };
    const Fault *f;
    struct stat st = { 0 };
    bool known = fd >= 0 && __real_fstat64(fd, &st) == 0;
    MUTEX_GUARD(&lock);

    if (!opened || is_foreign(&st)) {
        return NULL;
    }
    if (known) {
        call.dev = st.st_dev;
        call.ino = st.st_ino;
    }
    g_array_append_val(calls, call);
    f = find_always(&call);
    if (!f && n_hit < n_faults && since++ == faults[n_hit].after) {
        f = &faults[n_hit];
        suit(&faults[n_hit], &call);
        faults[n_hit].hit = true;
        faults[n_hit].call = call;
        n_hit++;
        since = 0;
    }
    if (f) {
        errno = f->err;
    }
    return f;
}
