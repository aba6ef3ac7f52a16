/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: the header names another backing file. */
#include <errno.h>

#include "block/qcow2.h"
#include "util/error.h"

#define MAX_BACKING_NAME 1023

static void set_names(Qcow2State *s, char *file, char *format)
{
    __atomic_store_n(&s->backing_file, file, __ATOMIC_RELEASE);
    __atomic_store_n(&s->backing_format, format, __ATOMIC_RELEASE);
}

int qcow2_change_backing(BlockDriverState *bs, const char *file,
                         const char *format, GError **errp)
{
    Qcow2State *s = bs->opaque;
    char *names[] = { s->backing_file, s->backing_format };
    int ret;

    if (strlen(file) > MAX_BACKING_NAME) {
        error_setg(errp, "Backing file name too long: %zu bytes, at most %d",
                   strlen(file), MAX_BACKING_NAME);
        return -EINVAL;
    }
    MUTEX_GUARD(&s->lock);
    set_names(s, g_strdup(file), g_strdup(format));
    ret = qcow2_update_header(s, errp);
    if (ret < 0) {
        char *file_now = s->backing_file, *format_now = s->backing_format;

        set_names(s, names[0], names[1]);
        names[0] = file_now;
        names[1] = format_now;
    }
    s->old_names = g_slist_prepend(s->old_names, names[0]);
    s->old_names = g_slist_prepend(s->old_names, names[1]);
    return ret;
}
