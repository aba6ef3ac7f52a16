/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks in qcow2 images: made once and copied for each run, and checked at its end.
 */
#ifndef TESTS_FAULTS_IMAGE_H
#define TESTS_FAULTS_IMAGE_H

#include "disk.h"

/* blockdev-create: options of a driver, JSON with ' for " */
bool create(const char *driver, const char *options, GError **errp);

/*
 * For Scenario.prepare: the image that image_make() makes copies of, of LENGTH bytes;
 * @options: more of qcow2's for blockdev-create, or "".
 */
void image_prepare(const char *options);
/* The same is changed as @func changes it, while it is open. */
void image_change(void (*func)(void));
/* As disk_make(). @options: more of those of the node "d", above the file, or "" */
void image_make(const char *options);
/* The same, with a node "other-d" of this name and these options, for disk.options */
char *image_options(const char *path, const char *options);
/* The image has neither corruptions nor errors, and what is in it is what may be.
 * It is open; then it is closed, looked at, and dropped. */
void image_finish(void);
/* The image is whole: it is not open. */
void image_check(const char *path);

#endif
