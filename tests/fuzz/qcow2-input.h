/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inputs that are a qcow2 image and what is done with it, in few bytes:
 *
 *   1     which of the images of tests/fuzz/base, counted in the fuzzer's list
 *   1     flags, the fuzzer's own
 *   1     the number of patches, at most 15
 *   n x   where (2, in bytes), how many bytes - 1 (1, at most 16), these
 *   n x 4 steps: what, where, how long, how
 *
 * The mutator knows that, and what stands where in an image.
 */
#ifndef TESTS_FUZZ_QCOW2_INPUT_H
#define TESTS_FUZZ_QCOW2_INPUT_H

#include "fuzz.h"

#define QCOW2_STEPS_MAX 24

typedef struct Qcow2Step {
    uint8_t what, where, length, how;
} Qcow2Step;

typedef struct Qcow2Input {
    const char *base;
    GByteArray *image;
    uint8_t flags;
    Qcow2Step steps[QCOW2_STEPS_MAX];
    unsigned n_steps;
} Qcow2Input;

/* @bases: names, NULL at the end */
void qcow2_input_parse(Qcow2Input *input, const char *const *bases,
                       const uint8_t *data, size_t size);
void qcow2_input_clear(Qcow2Input *input);
/* For LLVMFuzzerCustomMutator(); @n_whats: steps there are */
size_t qcow2_input_mutate(const char *const *bases, unsigned n_whats,
                          uint8_t *data, size_t size, size_t max_size,
                          unsigned seed);

#endif
