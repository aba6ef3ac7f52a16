/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a disk may hold: one value of each byte, and where something has failed,
 * several. Values are below MODEL_VALUES.
 */
#ifndef TESTS_FAULTS_MODEL_H
#define TESTS_FAULTS_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#define MODEL_VALUES 64

typedef struct Model {
    int64_t length, max;
    uint8_t *data;       /* if nothing else may be */
    int64_t doubt, sure; /* where it is not known: [doubt, sure) */
    uint64_t *may;       /* there; bit v: value v */
    int64_t loose, firm; /* written since the last flush: [loose, firm) */
    uint64_t *since; /* there; what was written, and what was there before */
} Model;

/* All zero; it can grow up to @max. */
Model *model_new(int64_t length, int64_t max);
void model_free(Model *m);
/* Written; and: perhaps written */
void model_set(Model *m, int64_t offset, int64_t bytes, int value);
void model_may(Model *m, int64_t offset, int64_t bytes, int value);
/* A flush succeeded, or failed: then any of what was written since may be lost. */
void model_flushed(Model *m);
void model_lose(Model *m);
/* What is new is zero. */
void model_resize(Model *m, int64_t length);
/* All was read: each byte must be what it may be; nothing else it may be now. */
void model_check(Model *m, const uint8_t *data, const char *who);
/* The same of a part, which is known */
void model_check_part(const Model *m, int64_t offset, int64_t bytes,
                      const uint8_t *data, const char *who);
/* Is all of this zero, and nothing else? */
bool model_is_zero(const Model *m, int64_t offset, int64_t bytes);

#endif
