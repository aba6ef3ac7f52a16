/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names that users give to things: exports, jobs, objects */
#ifndef UTIL_ID_H
#define UTIL_ID_H

#include <stdbool.h>

/* As QEMU's: a letter, then letters, digits, "-", "." and "_"; of ASCII */
bool id_wellformed(const char *id);

#endif
