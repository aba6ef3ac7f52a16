/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's image locks.
 *
 * Permission number i (the bit numbers of BLK_PERM_) has two bytes of the file:
 *
 *      100 + i    read-locked by everybody who holds the permission
 *      200 + i    read-locked by everybody who does not share it
 *
 * Whoever wants permissions first locks his own bytes and then looks whether
 * somebody else has locked the opposite ones: 200 + i for what he wants, 100 + i
 * for what he does not share. Two who come at the same time may both fail, but
 * never both succeed. Read locks suffice, since nobody needs to be alone on a
 * byte; they can also be had on a descriptor that cannot write. A look asks for
 * a write lock with F_OFD_GETLK, which any foreign read lock would hinder.
 *
 * The bytes need not exist: locking touches no contents.
 */
#include "block/image-lock.h"

#include <errno.h>
#include <fcntl.h>

#include "block/block.h"
#include "util/error.h"

#define PERM_BASE 100
#define UNSHARED_BASE 200
#define PERM_BITS 4

G_STATIC_ASSERT(BLK_PERM_ALL == (1 << PERM_BITS) - 1);

static const char *const perm_names[PERM_BITS] = {
    "consistent read",
    "write",
    "write unchanged",
    "resize",
};

static int lock_byte(int fd, int byte, short type)
{
    struct flock fl = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = byte,
        .l_len = 1,
    };
    int r;

    do {
        r = fcntl(fd, F_OFD_SETLK, &fl);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

/* Both descriptions, while there are two */
static int lock_byte_of(ImageLock *lock, int byte, short type)
{
    int ret = lock_byte(lock->fd, byte, type);

    if (ret == 0 && lock->next_fd >= 0) {
        ret = lock_byte(lock->next_fd, byte, type);
        if (ret < 0 && type == F_RDLCK) {
            lock_byte(lock->fd, byte, F_UNLCK);
        }
    }
    return ret;
}

/* Has another description locked @byte? An error counts as yes. */
static bool byte_is_taken(int fd, int byte)
{
    struct flock fl = {
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = byte,
        .l_len = 1,
    };

    return fcntl(fd, F_OFD_GETLK, &fl) < 0 || fl.l_type != F_UNLCK;
}

bool image_lock_supported(int fd)
{
    struct flock fl = {
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = PERM_BASE,
        .l_len = 1,
    };

    return fcntl(fd, F_OFD_GETLK, &fl) == 0;
}

void image_lock_init(ImageLock *lock, int fd, const char *filename,
                     bool enabled)
{
    *lock = (ImageLock){
        .fd = fd,
        .next_fd = -1,
        .filename = g_strdup(filename),
        .enabled = enabled,
        .shared = BLK_PERM_ALL,
    };
}

/*
 * Lock the bytes of one base that @want names; with @release also unlock the
 * others. *@held follows what is locked.
 */
static bool apply_base(ImageLock *lock, int base, uint64_t want, bool release,
                       uint64_t *held, GError **errp)
{
    int i;

    for (i = 0; i < PERM_BITS; i++) {
        uint64_t bit = UINT64_C(1) << i;

        if ((want & bit) && !(*held & bit)) {
            int ret = lock_byte_of(lock, base + i, F_RDLCK);

            if (ret < 0) {
                error_setg_errno(errp, -ret, "Failed to lock byte %d of '%s'",
                                 base + i, lock->filename);
                return false;
            }
            *held |= bit;
        } else if (release && !(want & bit) && (*held & bit)) {
            /* Cannot fail for want of anything but memory; then it stays
             * locked, and is let go of next time. */
            if (lock_byte_of(lock, base + i, F_UNLCK) == 0) {
                *held &= ~bit;
            }
        }
    }
    return true;
}

static bool apply(ImageLock *lock, uint64_t perm, uint64_t unshared,
                  bool release, GError **errp)
{
    if (lock->guard) {
        unshared |= BLK_PERM_WRITE;
    }
    return apply_base(lock, PERM_BASE, perm, release, &lock->held_perm, errp) &&
           apply_base(lock, UNSHARED_BASE, unshared, release,
                      &lock->held_unshared, errp);
}

static bool others_object(ImageLock *lock, uint64_t perm, uint64_t shared,
                          GError **errp)
{
    int i;

    for (i = 0; i < PERM_BITS; i++) {
        uint64_t bit = UINT64_C(1) << i;
        const char *kind = NULL;

        if ((perm & bit) && byte_is_taken(lock->fd, UNSHARED_BASE + i)) {
            kind = "";
        } else if (!(shared & bit) && byte_is_taken(lock->fd, PERM_BASE + i)) {
            kind = "shared ";
        }
        if (kind) {
            error_setg(errp,
                       "Failed to get %s\"%s\" lock. "
                       "Is another process using the image [%s]?",
                       kind, perm_names[i], lock->filename);
            return true;
        }
    }
    return false;
}

/*
 * What is in force already nobody else can be in the way of: only those that look at
 * the same time, or a look that fails. So who lets go is not refused.
 */
bool image_lock_check(ImageLock *lock, uint64_t perm, uint64_t shared,
                      GError **errp)
{
    if (!lock->enabled) {
        return true;
    }
    if (!apply(lock, lock->perm | perm, ~lock->shared | ~shared, false, errp) ||
        others_object(lock, perm & ~lock->perm, shared | ~lock->shared, errp)) {
        image_lock_abort(lock);
        return false;
    }
    return true;
}

void image_lock_set(ImageLock *lock, uint64_t perm, uint64_t shared)
{
    lock->perm = perm;
    lock->shared = shared;
    if (lock->enabled) {
        apply(lock, perm, ~shared, true, NULL);
    }
}

void image_lock_abort(ImageLock *lock)
{
    image_lock_set(lock, lock->perm, lock->shared);
}

/* What is locked, on one description */
static int change_held(const ImageLock *lock, int fd, short type)
{
    int i, ret = 0;

    for (i = 0; i < PERM_BITS && ret == 0; i++) {
        uint64_t bit = UINT64_C(1) << i;

        if (lock->held_perm & bit) {
            ret = lock_byte(fd, PERM_BASE + i, type);
        }
        if (ret == 0 && (lock->held_unshared & bit)) {
            ret = lock_byte(fd, UNSHARED_BASE + i, type);
        }
    }
    return ret;
}

bool image_lock_join(ImageLock *lock, int fd, GError **errp)
{
    int ret;

    g_assert(lock->next_fd < 0);
    ret = change_held(lock, fd, F_RDLCK);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Failed to lock '%s' once more",
                         lock->filename);
        return false;
    }
    lock->next_fd = fd;
    return true;
}

void image_lock_part(ImageLock *lock)
{
    lock->next_fd = -1;
}

void image_lock_hand_over(ImageLock *lock)
{
    g_assert(lock->next_fd >= 0);
    lock->next_fd = -1;
    change_held(lock, lock->fd, F_UNLCK);
}

void image_lock_destroy(ImageLock *lock)
{
    lock->guard = false;
    image_lock_set(lock, 0, BLK_PERM_ALL);
    g_free(lock->filename);
    lock->filename = NULL;
}

bool image_lock_guard(ImageLock *lock)
{
    const int write_byte = PERM_BASE + __builtin_ctz(BLK_PERM_WRITE);

    if (lock->guard) {
        return true;
    }
    /* Looking first spares others, who look at the same time, a lock of ours
     * that would not last. */
    if (!lock->enabled || byte_is_taken(lock->fd, write_byte)) {
        return false;
    }
    lock->guard = true;
    if (!apply(lock, lock->perm, ~lock->shared, false, NULL) ||
        byte_is_taken(lock->fd, write_byte)) {
        image_lock_unguard(lock);
        return false;
    }
    return true;
}

void image_lock_unguard(ImageLock *lock)
{
    if (lock->guard) {
        lock->guard = false;
        image_lock_abort(lock);
    }
}
