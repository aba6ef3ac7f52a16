/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One operation: what came over it, and whether it said the right thing */
#include <stdarg.h>
#include <string.h>

#include "run-int.h"

static char *what;      /* is being done */
static int before;      /* faults that came before this operation */
static int hits_then;   /* in the operation that ended last */
static bool sync_lasts; /* it failed by what had begun before, a sync */

void op_begin(const char *fmt, ...)
{
    va_list ap;

    g_free(what);
    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    before = seam_hits();
    sync_lasts = false;
    seam_open();
}

const char *op_what(void)
{
    return what ? what : "nothing";
}

void op_stop(void)
{
    seam_shut();
    hits_then = seam_hits() - before;
}

bool op_was_hit(void)
{
    return hits_then > 0;
}

int op_hits(void)
{
    return hits_then;
}

const Fault *op_hit(int i)
{
    return seam_hit(before + i);
}

bool op_hit_sync(void)
{
    int i;

    if (sync_lasts) {
        return true;
    }
    for (i = 0; i < hits_then; i++) {
        if (plan_is_sync(op_hit(i))) {
            return true;
        }
    }
    return false;
}

/* What must be told is told, and what was got over need not be. */
static void check_success(void)
{
    int i;

    for (i = 0; i < hits_then; i++) {
        if (plan_verdict(op_hit(i)) == VERDICT_REPORT) {
            run_fail("'%s' succeeds, and should not", what);
        }
    }
}

static bool may_be_reported(const Fault *f)
{
    return plan_verdict(f) != VERDICT_ABSORB;
}

/* Those of now, and those that last */
static bool find_reported(bool (*fits)(const Fault *f, const void *opaque),
                          const void *opaque)
{
    int i;

    for (i = 0; i < seam_hits(); i++) {
        const Fault *f = seam_hit(i);

        if ((i >= before || fault_lasts(f)) && may_be_reported(f) &&
            fits(f, opaque)) {
            sync_lasts = i < before && plan_is_sync(f);
            return true;
        }
    }
    return false;
}

static bool has_error(const Fault *f, const void *opaque)
{
    const int *ret = opaque;

    return plan_error(f) == -*ret;
}

/* Some say it in words of their own. */
static bool has_text(const Fault *f, const void *opaque)
{
    if (!strcmp(f->call.detail, "F_OFD_GETLK")) {
        return strstr(opaque, " lock"); /* who cannot look takes it for taken */
    }
    if (!strcmp(f->call.name, "open64") && f->err == EINVAL &&
        strstr(opaque, "does not support cache.direct")) {
        return true;
    }
    return strstr(opaque, g_strerror(plan_error(f)));
}

bool op_says(const char *message, const Fault *f)
{
    return has_text(f, message);
}

bool op_end(int ret)
{
    op_stop();
    if (ret >= 0) {
        check_success();
        return true;
    }
    if (!find_reported(has_error, &ret)) {
        run_fail("'%s' returns %s", what, strerrorname_np(-ret));
    }
    seam_heal();
    return false;
}

bool op_end_bool(bool ok, GError *err)
{
    op_stop();
    if (ok) {
        if (err) {
            run_fail("'%s' succeeds, and says '%s'", what, err->message);
        }
        check_success();
        return true;
    }
    if (!err) {
        run_fail("'%s' fails, and says nothing", what);
    }
    if (!find_reported(has_text, err->message)) {
        run_fail("'%s' fails: '%s'", what, err->message);
    }
    g_error_free(err);
    seam_heal();
    return false;
}

void op_reset(void)
{
    g_clear_pointer(&what, g_free);
    before = hits_then = 0;
    sync_lasts = false;
}
