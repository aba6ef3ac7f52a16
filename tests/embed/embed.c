/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A program that embeds the status cache through its pkg-config file, and has
 * nothing else of this project: maps the file it is given.
 */
#include <block/status-cache.h>
#include <block/status-probe.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    StatusCacheOptions options = { .granularity = 4096,
                                   .mode = STATUS_CACHE_ON };
    StatusCacheStats stats;
    StatusCache *cache;
    StatusProbe *probe;
    struct stat st;
    int64_t offset, pnum;
    int fd = argc == 2 ? open(argv[1], O_RDWR) : -1, state, pass;

    if (fd < 0 || fstat(fd, &st) < 0) {
        return 2;
    }
    options.length = st.st_size;
    cache = status_cache_new(&options, NULL);
    probe = status_probe_new(fd, STATUS_PROBE_AUTO);
    for (pass = 0; pass < 2; pass++) {
        for (offset = 0; offset < st.st_size; offset += pnum) {
            state = status_query(cache, probe, offset, st.st_size - offset,
                                 &pnum, NULL);
            if (state < 0) {
                return 1;
            }
            pnum = MIN(pnum, st.st_size - offset);
            printf("%d %" PRId64 " %" PRId64 " %s\n", pass, offset, pnum,
                   state == BLOCK_STATE_ZERO ? "zero" : "data");
        }
        status_cache_get_stats(cache, &stats);
        printf("%d probes %" PRIu64 "\n", pass, stats.probes);
    }
    status_probe_free(probe);
    status_cache_unref(cache);
    close(fd);
    return 0;
}
