/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a pass over the block status of a file costs: asks status_query() for
 * the whole file, twice (the second pass should cost nothing), and prints one
 * JSON object with what the probes did. See --help.
 *
 * "walked" is how many extents the kernel looked at to answer the seeks, by the
 * map of the file as it is afterwards: all between an offset and the answer.
 * "again" is the first window, asked for once more for each probe of the first pass:
 * how many of these calls took over 100 us.
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
#include <time.h>
#include <unistd.h>

#include "block/status-probe-int.h"

#define VERIFY_CHUNK (INT64_C(1) << 20)
/* "slow" is what takes longer. */
#define SLOW_NS (100 * 1000)

typedef struct Pass {
    int64_t runs, data, zero, queries;
    double seconds;
} Pass;

/* One lseek() that had an answer, or led to the end */
typedef struct Seek {
    uint64_t from, to;
} Seek;

static GArray *seeks; /* Seek; of the first pass */

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

static off_t noted_lseek(int fd, off_t offset, int whence)
{
    off_t where = lseek(fd, offset, whence);
    Seek seek = { offset, where < 0 ? UINT64_MAX : (uint64_t)where };
    int err = errno;

    g_array_append_val(seeks, seek);
    errno = err;
    return where;
}

/* All extents of the file, none without FIEMAP; to be g_array_free()d */
static GArray *get_extents(int fd)
{
    GArray *extents = g_array_new(false, false, sizeof(struct fiemap_extent));
    g_autofree struct fiemap *f =
        g_malloc(sizeof(*f) + PROBE_MAX_EXTENTS * sizeof(struct fiemap_extent));
    uint64_t start = 0;

    do {
        const struct fiemap_extent *last;

        memset(f, 0, sizeof(*f));
        f->fm_start = start;
        f->fm_length = FIEMAP_MAX_OFFSET - start;
        f->fm_extent_count = PROBE_MAX_EXTENTS;
        if (ioctl(fd, FS_IOC_FIEMAP, f) < 0 || !f->fm_mapped_extents) {
            break;
        }
        g_array_append_vals(extents, f->fm_extents, f->fm_mapped_extents);
        last = &f->fm_extents[f->fm_mapped_extents - 1];
        start = last->fe_logical + last->fe_length;
    } while (f->fm_mapped_extents == PROBE_MAX_EXTENTS);
    return extents;
}

/* How many extents, or (@whole) how many whole ones, are before @offset */
static guint extents_before(GArray *extents, uint64_t offset, bool whole)
{
    guint low = 0, high = extents->len;

    while (low < high) {
        guint mid = low + (high - low) / 2;
        const struct fiemap_extent *e =
            &g_array_index(extents, struct fiemap_extent, mid);

        if (whole ? e->fe_logical + e->fe_length <= offset
                  : e->fe_logical < offset) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

/* Of all seeks; the most of one in *@most */
static uint64_t count_walked(GArray *extents, uint64_t *most)
{
    uint64_t all = 0;
    guint i;

    *most = 0;
    for (i = 0; i < seeks->len; i++) {
        const Seek *seek = &g_array_index(seeks, Seek, i);
        guint first = extents_before(extents, seek->from, true);
        guint end = extents_before(extents, seek->to, false);
        uint64_t n = end - MIN(first, end);

        all += n;
        *most = MAX(*most, n);
    }
    return all;
}

/* The first window, asked for again and again */
typedef struct Again {
    uint64_t calls, slow;
    int64_t cpu_ns;
} Again;

/*
 * The machine's share of what is slow: interrupts and the hypervisor count as CPU of
 * the thread that they come to. At most @calls; none without FIEMAP.
 */
static Again ask_again(int fd, uint64_t calls)
{
    g_autofree struct fiemap *f =
        g_malloc(sizeof(*f) + PROBE_MAX_EXTENTS * sizeof(struct fiemap_extent));
    Again again = { 0 };

    for (; again.calls < calls; again.calls++) {
        struct timespec from, to;
        int64_t ns;

        memset(f, 0, sizeof(*f));
        f->fm_length = FIEMAP_MAX_OFFSET;
        f->fm_extent_count = PROBE_MAX_EXTENTS;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        if (ioctl(fd, FS_IOC_FIEMAP, f) < 0) {
            break;
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        ns = (to.tv_sec - from.tv_sec) * INT64_C(1000000000) + to.tv_nsec -
             from.tv_nsec;
        again.cpu_ns += ns;
        again.slow += ns > SLOW_NS;
    }
    return again;
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
        pass.queries++;
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

    printf(" \"%s\": {\"queries\": %" PRId64 ", \"runs\": %" PRId64
           ", \"data\": %" PRId64 ", \"zero\": %" PRId64
           ", \"seconds\": %.6f, \"probes\": %" PRIu64
           ",\n  \"seek-data\": %" PRIu64 ", \"seek-hole\": %" PRIu64
           ", \"fiemap\": %" PRIu64 ", \"cachestat\": %" PRIu64 ",\n",
           name, pass->queries, pass->runs, pass->data, pass->zero,
           pass->seconds, s->probes, s->probe_calls[STATUS_PROBE_SEEK_DATA],
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
    StatusProbeOps ops = status_probe_linux_ops;
    StatusCacheStats stats[2];
    GArray *extents;
    uint64_t walked, most_walked;
    Again again;
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
    seeks = g_array_new(false, false, sizeof(Seek));
    ops.lseek = noted_lseek;
    probe = status_probe_new_with_ops(
        fd, choose("strategy", strategy_name, strategies), &ops);
    if (no_cachestat) {
        status_probe_disable_cachestat(probe);
    }
    pass[0] = make_pass(cache, probe, st.st_size);
    status_cache_get_stats(cache, &stats[0]);
    extents = get_extents(fd);
    walked = count_walked(extents, &most_walked);
    pass[1] = make_pass(cache, probe, st.st_size);
    status_cache_get_stats(cache, &stats[1]);
    again = ask_again(fd, stats[0].probes);

    printf("{\"strategy\": \"%s\", \"uses-cachestat\": %s, \"length\": %" PRId64
           ", \"file-extents\": %u,\n \"walked\": %" PRIu64
           ", \"max-walked\": %" PRIu64 ",\n",
           status_probe_strategy_name(status_probe_strategy(probe)),
           status_probe_uses_cachestat(probe) ? "true" : "false",
           (int64_t)st.st_size, extents->len, walked, most_walked);
    print_pass("first", &pass[0], &stats[0]);
    printf(",\n \"second-pass-probes\": %" PRIu64,
           stats[1].probes - stats[0].probes);
    printf(",\n \"again\": {\"calls\": %" PRIu64 ", \"slow\": %" PRIu64
           ", \"cpu-ns\": %" PRId64 "}",
           again.calls, again.slow, again.cpu_ns);
    if (verify) {
        printf(",\n \"false-zero-bytes\": %" PRId64,
               verify_zeroes(cache, fd, st.st_size));
    }
    printf("}\n");
    g_array_free(extents, true);
    g_array_free(seeks, true);
    close(fd);
    return 0;
}
