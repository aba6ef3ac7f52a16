/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2, versions 2 and 3: what its files share. The format is that of QEMU's
 * docs/interop/qcow2.txt; names are its.
 *
 * Locks. Each request holds its clusters (of the guest's disk, whole ones) in
 * s->ranges from before it looks where they are until its data is there: reads,
 * and writes to clusters that are the image's own, shared; what moves clusters
 * (allocation, copy on write, zeroes, discards) exclusively. So nobody reads or
 * writes a place in the file that is given to somebody else meanwhile. Then
 * comes s->lock, which protects all tables, in memory and on the disk, and is
 * held over reads and writes of those, but never over data. Then what the
 * nodes below have.
 *
 * Order on the disk, so that the image is consistent whenever the process, or
 * the machine, stops (leaks are allowed, wrong references are not):
 *  1. A cluster's refcount is on the disk before anything refers to it: refcount
 *     blocks are written, and the file is flushed, before L2 tables are.
 *  2. What a cluster is to hold (the guest's data and what was copied around it,
 *     a new L2 table) is on stable storage before something refers to it: the
 *     same flush.
 *  3. A cluster that nothing refers to any more is free for others only when
 *     that is on stable storage: until then it is in s->freed
 *     (qcow2_free_later), and its refcount stays.
 *  4. L1 and refcount tables that moved are complete and flushed before the header
 *     refers to them.
 */
#ifndef BLOCK_QCOW2_H
#define BLOCK_QCOW2_H

#include <string.h>

#include "block/block-int.h"
#include "block/range-lock.h"
#include "util/thread.h"

#define QCOW2_MAGIC 0x514649fbu /* "QFI\xfb" */
#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_MAX_REFTABLE_BYTES (INT64_C(8) << 20)
#define QCOW2_MAX_L1_BYTES (INT64_C(32) << 20)
#define QCOW2_MAX_SNAPSHOTS 65536
/* Offsets in the file: 56 bits, by the format of L1 and L2 entries */
#define QCOW2_MAX_FILE_BYTES (INT64_C(1) << 56)

#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define QCOW2_COPIED (UINT64_C(1) << 63)     /* refcount is exactly one */
#define QCOW2_COMPRESSED (UINT64_C(1) << 62) /* of L2 entries */
#define QCOW2_ZERO UINT64_C(1)               /* of L2 entries, version 3 */

enum { /* incompatible features */
    QCOW2_INCOMPAT_DIRTY = 1 << 0,
    QCOW2_INCOMPAT_CORRUPT = 1 << 1,
    QCOW2_INCOMPAT_DATA_FILE = 1 << 2,
    QCOW2_INCOMPAT_COMPRESSION = 1 << 3,
    QCOW2_INCOMPAT_EXTL2 = 1 << 4,
};

enum {
    QCOW2_COMPAT_LAZY_REFCOUNTS = 1 << 0
};
enum {
    QCOW2_AUTOCLEAR_BITMAPS = 1 << 0,
    QCOW2_AUTOCLEAR_DATA_FILE_RAW = 1 << 1
};

typedef enum Qcow2Compression {
    QCOW2_COMPRESSION_ZLIB,
    QCOW2_COMPRESSION_ZSTD,
} Qcow2Compression;

/* Header extensions */
#define QCOW2_EXT_END 0
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURES 0x6803f857u
#define QCOW2_EXT_BITMAPS 0x23852875u
#define QCOW2_EXT_ENCRYPTION 0x0537be77u

typedef struct Qcow2Cache Qcow2Cache;

/* A header extension that is kept as it is: all but the backing format's */
typedef struct Qcow2Extension {
    uint32_t magic, length;
    uint8_t *data;
} Qcow2Extension;

/* A snapshot, as far as refcounts depend on it; the rest is left alone. */
typedef struct Qcow2Snapshot {
    uint64_t l1_offset;
    uint32_t l1_entries;
} Qcow2Snapshot;

/* A range of the file, clusters but where sectors of compressed clusters */
typedef struct Qcow2Range {
    uint64_t offset, bytes;
} Qcow2Range;

typedef struct Qcow2State {
    BlockDriverState *bs;

    /* As in the header; unchanging while requests are there, but the length and
     * what resizing moves (drained), and features (lock). */
    unsigned version;
    unsigned cluster_bits, l2_bits; /* l2_bits: entries of an L2 table */
    int64_t cluster_size;
    unsigned refcount_order; /* refcounts of 1 << order bits */
    int64_t length;          /* of the guest's disk, bytes */
    uint64_t incompatible, compatible, autoclear;
    Qcow2Compression compression;
    uint32_t header_length; /* 72, or from 104 to the size of a cluster */
    char *backing_file, *backing_format; /* as in the header, or NULL; atomic */
    GSList *old_names;   /* what these were: somebody may be reading them */
    GArray *extensions;  /* of Qcow2Extension */
    GBytes *more_fields; /* of the header, that are not known; or NULL */
    GArray *snapshots;   /* of Qcow2Snapshot; or NULL */
    uint64_t snapshots_offset, snapshots_bytes; /* of their table */
    uint32_t n_snapshots;
    /* Bitmaps in the image (qcow2-bitmap.h), of Qcow2Bitmap, or NULL: they change
     * with the graph mutex and this lock held, which is never held over I/O */
    GPtrArray *bitmaps;
    Mutex bitmaps_lock;
    bool
        bitmaps_unmarked; /* they should say that they are in use, and do not: no
                              writes; atomic */
    bool corrupt;         /* tables make no sense: no more writes; atomic */
    bool corruption_told; /* lock */
    bool creating; /* nobody relies on the image yet: order does not matter */

    RangeLock *ranges; /* by offset in the guest's disk */

    Mutex lock;   /* all below */
    uint64_t *l1; /* host byte order; with QCOW2_COPIED */
    uint64_t l1_offset;
    uint32_t l1_entries;
    Qcow2Cache *l2_cache;
    uint64_t *reftable; /* host byte order */
    uint64_t reftable_offset;
    uint32_t reftable_entries; /* of whole clusters */
    Qcow2Cache *refblock_cache;
    uint64_t free_hint; /* the first cluster that may be free, an index */
    uint64_t run_hint;  /* the same for several in a row: a guess */
    uint64_t
        pack_offset; /* where the next compressed cluster may begin, in one that
                             is in use; 0: nowhere; qcow2-compress.c */
    GArray *freed;   /* of Qcow2Range; rule 3 */
    uint64_t freed_bytes; /* of it */
    bool data_unflushed;  /* something was written that rule 2 is about, and the
                             file was not flushed since */
    bool tables_unflushed; /* L2 tables were, likewise; qcow2-cache.c */
    uint64_t bitmaps_offset, bitmaps_bytes; /* of their directory; 0: none */

    struct Qcow2LastRead *last_read; /* qcow2-last-read.c; atomic; or NULL */
    int file_sparse; /* qcow2-status.c: much of the file is not there: 1, or -1;
                        0: not looked yet; atomic */
} Qcow2State;

/* What a cluster of the guest's disk is */
typedef enum Qcow2ClusterType {
    QCOW2_CLUSTER_UNALLOCATED,
    QCOW2_CLUSTER_ZERO_PLAIN, /* no place in the file */
    QCOW2_CLUSTER_ZERO_ALLOC, /* one, whose contents do not count */
    QCOW2_CLUSTER_NORMAL,
    QCOW2_CLUSTER_COMPRESSED,
} Qcow2ClusterType;

static inline uint64_t qcow2_cluster_index(const Qcow2State *s, uint64_t offset)
{
    return offset >> s->cluster_bits;
}

static inline int64_t qcow2_in_cluster(const Qcow2State *s, uint64_t offset)
{
    return offset & (s->cluster_size - 1);
}

static inline uint64_t qcow2_round_up(const Qcow2State *s, uint64_t offset)
{
    return (offset + s->cluster_size - 1) & ~(uint64_t)(s->cluster_size - 1);
}

static inline bool qcow2_is_corrupt(const Qcow2State *s)
{
    return __atomic_load_n(&s->corrupt, __ATOMIC_RELAXED);
}

/* Numbers in the image, at any alignment */
static inline uint32_t qcow2_get_be32(const void *p)
{
    uint32_t n;

    memcpy(&n, p, sizeof(n));
    return GUINT32_FROM_BE(n);
}

static inline uint64_t qcow2_get_be64(const void *p)
{
    uint64_t n;

    memcpy(&n, p, sizeof(n));
    return GUINT64_FROM_BE(n);
}

static inline void qcow2_put_be32(void *p, uint32_t n)
{
    n = GUINT32_TO_BE(n);
    memcpy(p, &n, sizeof(n));
}

static inline void qcow2_put_be64(void *p, uint64_t n)
{
    n = GUINT64_TO_BE(n);
    memcpy(p, &n, sizeof(n));
}

/* ---- qcow2-cache.c: tables of one cluster each, kept in memory ------------ */

/*
 * @entries tables of cluster_size bytes; NULL: there is no memory for so many. All
 * other functions: s->lock held. Tables are as on the disk (big-endian).
 */
Qcow2Cache *qcow2_cache_new(Qcow2State *s, unsigned entries);
/* What is dirty is lost; NULL is fine. */
void qcow2_cache_free(Qcow2Cache *c);
/*
 * The table at @offset of the file, pinned until qcow2_cache_put(). 0, or -errno.
 * A full cache gives up the least recently used one that is not pinned, and
 * writes it first if it is dirty (with what has to go before, qcow2_write_tables()).
 * get_empty: for a table that is new; it is zeroed and dirty, nothing is read.
 */
int qcow2_cache_get(Qcow2Cache *c, uint64_t offset, void **table);
int qcow2_cache_get_empty(Qcow2Cache *c, uint64_t offset, void **table);
void qcow2_cache_put(Qcow2Cache *c, void **table);
void qcow2_cache_set_dirty(Qcow2Cache *c, void *table);
bool qcow2_cache_is_dirty(Qcow2Cache *c); /* any */
/* Write all dirty tables; no flush, no order: that is qcow2_write_tables()'s. */
int qcow2_cache_write(Qcow2Cache *c);
/* Forget the table at @offset, dirty or not: its cluster is free now. */
void qcow2_cache_drop(Qcow2Cache *c, uint64_t offset);
/* Is there a table in memory that [@offset, @offset + @bytes) touches? */
bool qcow2_cache_touches(Qcow2Cache *c, uint64_t offset, uint64_t bytes);
/* Forget all, dirty or not; none is pinned. */
void qcow2_cache_clear(Qcow2Cache *c);

/*
 * Rules 1 to 3: refcount blocks, a flush of the file if something was written
 * since the last (data_unflushed, or refcount blocks), then L2 tables. With
 * @settle also a flush after these, and then what is in s->freed becomes free
 * (qcow2_settle_freed()); if nothing is there, that flush is left to the caller,
 * who has one to do anyway. s->lock held. 0, or -errno: what was not written
 * is still dirty, and nothing became free.
 */
int qcow2_write_tables(Qcow2State *s, bool settle);

/* ---- qcow2-refcount.c ----------------------------------------------------- */

/* All: s->lock held; 0 or more, or -errno. */
/* Reads the reftable; makes s->freed, and s->refblock_cache if there is none */
int qcow2_refcounts_open(Qcow2State *s, GError **errp);
/* Frees all these; what was not settled leaks in the image. */
void qcow2_refcounts_close(Qcow2State *s);
/* Of the cluster with that index (0 beyond what the tables cover) */
int qcow2_get_refcount(Qcow2State *s, uint64_t cluster, uint64_t *refcount);
/* Add @delta (1 or -1) to those of all clusters that [@offset, @offset + @bytes)
 * touches. None becomes more than its width can hold (-EINVAL), or less than 0
 * (-EIO: the image becomes corrupt). What has failed is undone. */
int qcow2_update_refcounts(Qcow2State *s, uint64_t offset, uint64_t bytes,
                           int delta);
/*
 * @bytes in a row, rounded up to clusters, with refcount 1: where they begin, or
 * -errno. Grows the tables where needed. Nothing in the file is written but
 * tables: what was there is there still.
 */
int64_t qcow2_alloc_clusters(Qcow2State *s, uint64_t bytes);
/* The same at a certain place, as far as that is free: how many bytes */
int64_t qcow2_alloc_clusters_at(Qcow2State *s, uint64_t offset, uint64_t bytes);
/*
 * Nothing refers to them any more as soon as the tables are written: give them
 * back then (rule 3). Cannot fail. For an L2 table: drop it from its cache first.
 */
void qcow2_free_later(Qcow2State *s, uint64_t offset, uint64_t bytes);
/* What a compressed cluster's L2 entry says it has: sectors of it may be shared */
void qcow2_free_compressed_later(Qcow2State *s, uint64_t l2_entry);
/* Nothing refers to them on stable storage either, or never did (an allocation
 * that was not used): give them back now. Failure leaks. */
void qcow2_free_now(Qcow2State *s, uint64_t offset, uint64_t bytes);
/* Only by qcow2_write_tables() */
void qcow2_settle_freed(Qcow2State *s);
/*
 * Before writing guest data or a table to [@offset, @offset + @bytes): does that
 * overlap header, L1, reftable, refcount blocks, known L2 tables, or the list of
 * snapshots or of bitmaps? Then the image is corrupt: false
 * (qcow2_signal_corruption() was called). Cheap checks only.
 */
bool qcow2_check_overlap(Qcow2State *s, uint64_t offset, uint64_t bytes,
                         const char *what);
/* The same for tables that are there already: but their own kind */
enum {
    QCOW2_OWN_HEADER = 0x1,
    QCOW2_OWN_L1 = 0x2, /* snapshots' as well */
    QCOW2_OWN_L2 = 0x4,
    QCOW2_OWN_REFTABLE = 0x8,
    QCOW2_OWN_REFBLOCKS = 0x10,
    QCOW2_OWN_BITMAPS = 0x20, /* their directory */
};
bool qcow2_check_overlap_but(Qcow2State *s, unsigned own, uint64_t offset,
                             uint64_t bytes, const char *what);

/* ---- qcow2-check.c --------------------------------------------------------- */

/* BlockDriver's check; see block-int.h. s->lock not held; nobody else uses @bs. */
int qcow2_check(BlockDriverState *bs, BdrvCheckResult *result, unsigned fix,
                GError **errp);

/* ---- qcow2-header.c, qcow2-header-write.c, qcow2.c -------------------------- */

/*
 * Of the image's file, by the node below: exactly that much. What lies beyond
 * its end is read as -EIO. Any thread inside a gate.
 */
int qcow2_read_file(Qcow2State *s, uint64_t offset, uint64_t bytes, void *buf);
int qcow2_write_file(Qcow2State *s, uint64_t offset, uint64_t bytes,
                     const void *buf);

/*
 * The header, of which @bytes are at @buf (QCOW2_MIN_HEADER at least): how large
 * the image's clusters are, so that all of the first one can be read; and then
 * all of that (or as much as the file has) into @s. Everything is checked that
 * can be without looking elsewhere. 0, or -errno and @errp.
 */
#define QCOW2_MIN_HEADER 72
int qcow2_header_cluster_bits(const uint8_t *buf, unsigned *cluster_bits,
                              GError **errp);
int qcow2_parse_header(Qcow2State *s, const uint8_t *buf, size_t bytes,
                       GError **errp);
/* For s->extensions */
GArray *qcow2_extensions_new(void);
/* What parsing has allocated */
void qcow2_free_header(Qcow2State *s);
/* Entries of the L1 table that a disk of @length bytes needs */
uint64_t qcow2_l1_entries_for(const Qcow2State *s, int64_t length);
/* BlockDriver's change_backing; see block-int.h */
int qcow2_change_backing(BlockDriverState *bs, const char *file,
                         const char *format, GError **errp);
/* Write the header anew as @s says, with all extensions; it is on stable storage
 * then, which what was written before is, too. s->lock held, or alone. */
int qcow2_update_header(Qcow2State *s, GError **errp);
/* Tables make no sense: BLOCK_IMAGE_CORRUPTED; and unless the node is read-only the
 * corrupt bit is set, and writes fail from now on with -EIO (qcow2_is_corrupt()).
 * @offset, @size: -1 if none. s->lock held */
void qcow2_signal_corruption(Qcow2State *s, int64_t offset, int64_t size,
                             const char *fmt, ...) G_GNUC_PRINTF(4, 5);

/*
 * For open and create, of a node that has its child "file": before anything else;
 * the image with its tables (no backing file; nothing is written); and the end of
 * all, which loses what is dirty. qcow2_close() is BlockDriver's.
 */
void qcow2_init_state(BlockDriverState *bs);
int qcow2_open_image(Qcow2State *s, JsonObject *options, GError **errp);
void qcow2_free_state(BlockDriverState *bs);
/* Write all tables, and what becomes free by that. 0 or -errno */
int qcow2_settle(Qcow2State *s);
void qcow2_close(BlockDriverState *bs);

/* ---- qcow2-options.c, qcow2-create.c, qcow2-resize.c ------------------------ */

extern const SchemaType qcow2_options_type, qcow2_create_options_type;
extern const char *const qcow2_reopen_options[];

/* Tables in each cache */
typedef struct Qcow2CacheSizes {
    unsigned l2, refblocks;
} Qcow2CacheSizes;

/* For a disk of s->length; also checks what else only options say. */
bool qcow2_parse_cache_options(const Qcow2State *s, JsonObject *options,
                               Qcow2CacheSizes *sizes, GError **errp);
/* As BlockDriver's */
int qcow2_create(JsonObject *options, const BdrvStop *stop, GError **errp);
int qcow2_truncate(BlockDriverState *bs, int64_t length, GError **errp);

/* ---- qcow2-snapshot.c ------------------------------------------------------- */

/* s->snapshots, and how long their table is. 0, or -errno and @errp */
int qcow2_read_snapshots(Qcow2State *s, GError **errp);

/* ---- qcow2-bitmap.c: dirty bitmaps that are stored in the image ------------- */

/*
 * All: graph mutex held. For open: those in the image become dirty bitmaps of the
 * node; of a writable one they are in use from then on. 0, or -errno and @errp.
 */
int qcow2_bitmaps_open(Qcow2State *s, GError **errp);
/* What the node has is stored, and no longer in use; where that fails, it stays in
 * use in the image, and a warning says why. For close */
void qcow2_bitmaps_close(Qcow2State *s);
/* Of a writable node that is to be read-only: stores them. 0, or -errno and @errp;
 * then nothing has changed. Drained */
int qcow2_bitmaps_prepare_read_only(Qcow2State *s, GError **errp);
/* The node is what it is to be, read-only or writable. */
void qcow2_bitmaps_reopened(Qcow2State *s);
/* May the disk have another length? False and @errp */
bool qcow2_bitmaps_check_resize(Qcow2State *s, int64_t length, GError **errp);
/* As BlockDriver's */
bool qcow2_can_store_bitmap(BlockDriverState *bs, const char *name,
                            uint32_t granularity, GError **errp);
int qcow2_remove_stored_bitmap(BlockDriverState *bs, const char *name,
                               GError **errp);
/* For get_info: NULL if there are none. Any thread */
JsonArray *qcow2_bitmaps_info(Qcow2State *s);
void qcow2_bitmaps_free(Qcow2State *s);

/* ---- qcow2-compressed.c ---------------------------------------------------- */

/* Where a compressed cluster's data lies, by its L2 entry; false: it makes no sense */
bool qcow2_compressed_range(const Qcow2State *s, uint64_t l2_entry,
                            uint64_t *offset, uint64_t *bytes);
/* The whole cluster into @buf (cluster_size bytes). s->lock not held; the range is. */
int qcow2_read_compressed(Qcow2State *s, uint64_t l2_entry, uint8_t *buf);

/* ---- qcow2-compress.c ------------------------------------------------------ */

/*
 * BDRV_REQ_WRITE_COMPRESSED: whole clusters, or up to the end of the disk (-EINVAL
 * otherwise), any vector. What has a place in the file already is -EIO, unless it
 * cannot be compressed: that is written as any other data. If one of several clusters
 * fails, those before it are written.
 */
int qcow2_pwritev_compressed(Qcow2State *s, int64_t offset, int64_t bytes,
                             const struct iovec *iov, int niov);

/* ---- qcow2-map.c: L1 and L2 ------------------------------------------------- */

/* One L2 entry's meaning; -EIO (after qcow2_signal_corruption()) if it has none */
int qcow2_entry_type(Qcow2State *s, uint64_t l2_entry, Qcow2ClusterType *type);
/*
 * What is at @offset of the guest's disk, and how far (at most @bytes) it goes on
 * in the same way, in the file, too. *@host: where @offset lies (NORMAL,
 * ZERO_ALLOC), or the L2 entry (COMPRESSED, which goes to the end of its cluster
 * at most). *@copied: all clusters are this image's alone. 0, or -errno. Takes s->lock.
 */
int qcow2_map(Qcow2State *s, int64_t offset, int64_t bytes,
              Qcow2ClusterType *type, uint64_t *host, int64_t *pnum,
              bool *copied);
/* The same with s->lock held */
int qcow2_lookup(Qcow2State *s, int64_t offset, int64_t bytes,
                 Qcow2ClusterType *type, uint64_t *host, int64_t *pnum,
                 bool *copied);
/*
 * The L2 table for @offset, which belongs to this image alone (made or copied if
 * necessary, and the L1 entry written), pinned, and the index in it. s->lock held
 */
int qcow2_get_own_l2(Qcow2State *s, int64_t offset, uint64_t **l2,
                     unsigned *index);

/* ---- qcow2-last-read.c: the compressed cluster that was read last ----------- */

/*
 * [@from, @from + iov_size(@iov)) of a compressed cluster. s->lock not held; the range is.
 */
int qcow2_preadv_compressed(Qcow2State *s, uint64_t l2_entry, int64_t from,
                            const struct iovec *iov, int niov);
/* Its place is given up. */
void qcow2_forget_compressed(Qcow2State *s, uint64_t l2_entry);
/* For close */
void qcow2_last_read_free(Qcow2State *s);

/* ---- qcow2-rw.c, qcow2-alloc.c, qcow2-zero.c, qcow2-status.c ----------------- */

int qcow2_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                 const struct iovec *iov, int niov, int flags);
int qcow2_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                  const struct iovec *iov, int niov, int flags);
int qcow2_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        int flags);
int qcow2_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes);
int qcow2_flush(BlockDriverState *bs);
int qcow2_block_status(BlockDriverState *bs, unsigned want, int64_t offset,
                       int64_t bytes, int64_t *pnum, int64_t *map,
                       BlockDriverState **file);
/*
 * Map all of [@offset, @offset + @bytes) to clusters of its own, in order, without writing
 * data (preallocation): they read as what the file has there. Alone.
 */
int qcow2_preallocate(Qcow2State *s, int64_t offset, int64_t bytes);
/* For resize: clusters from @offset to the end of the disk are given up. Alone. */
int qcow2_discard_all(Qcow2State *s, int64_t offset, int64_t bytes);

#endif
