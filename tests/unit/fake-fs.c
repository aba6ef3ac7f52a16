/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fake-fs.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

FakeFs fake;

static void enter(void)
{
    int call = fake.calls++;

    if (fake.hook) {
        fake.hook(call);
    }
}

static int fail(int err)
{
    errno = err;
    return -1;
}

static int fake_fstatfs(int fd, struct statfs *buf)
{
    memset(buf, 0, sizeof(*buf));
    buf->f_type = fake.magic;
    return fake.statfs_errno ? fail(fake.statfs_errno) : 0;
}

/*
 * What SEEK_DATA goes by: the mapping as it has seen it, and then the pages of
 * what is unwritten. Time passes in between.
 */
static char seen_map[FAKE_BLOCKS];

static bool looks_like_data(int block)
{
    return seen_map[block] == 'u' ? fake.page[block] : seen_map[block] != '.';
}

static off_t fake_lseek(int fd, off_t offset, int whence)
{
    bool data = whence == SEEK_DATA;
    int err = data ? fake.seek_data_errno : fake.seek_hole_errno;
    int64_t at;
    int walked = 0;

    memcpy(seen_map, fake.map, sizeof(seen_map));
    enter();
    *(data ? &fake.seek_data : &fake.seek_hole) += 1;
    if (err) {
        return fail(err);
    }
    if (offset >= fake.size) {
        return fail(ENXIO);
    }
    for (at = offset; at < fake.size; at = (at / FAKE_BLOCK + 1) * FAKE_BLOCK) {
        if (looks_like_data(at / FAKE_BLOCK) == data) {
            return at + fake.seek_lie;
        }
        fake.walked++;
        walked++;
        fake.max_walked = MAX(fake.max_walked, walked);
    }
    return data ? fail(ENXIO) : fake.size + fake.seek_lie;
}

static int64_t extent_end(int64_t block, int64_t end)
{
    char state = fake.map[block];

    do {
        block++;
    } while (block < end && fake.map[block] == state &&
             block % fake.extent_blocks != 0);
    return block;
}

static uint32_t extent_flags(char state)
{
    return state == 'u' ? FIEMAP_EXTENT_UNWRITTEN
                        : (state == 'd' ? 0 : fake.other_flags);
}

static int fake_fiemap(int fd, struct fiemap *f)
{
    int end =
        (MIN(f->fm_start + f->fm_length, (uint64_t)FAKE_BLOCKS * FAKE_BLOCK) +
         FAKE_BLOCK - 1) /
        FAKE_BLOCK;
    int64_t block = f->fm_start / FAKE_BLOCK, next;

    enter();
    fake.fiemaps++;
    if (fake.fiemap_errno) {
        return fail(fake.fiemap_errno);
    }
    f->fm_mapped_extents = 0;
    for (; block < end && f->fm_mapped_extents < f->fm_extent_count;
         block = next) {
        struct fiemap_extent *e = &f->fm_extents[f->fm_mapped_extents];

        next = block + 1;
        if (fake.map[block] == '.') {
            continue;
        }
        next = extent_end(block, end);
        memset(e, 0, sizeof(*e));
        e->fe_logical = (uint64_t)block * FAKE_BLOCK;
        e->fe_length = (uint64_t)(next - block) * FAKE_BLOCK;
        e->fe_flags = extent_flags(fake.map[block]);
        f->fm_mapped_extents++;
    }
    fake.extents += f->fm_mapped_extents;
    fake.max_extents = MAX(fake.max_extents, (int)f->fm_mapped_extents);
    return 0;
}

static int fake_cachestat(int fd, int64_t offset, int64_t bytes,
                          StatusPages *pages)
{
    int64_t block;

    enter();
    fake.cachestats++;
    if (fake.cachestat_errno) {
        return fail(fake.cachestat_errno);
    }
    memset(pages, 0, sizeof(*pages));
    for (block = offset / FAKE_BLOCK;
         block <= (offset + bytes - 1) / FAKE_BLOCK && block < FAKE_BLOCKS;
         block++) {
        pages->cached += fake.page[block];
    }
    return 0;
}

const StatusProbeOps fake_ops = {
    .fstatfs = fake_fstatfs,
    .lseek = fake_lseek,
    .fiemap = fake_fiemap,
    .cachestat = fake_cachestat,
};

void fake_reset(int64_t bytes)
{
    memset(&fake, 0, sizeof(fake));
    fake.size = bytes;
    fake.extent_blocks = FAKE_BLOCKS;
    memset(fake.map, '.', sizeof(fake.map));
}

void fake_map(int start, int end, char state)
{
    memset(fake.map + start, state, end - start);
}

void fake_ack(int start, int end)
{
    for (; start < end; start++) {
        fake.page[start] = fake.acked[start] = true;
    }
}

void fake_writeback(void)
{
    int i;

    for (i = 0; i < FAKE_BLOCKS; i++) {
        if (fake.acked[i]) {
            fake.map[i] = 'd';
            fake.page[i] = fake.acked[i] = false;
        }
    }
}

void fake_count(void)
{
    fake.calls = fake.seek_data = fake.seek_hole = fake.fiemaps = 0;
    fake.cachestats = fake.extents = fake.max_extents = 0;
    fake.walked = fake.max_walked = 0;
}
