/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a pass over the block status of a file costs: asks status_query() for
 * the whole file, twice (the second pass should cost nothing), and prints one
 * JSON object with what the probes did. See --help.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/status-probe.h"

#define VERIFY_CHUNK (INT64_C(1) << 20)

typedef struct Pass {
    int64_t runs, data, zero;
    double seconds;
} Pass;

static const gchar *strategy_name = "auto";
static const gchar *mode_name = "on";
static gint64 granularity = 4096;
static gint64 request = INT64_C(1) << 20;
static gboolean no_cachestat, verify;

static const GOptionEntry entries[] = {
    { "strategy", 0, 0, G_OPTION_ARG_STRING, &strategy_name,
      "auto, seek or fiemap", "NAME" },
    { "mode", 0, 0, G_OPTION_ARG_STRING, &mode_name, "on, data-only or off",
      "MODE" },
    { "granularity", 0, 0, G_OPTION_ARG_INT64, &granularity, "of the cache",
      "BYTES" },
    { "request", 0, 0, G_OPTION_ARG_INT64, &request,
      "what is asked for at once", "BYTES" },
    { "no-cachestat", 0, 0, G_OPTION_ARG_NONE, &no_cachestat,
      "do as if the kernel had no cachestat(2)", NULL },
    { "verify", 0, 0, G_OPTION_ARG_NONE, &verify,
      "then read all that is said to be zero", NULL },
    { NULL },
};

static void die(const char *what, int err)
{
    fprintf(stderr, "probe-pass: %s: %s\n", what, g_strerror(err));
    exit(1);
}

/* The index of @name in @names, or no return */
static int choose(const char *what, const char *name, const char *const *names)
{
    int i;

    for (i = 0; names[i]; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    fprintf(stderr, "probe-pass: %s '%s' is not known\n", what, name);
    exit(1);
}

static uint32_t count_extents(int fd)
{
    struct fiemap f = { .fm_length = FIEMAP_MAX_OFFSET };

    return ioctl(fd, FS_IOC_FIEMAP, &f) < 0 ? 0 : f.fm_mapped_extents;
}

static bool is_zero(const char *buf, int64_t bytes)
{
    return bytes == 0 || (buf[0] == 0 && memcmp(buf, buf + 1, bytes - 1) == 0);
}

/* Bytes of [@offset, @offset + @bytes) in chunks that are not all zero */
static int64_t read_nonzero(int fd, int64_t offset, int64_t bytes)
{
    g_autofree char *buf = g_malloc(VERIFY_CHUNK);
    int64_t bad = 0, end = offset + bytes;

    while (offset < end) {
        int64_t n = MIN(VERIFY_CHUNK, end - offset);
        ssize_t got = pread(fd, buf, n, offset);

        if (got < 0) {
            die("read", errno);
        }
        if (got == 0) {
            break;
        }
        if (!is_zero(buf, got)) {
            bad += got;
        }
        offset += got;
    }
    return bad;
}

static Pass make_pass(StatusCache *cache, StatusProbe *probe, int64_t length)
{
    Pass pass = { 0 };
    int64_t offset, pnum, start = g_get_monotonic_time();
    int last = -1;

    for (offset = 0; offset < length; offset += pnum) {
        int r = status_query(cache, probe, offset,
                             MIN(request, length - offset), &pnum, NULL);

        if (r < 0) {
            die("status", -r);
        }
        /* as a mirror does, which copies what it asked for */
        pnum = MIN(pnum, request);
        pnum = MIN(pnum, length - offset);
        pass.runs += r != last;
        last = r;
        if (r == BLOCK_STATE_ZERO) {
            pass.zero += pnum;
        } else {
            pass.data += pnum;
        }
    }
    pass.seconds = (g_get_monotonic_time() - start) / 1e6;
    return pass;
}

static int64_t verify_zeroes(StatusCache *cache, int fd, int64_t length)
{
    int64_t offset, pnum, bad = 0;

    for (offset = 0; offset < length; offset += pnum) {
        if (status_cache_peek(cache, offset, length - offset, &pnum) ==
            BLOCK_STATE_ZERO) {
            bad += read_nonzero(fd, offset, pnum);
        }
    }
    return bad;
}

static void print_pass(const char *name, const Pass *pass,
                       const StatusCacheStats *s)
{
    int i;

    printf(" \"%s\": {\"runs\": %" PRId64 ", \"data\": %" PRId64
           ", \"zero\": %" PRId64 ", \"seconds\": %.6f, \"probes\": %" PRIu64
           ",\n  \"seek-data\": %" PRIu64 ", \"seek-hole\": %" PRIu64
           ", \"fiemap\": %" PRIu64 ", \"cachestat\": %" PRIu64 ",\n",
           name, pass->runs, pass->data, pass->zero, pass->seconds, s->probes,
           s->probe_calls[STATUS_PROBE_SEEK_DATA],
           s->probe_calls[STATUS_PROBE_SEEK_HOLE],
           s->probe_calls[STATUS_PROBE_FIEMAP],
           s->probe_calls[STATUS_PROBE_CACHESTAT]);
    printf("  \"extents\": %" PRIu64 ", \"max-extents\": %" PRIu64
           ", \"cpu-ns\": %" PRIu64 ", \"cpu-max-ns\": %" PRIu64
           ", \"wall-max-ns\": %" PRIu64 ",\n  \"histogram\": {",
           s->extents, s->max_extents, s->probe_cpu_ns, s->probe_cpu_max_ns,
           s->probe_wall_max_ns);
    for (i = 0; i < STATUS_CACHE_HISTOGRAM - 1; i++) {
        printf("\"<%" PRIu64 "\": %" PRIu64 ", ", status_cache_histogram_ns[i],
               s->histogram[i]);
    }
    printf("\"more\": %" PRIu64 "}}", s->histogram[i]);
}

int main(int argc, char **argv)
{
    static const char *const strategies[] = { "auto", "seek", "fiemap", NULL };
    static const char *const modes[] = { "off", "data-only", "on", NULL };
    g_autoptr(GOptionContext) context = g_option_context_new("FILE");
    g_autoptr(GError) err = NULL;
    g_autoptr(StatusCache) cache = NULL;
    g_autoptr(StatusProbe) probe = NULL;
    StatusCacheOptions options = { 0 };
    StatusCacheStats stats[2];
    struct stat st;
    Pass pass[2];
    int fd;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err) || argc != 2) {
        fprintf(stderr, "probe-pass: %s\n",
                err ? err->message : "one FILE is needed");
        return 1;
    }
    fd = open(argv[1], O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        die(argv[1], errno);
    }
    if (!S_ISREG(st.st_mode) || request <= 0 || granularity <= 0 ||
        granularity > STATUS_CACHE_MAX_GRANULARITY) {
        die(argv[1], EINVAL);
    }
    options.length = st.st_size;
    options.granularity = granularity;
    options.mode = choose("mode", mode_name, modes);
    cache = status_cache_new(&options, &err);
    if (!cache) {
        fprintf(stderr, "probe-pass: %s\n", err->message);
        return 1;
    }
    probe = status_probe_new(fd, choose("strategy", strategy_name, strategies));
    if (no_cachestat) {
        status_probe_disable_cachestat(probe);
    }
    pass[0] = make_pass(cache, probe, st.st_size);
    status_cache_get_stats(cache, &stats[0]);
    pass[1] = make_pass(cache, probe, st.st_size);
    status_cache_get_stats(cache, &stats[1]);

    printf("{\"strategy\": \"%s\", \"uses-cachestat\": %s, \"length\": %" PRId64
           ", \"file-extents\": %u,\n",
           status_probe_strategy_name(status_probe_strategy(probe)),
           status_probe_uses_cachestat(probe) ? "true" : "false",
           (int64_t)st.st_size, count_extents(fd));
    print_pass("first", &pass[0], &stats[0]);
    printf(",\n \"second-pass-probes\": %" PRIu64,
           stats[1].probes - stats[0].probes);
    if (verify) {
        printf(",\n \"false-zero-bytes\": %" PRId64,
               verify_zeroes(cache, fd, st.st_size));
    }
    printf("}\n");
    close(fd);
    return 0;
}
