/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Objects of type "secret": a password or key that others refer to by the
 * object's id. It is in no reply and in no message, and the memory that the
 * object holds it in is overwritten before it is freed.
 */
#ifndef UTIL_SECRET_H
#define UTIL_SECRET_H

#include <stddef.h>

#include "util/object.h"

typedef struct Secret Secret;

extern const ObjectType secret_object;

/* The bytes of a secret, valid as long as the object is used; any thread */
const void *secret_bytes(const Secret *secret, size_t *size);

#endif
