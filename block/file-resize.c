/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the file of the driver "file" ends, and how that changes.
 *
 * Each node knows a length; all nodes on the file know of each change that is
 * made through one of them (status-registry.h). Two ways there are:
 *
 * - A write beyond the end, by a user who may resize. Nothing is drained for it,
 *   and any number of them may be under way, in any order: the status cache has
 *   their marks since they began, the kernel makes what lies between read as
 *   zeroes, and each lets the others know of its own end when its data is there.
 *   So the length only grows meanwhile, and never reaches beyond the file.
 * - block_resize, with the node drained. What is cut off is unknown to the cache
 *   before, so that nothing of it is left if the file is made longer again.
 */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file-posix-int.h"
#include "util/error.h"

bool file_is_near_tail(const FileState *s, int64_t end)
{
    int64_t length = file_end(s);

    /* Should it grow now, then into pages behind those of who needs no lock. */
    return s->direct && end > length - length % s->page;
}

bool file_lock_tail(FileState *s, int64_t end)
{
    if (!file_is_near_tail(s, end)) {
        return false;
    }
    mutex_lock(&s->tail_lock);
    return true;
}

void file_unlock_tail(FileState *s, bool locked)
{
    if (locked) {
        mutex_unlock(&s->tail_lock);
    }
}

void file_grew(FileState *s, int64_t end, int ret)
{
    struct stat st;

    if (ret < 0) {
        if (fstat(s->fd, &st) < 0) {
            return;
        }
        end = MIN(end, st.st_size);
    }
    status_disk_grow(&s->user, end);
}

int file_truncate(BlockDriverState *bs, int64_t length, GError **errp)
{
    FileState *s = bs->opaque;
    int64_t old = file_end(s);
    int ret;

    if (length < old) {
        status_disk_resize(&s->user, length);
    }
    do {
        ret = ftruncate(s->sync_fd, length) < 0 ? -errno : 0;
    } while (ret == -EINTR);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not resize file");
        length = old;
    }
    if (length >= old) {
        status_disk_resize(&s->user, length);
    }
    return ret;
}
