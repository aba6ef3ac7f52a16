/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the disks of status-oracle are: file systems of each kind, mounted on loop
 * devices on a tmpfs, and a loop device.
 */
#ifndef TESTS_ORACLE_PLACE_H
#define TESTS_ORACLE_PLACE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "oracle-shadow.h"
#include "oracle-random.h"

typedef struct PlaceKind {
    const char *name;
    const char *mkfs; /* NULL: no loop mount */
    bool reflink;     /* the disk shares its blocks with another file */
    bool device;      /* it is a block device */
    bool fiemap;      /* can be asked that way */
} PlaceKind;

extern const PlaceKind place_kinds[];
extern const int n_place_kinds;

typedef struct Place Place;

/* Before all others: once. Are there file systems but that of @directory? */
bool places_set_up(GError **errp);
void places_tear_down(void);
/* The one named so; NULL: there is none. */
const PlaceKind *place_kind_find(const char *name);

/* @directory: where the disk is to be, instead of a file system of @kind; or NULL */
Place *place_new(const PlaceKind *kind, const char *directory, GError **errp);
void place_free(Place *p);

/*
 * A new disk, of @length bytes, with data, zeroes, preallocated parts and holes,
 * of which @s is told.
 */
bool place_make_disk(Place *p, int64_t length, Shadow *s, Random *rand,
                     GError **errp);
/* Its name */
const char *place_disk(const Place *p);
/* Share all blocks with the other file again, where that is so. */
bool place_share_again(Place *p, GError **errp);
/*
 * Give a block device another length. Nobody has requests under way. What it gets
 * is @buf, @bytes from @offset on.
 */
void place_resize_device(Place *p, int64_t length, int64_t offset,
                         int64_t bytes, const void *buf);
void place_remove_disk(Place *p);

#endif
