/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loop devices for tests of block devices. They go by themselves when the last
 * process that has them open ends. Needs root.
 */
#ifndef TESTS_LOOP_DEVICE_H
#define TESTS_LOOP_DEVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct LoopDevice {
    char *node; /* "/dev/loop3" */
    int fd;     /* keeps it */
} LoopDevice;

typedef struct LoopDeviceOptions {
    uint32_t block_size; /* logical, bytes; 0: 512 */
    bool read_only;
    bool partitions; /* it may have some */
} LoopDeviceOptions;

/* Whether there can be any */
bool loop_device_possible(void);
/* A device on the file @filename; aborts if that cannot be had. */
LoopDevice *loop_device_new(const char *filename,
                            const LoopDeviceOptions *options);
/* The file has another length: so has the device. */
void loop_device_resize(LoopDevice *loop);
/* Make partition 1 and return the name of its node. */
char *loop_device_add_partition(LoopDevice *loop, int64_t offset,
                                int64_t bytes);
void loop_device_del_partition(LoopDevice *loop);
void loop_device_free(LoopDevice *loop);

#endif
