/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An image of driver qcow2, in memory, and a plain buffer with what it has to
 * hold: requests go to both.
 */
#ifndef TESTS_UNIT_QCOW2_MODEL_H
#define TESTS_UNIT_QCOW2_MODEL_H

#include "qcow2-disk.h"

#define KIB INT64_C(1024)
#define MIB (KIB * KIB)

typedef struct Qcow2ModelConfig {
    unsigned version, cluster_bits;
    int64_t length;
    bool backing; /* there is a backing file, which is shorter */
} Qcow2ModelConfig;

/* Lengths that are not whole clusters, backing files shorter than the disk */
#define QCOW2_MODEL_CONFIGS 10
extern const Qcow2ModelConfig qcow2_model_configs[QCOW2_MODEL_CONFIGS];

typedef struct Qcow2Model {
    const Qcow2ModelConfig *config;
    BlockDriverState *file, *base;
    BlockBackend *blk;
    uint8_t *data;
} Qcow2Model;

/* The one there is, between open and close */
extern Qcow2Model model;

/* @config must stay. */
void qcow2_model_open(const Qcow2ModelConfig *config);
void qcow2_model_reopen(void);
void qcow2_model_close(void);

/* The image reads as the buffer. */
void qcow2_model_assert(void);
/* What is called zero is zero, and what is neither is what is below. */
void qcow2_model_assert_status(void);

/* A write of bytes that count up from @first */
void qcow2_model_write(int64_t offset, int64_t bytes, uint8_t first);
void qcow2_model_read(int64_t offset, int64_t bytes);
/* Any request within [@start, @end). Threads may do so in ranges of their own. */
void qcow2_model_any_request(GRand *rand, int64_t start, int64_t end);

#endif
