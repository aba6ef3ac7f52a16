/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A qcow2 image in memory, whose disk may stop or fail, and its dirty bitmaps. One at
 * a time: what has it open is in these variables.
 */
#ifndef TESTS_UNIT_QCOW2_BITMAP_FIXTURE_H
#define TESTS_UNIT_QCOW2_BITMAP_FIXTURE_H

#include "block/qcow2-bitmap.h"
#include "qcow2-disk.h"

#define KIB INT64_C(1024)
#define MIB (KIB * KIB)
#define NAME "the-backing-file"

extern BlockDriverState *file, *bs;
extern BlockBackend *blk;
extern Qcow2State *s;

/* An empty image. @filler: bytes of an extension that nobody knows, which moves
 * what comes behind; -1: none. @backing: it names NAME */
void make_file(unsigned version, unsigned cluster_bits, int64_t length,
               int filler, bool backing);
void drop_file(void);
/* Another file in its place; and what it has */
void put_file(GBytes *contents);
GBytes *get_file(void);

bool try_open(bool read_only, GError **errp);
void open_image(bool read_only);
void close_image(void);
void close_all(void); /* and drop the file */
bool reopen(bool read_only, GError **errp);
void write_at(int64_t offset, int64_t bytes);

/* NULL: there is none. */
BdrvDirtyBitmap *get(const char *name);
/* A persistent one; it goes, from the image, too. */
BdrvDirtyBitmap *add(const char *name, uint32_t granularity);
int take(const char *name, GError **errp);
/* "0110...", a character a granule; to be freed */
char *bits_of(const char *name);
void assert_bits(const char *name, const char *bits);
bool is_inconsistent(const char *name);
/* Those in the image; -1: none of that name */
int stored_flags(const char *name);

#endif
