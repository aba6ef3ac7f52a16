/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A disk with a user: operations that may fail, are done again then, and are
 * looked at from outside: the contents must be what they may be, and nobody may
 * call zero what is not. One disk at a time; its node is called "d".
 */
#ifndef TESTS_FAULTS_DISK_H
#define TESTS_FAULTS_DISK_H

#include "block/block-int.h"
#include "model.h"
#include "run.h"

#define KIB INT64_C(1024)
#define LENGTH (256 * KIB)
/* Disks get no longer than that. */
#define MAX_LENGTH (384 * KIB)

typedef struct Disk {
    char *path;
    /* The node's options: JSON with ' for " */
    char *options;
    bool raw;       /* the file holds what the disk does */
    bool read_only; /* the user does not write */
    bool fixed;     /* nor make it longer */
    BlockDriverState *bs;
    BlockBackend *blk; /* NULL: it is not open */
    Model *model;
} Disk;

extern Disk disk;

/*
 * The file "disk" in the scenario's directory: of @length bytes, with data in the page
 * cache and data that is not there, holes, and a preallocated part with some data in
 * the page cache; and what disk_open() is to open.
 */
void disk_make(int64_t length);
/* The same on a device of LENGTH bytes, which stays */
void disk_make_on(const char *device);
/* The same contents for another file, which is zero */
void disk_fill(const char *path);
/* "driver":"file" with these further options; or what is to stand above it */
void disk_use_file(const char *options);
void disk_use(const char *options, bool raw);
/* It goes, and so does the file; nobody has locks on it any more. */
void disk_drop(void);

void disk_open(void);
void disk_close(void);
/* disk_close() and disk_open() where nothing fails */
void disk_open_anew(void);
void disk_read(int64_t offset, int64_t bytes);
void disk_write(int64_t offset, int64_t bytes, int value, int flags);
void disk_zero(int64_t offset, int64_t bytes, int flags);
void disk_discard(int64_t offset, int64_t bytes);
void disk_flush(void);
/* Of the whole disk, as @want says; all answers must be true. */
void disk_status(unsigned want);
void disk_resize(int64_t length);
/* blockdev-reopen with other options of the whole node, as in disk_use() */
void disk_reopen(const char *options);
/* Another user comes and goes. */
void disk_share(uint64_t perm, uint64_t shared);
/* blk_free(), and so on, for who has a part of his own in what is done */
bool disk_try_open(GError **errp);
void disk_try_close(void);
/* Nothing fails; what is on the disk is what may be, and is known from now on. */
void disk_check(void);
/* Checked, closed and gone: the end of a scenario */
void disk_finish(void);

/* Whole contents of the file @path, and a node made of JSON with ' for " */
GBytes *file_contents(const char *path);
BlockDriverState *node_new(const char *json, GError **errp);
bool node_del(const char *name, GError **errp);

#endif
