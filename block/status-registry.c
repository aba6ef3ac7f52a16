/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One disk, one cache.
 *
 * Zeroes may be remembered only as long as nobody writes behind the cache's back
 * (rule 7 of status-cache.c). Who could?
 *
 * - Another process. A node guards against it by not sharing write permission
 *   (image_lock_guard()), whatever its users share, from open to close. If
 *   nobody who may hold a guard gets one, the cache is data-only.
 * - Another node of this process. It feeds the same cache, so it does no harm
 *   itself. But image locks know descriptions, not processes: a guard held
 *   through one node's descriptor would refuse write permission to the other
 *   node. So while a disk has several nodes, and one of them can write, no node
 *   guards, and the cache is data-only for the sake of other processes.
 *
 * A node with status-cache=off has a cache of its own, which remembers nothing.
 * It feeds nobody, so it counts among the reasons above: what it writes cannot
 * falsify the disk's cache, which has no zeroes while such a writer is open.
 * Among the other nodes the most cautious setting counts.
 *
 * A disk may have other names: a file and a loop device on it, a partition and
 * its whole disk, a logical volume and what it lies on. They have caches of their
 * own, which do not know of each other's requests, and locks on different inodes.
 * So while two of them are in use here, both caches are data-only; and so is that
 * of a disk that the kernel itself uses: mounted, part of another, or with a loop
 * device on it (disk-kin.c). That is found out when a node comes and when
 * permissions change; that a kin has gone, only by the next change, for what it
 * has left in the page cache may still be on its way.
 *
 * A disk whose cache has called zero what was not is not trusted for as long as any
 * node has it open, with another cache as little.
 *
 * Order, whenever something changes: the cache forgets its zeroes before a guard
 * is given up, and is allowed to learn some only when a guard is held. When a
 * node goes, the others take their guards before it gives up its own.
 */
#include "block/status-registry.h"

#include <inttypes.h>

#include "block/block.h"
#include "block/disk-kin.h"
#include "util/error.h"
#include "util/thread.h"

#define SYSFS "/sys"
/* For a disk that hangs nobody is kept waiting any longer. Should he then write through
 * the page cache to where a write hangs, the next flush tells of it (EIO). */
#define ALONE_US G_USEC_PER_SEC

struct StatusDisk {
    DiskId id;
    GArray *below;      /* of DiskId: what it lies on */
    bool claimed;       /* the kernel uses it */
    bool creating;      /* reserved: has no nodes and lets none come */
    bool distrusted;    /* a cache of it has lied: rule 11 of status-cache.c */
    StatusCache *cache; /* while a node wants one */
    uint64_t max_memory;
    GPtrArray *users; /* of StatusDiskUser */
};

static Mutex registry_lock = MUTEX_INIT;
/* Of the lists of users, and of their lengths: whoever changes a list holds both
 * mutexes, this one inside. Never held over a system call. */
static Mutex lengths_lock = MUTEX_INIT;
/* Of StatusDisk. Few: one for each image that is open. registry_lock */
static GPtrArray *disks;

/* For who waits until nobody counts on being alone; registry_lock, so one at a time */
static Mutex alone_lock = MUTEX_INIT;
static Cond alone_cond;
static int alone_awaited; /* atomic */

static StatusDisk *find_disk(const DiskId *id)
{
    guint i;

    for (i = 0; disks && i < disks->len; i++) {
        StatusDisk *disk = g_ptr_array_index(disks, i);

        if (disk_id_equal(&disk->id, id)) {
            return disk;
        }
    }
    return NULL;
}

static StatusDisk *add_disk(const DiskId *id)
{
    StatusDisk *disk = g_new0(StatusDisk, 1);

    disk->id = *id;
    disk->below = g_array_new(FALSE, FALSE, sizeof(DiskId));
    disk->users = g_ptr_array_new();
    if (!disks) {
        disks = g_ptr_array_new();
    }
    g_ptr_array_add(disks, disk);
    return disk;
}

static void remove_disk(StatusDisk *disk)
{
    g_ptr_array_remove_fast(disks, disk);
    if (disks->len == 0) {
        g_ptr_array_free(disks, TRUE);
        disks = NULL;
    }
    g_assert(!disk->cache);
    g_ptr_array_free(disk->users, TRUE);
    g_array_free(disk->below, TRUE);
    g_free(disk);
}

/* ---- other names of a disk ---------------------------------------------- */

static void look_around(StatusDisk *disk, int fd)
{
    g_array_free(disk->below, TRUE);
    disk->below = disk_kin_below(SYSFS, &disk->id);
    disk->claimed = disk_kin_is_claimed(SYSFS, &disk->id, fd);
}

static bool lies_on(const StatusDisk *disk, const DiskId *id)
{
    guint i;

    for (i = 0; i < disk->below->len; i++) {
        if (disk_id_equal(id, &g_array_index(disk->below, DiskId, i))) {
            return true;
        }
    }
    return false;
}

static bool is_kin(const StatusDisk *a, const StatusDisk *b)
{
    return a != b && (lies_on(a, &b->id) || lies_on(b, &a->id));
}

/* Another disk that has nodes and shares contents with @disk, after number
 * *@at of the list; or NULL */
static StatusDisk *next_kin(const StatusDisk *disk, guint *at)
{
    while (*at < disks->len) {
        StatusDisk *other = g_ptr_array_index(disks, (*at)++);

        if (other->users->len > 0 && is_kin(disk, other)) {
            return other;
        }
    }
    return NULL;
}

/* ---- what may be remembered --------------------------------------------- */

/* What the nodes of @disk want, and whether they may guard it */
static StatusCacheMode wanted_mode(const StatusDisk *disk, bool *may_guard)
{
    StatusCacheMode mode = STATUS_CACHE_OFF;
    bool writable = false, share_write = false;
    guint i, at = 0;

    for (i = 0; i < disk->users->len; i++) {
        const StatusDiskUser *user = g_ptr_array_index(disk->users, i);

        writable |= user->writable;
        share_write |= user->share_write;
        if (user->want != STATUS_CACHE_OFF) {
            mode =
                mode == STATUS_CACHE_OFF ? user->want : MIN(mode, user->want);
        }
    }
    *may_guard = mode == STATUS_CACHE_ON && !share_write &&
                 !(writable && disk->users->len > 1) && !disk->claimed &&
                 !next_kin(disk, &at);
    return mode;
}

static bool counts_on_it(const StatusDisk *disk)
{
    guint i;

    for (i = 0; i < disk->users->len; i++) {
        const StatusDiskUser *user = g_ptr_array_index(disk->users, i);

        if (__atomic_load_n(&user->alone, __ATOMIC_SEQ_CST) > 0) {
            return true;
        }
    }
    return false;
}

/* The cache has just been told: who begins from now on knows. */
static void wait_for_loners(const StatusDisk *disk)
{
    static bool made;
    int64_t deadline_us = g_get_monotonic_time() + ALONE_US;
    bool in_time = true;

    if (!made) {
        cond_init(&alone_cond);
        made = true;
    }
    MUTEX_GUARD(&alone_lock);
    __atomic_store_n(&alone_awaited, 1, __ATOMIC_SEQ_CST);
    while (in_time && counts_on_it(disk)) {
        in_time = cond_wait_until(&alone_cond, &alone_lock, deadline_us);
    }
    __atomic_store_n(&alone_awaited, 0, __ATOMIC_SEQ_CST);
}

bool status_disk_begin_alone(StatusDiskUser *user)
{
    /* Before the look: who takes ON away from the cache looks at this then. */
    __atomic_add_fetch(&user->alone, 1, __ATOMIC_SEQ_CST);
    if (status_cache_get_mode(user->cache) == STATUS_CACHE_ON) {
        return true;
    }
    status_disk_end_alone(user);
    return false;
}

void status_disk_end_alone(StatusDiskUser *user)
{
    __atomic_sub_fetch(&user->alone, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&alone_awaited, __ATOMIC_SEQ_CST)) {
        MUTEX_GUARD(&alone_lock);
        cond_broadcast(&alone_cond);
    }
}

static void update(StatusDisk *disk)
{
    bool may_guard, guarded = false;
    StatusCacheMode mode = wanted_mode(disk, &may_guard);
    guint i;

    /* Another cache of it would be told the same. */
    disk->distrusted |= disk->cache && status_cache_is_distrusted(disk->cache);
    if (disk->distrusted && disk->cache) {
        status_cache_distrust(disk->cache);
    }
    for (i = 0; may_guard && i < disk->users->len; i++) {
        StatusDiskUser *user = g_ptr_array_index(disk->users, i);

        if (user->want == STATUS_CACHE_ON) {
            guarded |= image_lock_guard(user->lock);
        }
    }
    if (mode == STATUS_CACHE_ON && !guarded) {
        mode = STATUS_CACHE_DATA_ONLY;
    }
    if (mode == STATUS_CACHE_OFF) {
        /* Nobody feeds it any more. */
        g_clear_pointer(&disk->cache, status_cache_unref);
    } else {
        status_cache_set_mode(disk->cache, mode);
    }
    if (mode != STATUS_CACHE_ON) {
        wait_for_loners(disk);
    }
    for (i = 0; !may_guard && i < disk->users->len; i++) {
        StatusDiskUser *user = g_ptr_array_index(disk->users, i);

        image_lock_unguard(user->lock);
    }
}

/* A node other than @user that feeds the cache of @disk, or NULL */
static const StatusDiskUser *cached_user(const StatusDisk *disk,
                                         const StatusDiskUser *except)
{
    guint i;

    for (i = 0; i < disk->users->len; i++) {
        const StatusDiskUser *user = g_ptr_array_index(disk->users, i);

        if (user != except && user->want != STATUS_CACHE_OFF) {
            return user;
        }
    }
    return NULL;
}

/* Does what the user insists on agree with the cache that is there? */
static bool check_options(const StatusDisk *disk, const StatusDiskUser *other,
                          const StatusDiskOptions *options, GError **errp)
{
    uint32_t granularity = status_cache_granularity(disk->cache);

    if (options->granularity_given && options->granularity != granularity) {
        error_setg(errp,
                   "status-cache-granularity %" PRIu32 " differs from %" PRIu32
                   " of node '%s', which has the same file open",
                   options->granularity, granularity, other->name);
        return false;
    }
    if (options->max_memory_given && options->max_memory != disk->max_memory) {
        error_setg(errp,
                   "status-cache-size %" PRIu64 " differs from %" PRIu64
                   " of node '%s', which has the same file open",
                   options->max_memory, disk->max_memory, other->name);
        return false;
    }
    return true;
}

static StatusCache *new_cache(const StatusDiskOptions *options, GError **errp)
{
    StatusCacheOptions new = {
        .length = options->length,
        .granularity = options->granularity,
        .max_memory = options->max_memory,
        .mode = STATUS_CACHE_OFF,
    };

    return status_cache_new(&new, errp);
}

/* The cache that @user is to ask and to feed; @disk need not exist yet. */
static StatusCache *find_cache(StatusDisk *disk, const StatusDiskUser *user,
                               const StatusDiskOptions *options, GError **errp)
{
    if (!disk || !disk->cache || user->want == STATUS_CACHE_OFF) {
        return new_cache(options, errp);
    }
    if (!check_options(disk, cached_user(disk, NULL), options, errp)) {
        return NULL;
    }
    /* The file may have grown. It never shrinks: others go by the old end. */
    status_cache_grow(disk->cache, options->length);
    return status_cache_ref(disk->cache);
}

/* The disk itself, or what it lies on */
static bool is_being_created(const DiskId *id)
{
    g_autoptr(GArray) below = disk_kin_below(SYSFS, id);
    guint i;

    g_array_append_val(below, *id);
    for (i = 0; i < below->len; i++) {
        StatusDisk *disk = find_disk(&g_array_index(below, DiskId, i));

        if (disk && disk->creating) {
            return true;
        }
    }
    return false;
}

StatusCache *status_disk_attach(StatusDiskUser *user, const struct stat *st,
                                const StatusDiskOptions *options, GError **errp)
{
    DiskId id = disk_id_of(st);
    StatusDisk *disk, *kin;
    StatusCache *cache;
    guint at = 0;
    MUTEX_GUARD(&registry_lock);

    if (is_being_created(&id)) {
        error_setg(errp, "The file is being created");
        return NULL;
    }
    disk = find_disk(&id);
    cache = find_cache(disk, user, options, errp);
    if (!cache) {
        return NULL;
    }
    if (!disk) {
        disk = add_disk(&id);
    }
    if (!disk->cache && user->want != STATUS_CACHE_OFF) {
        disk->cache = status_cache_ref(cache);
        disk->max_memory = options->max_memory;
    }
    user->disk = disk;
    user->max_memory =
        cache == disk->cache ? disk->max_memory : options->max_memory;
    user->cache = cache;
    user->length = options->length;
    mutex_lock(&lengths_lock);
    g_ptr_array_add(disk->users, user);
    mutex_unlock(&lengths_lock);
    look_around(disk, user->lock->fd);
    while ((kin = next_kin(disk, &at))) {
        update(kin);
    }
    update(disk);
    return cache;
}

void status_disk_detach(StatusDiskUser *user)
{
    StatusDisk *disk;
    MUTEX_GUARD(&registry_lock);

    disk = user->disk;
    user->disk = NULL;
    /* Its permissions must not hinder the guards of the others. */
    image_lock_set(user->lock, 0, BLK_PERM_ALL);
    mutex_lock(&lengths_lock);
    g_ptr_array_remove(disk->users, user);
    mutex_unlock(&lengths_lock);
    update(disk);
    if (disk->users->len == 0) {
        remove_disk(disk);
    }
    image_lock_unguard(user->lock);
}

void status_disk_resize(StatusDiskUser *user, int64_t length)
{
    guint i;
    MUTEX_GUARD(&lengths_lock);

    for (i = 0; i < user->disk->users->len; i++) {
        StatusDiskUser *u = g_ptr_array_index(user->disk->users, i);

        status_cache_resize(u->cache, length);
        __atomic_store_n(&u->length, length, __ATOMIC_RELEASE);
    }
}

void status_disk_grow(StatusDiskUser *user, int64_t length)
{
    guint i;
    MUTEX_GUARD(&lengths_lock);

    for (i = 0; i < user->disk->users->len; i++) {
        StatusDiskUser *u = g_ptr_array_index(user->disk->users, i);

        if (u->length < length) {
            status_cache_grow(u->cache, length);
            __atomic_store_n(&u->length, length, __ATOMIC_RELEASE);
        }
    }
}

void status_disk_refresh(StatusDiskUser *user)
{
    MUTEX_GUARD(&registry_lock);

    look_around(user->disk, user->lock->fd);
    update(user->disk);
}

/* ---- a node changes -------------------------------------------------- */

void status_disk_set_writable(StatusDiskUser *user, bool writable)
{
    MUTEX_GUARD(&registry_lock);

    if (user->writable != writable) {
        user->writable = writable;
        update(user->disk);
    }
}

bool status_disk_prepare(StatusDiskUser *user, StatusCacheMode want,
                         const StatusDiskOptions *options, StatusCache **cache,
                         GError **errp)
{
    const StatusDiskUser *other;
    MUTEX_GUARD(&registry_lock);

    *cache = NULL;
    other = cached_user(user->disk, user);
    if (want != STATUS_CACHE_OFF && other) {
        if (!check_options(user->disk, other, options, errp)) {
            return false;
        }
    }
    if ((want == STATUS_CACHE_OFF) != (user->want == STATUS_CACHE_OFF)) {
        *cache = new_cache(options, errp);
        return *cache != NULL;
    }
    return true;
}

StatusCache *status_disk_change(StatusDiskUser *user, StatusCacheMode want,
                                uint64_t max_memory, StatusCache *cache)
{
    StatusDisk *disk;
    MUTEX_GUARD(&registry_lock);

    disk = user->disk;
    user->want = want;
    if (want == STATUS_CACHE_OFF) {
        __atomic_store_n(&user->max_memory, max_memory, __ATOMIC_RELAXED);
    } else {
        if (cache && disk->cache) {
            status_cache_unref(cache);
            cache = status_cache_ref(disk->cache);
        } else if (cache) {
            disk->cache = status_cache_ref(cache);
            disk->max_memory = max_memory;
        }
        if (!cached_user(disk, user)) {
            status_cache_set_max_memory(disk->cache, max_memory);
            disk->max_memory = max_memory;
        }
        __atomic_store_n(&user->max_memory, disk->max_memory, __ATOMIC_RELAXED);
    }
    if (cache) {
        mutex_lock(&lengths_lock);
        status_cache_grow(cache, user->length);
        user->cache = cache;
        mutex_unlock(&lengths_lock);
    }
    update(disk);
    return cache;
}

/* ---- creation ----------------------------------------------------------- */

/* A disk with nodes that is @id or lies on it */
static StatusDisk *find_in_use(const DiskId *id)
{
    guint i;

    for (i = 0; disks && i < disks->len; i++) {
        StatusDisk *disk = g_ptr_array_index(disks, i);

        if (disk->users->len > 0 &&
            (disk_id_equal(&disk->id, id) || lies_on(disk, id))) {
            return disk;
        }
    }
    return NULL;
}

bool status_disk_reserve(const struct stat *st, const char *filename,
                         GError **errp)
{
    DiskId id = disk_id_of(st);
    StatusDisk *disk;
    MUTEX_GUARD(&registry_lock);

    disk = find_in_use(&id);
    if (disk) {
        const StatusDiskUser *user = g_ptr_array_index(disk->users, 0);

        error_setg(errp, "'%s' is in use by node '%s'", filename, user->name);
        return false;
    }
    if (find_disk(&id)) {
        error_setg(errp, "'%s' is being created already", filename);
        return false;
    }
    add_disk(&id)->creating = true;
    return true;
}

void status_disk_release(const struct stat *st)
{
    DiskId id = disk_id_of(st);
    MUTEX_GUARD(&registry_lock);

    remove_disk(find_disk(&id));
}
