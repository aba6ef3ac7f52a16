/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What direct I/O on a file wants: the alignment of offsets, of lengths and of
 * buffers. The kernel tells (statx(2), Linux 6.1) for file systems that tell
 * it; the others are tried out with reads. Devices have logical blocks, whatever
 * else they can do.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file-posix-int.h"

#define MIN_ALIGNMENT 512
#define MAX_ALIGNMENT 4096

static bool is_power_of_two(uint64_t n)
{
    return n && !(n & (n - 1));
}

/* What the kernel says; false if it does not know. */
static bool ask_statx(int fd, BlockLimits *limits)
{
#ifdef STATX_DIOALIGN
    struct statx stx;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) &&
        is_power_of_two(stx.stx_dio_offset_align) &&
        is_power_of_two(stx.stx_dio_mem_align)) {
        limits->request_alignment = stx.stx_dio_offset_align;
        limits->mem_alignment = stx.stx_dio_mem_align;
        return true;
    }
#endif
    return false;
}

/* Misaligned is EINVAL; other errors can happen to any read. */
static bool read_works(int fd, void *buf, size_t bytes)
{
    ssize_t n;

    do {
        n = pread(fd, buf, bytes, 0);
    } while (n < 0 && errno == EINTR);
    return n >= 0 || errno != EINVAL;
}

/*
 * The smallest lengths and addresses that the file system reads with. Reads of
 * an empty file say nothing, so that gets the largest.
 */
static void try_reads(int fd, int64_t length, BlockLimits *limits)
{
    uint32_t request, mem;
    char *buf;

    if (length == 0) {
        limits->request_alignment = limits->mem_alignment = MAX_ALIGNMENT;
        return;
    }
    buf = aligned_alloc(MAX_ALIGNMENT, 2 * MAX_ALIGNMENT);
    g_assert(buf);
    for (request = MIN_ALIGNMENT; request < MAX_ALIGNMENT; request *= 2) {
        if (read_works(fd, buf, request)) {
            break;
        }
    }
    for (mem = MIN_ALIGNMENT; mem < MAX_ALIGNMENT; mem *= 2) {
        if (read_works(fd, buf + mem, MAX_ALIGNMENT)) {
            break;
        }
    }
    free(buf);
    limits->request_alignment = request;
    limits->mem_alignment = mem;
}

void file_find_alignment(int fd, int64_t length, BlockLimits *limits)
{
    int block;

    if (!ask_statx(fd, limits)) {
        try_reads(fd, length, limits);
    }
    if (ioctl(fd, BLKSSZGET, &block) == 0 && is_power_of_two(block)) {
        limits->request_alignment = block;
    }
}
