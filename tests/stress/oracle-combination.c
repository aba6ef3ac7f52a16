/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One combination of status-oracle: a disk, a node on it, threads that make
 * requests, and pauses in between, in which all is compared.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "block/file-posix-int.h"
#include "oracle.h"
#include "util/error.h"

#define ROUND 4000  /* operations between two pauses */
#define ASK_EVERY 4 /* pauses; in these all is asked */
#define NODE "oracle"

/* ---- counting ----------------------------------------------------------- */

void counts_add(Counts *to, const Counts *from)
{
    int64_t *a = (int64_t *)to;
    const int64_t *b = (const int64_t *)from;
    size_t i;

    for (i = 0; i < sizeof(*to) / sizeof(*a); i++) {
        a[i] += b[i];
    }
}

int64_t counts_requests(const Counts *c)
{
    int64_t n = 0;
    int i;

    for (i = 0; i < OP_KIND_STRANGER; i++) {
        n += c->ops[i];
    }
    return n;
}

/* ---- failures ----------------------------------------------------------- */

static const char *probe_name(const Combination *c)
{
    return c->seek           ? "seek"
           : c->no_cachestat ? "fiemap-no-cachestat"
                             : "fiemap";
}

void oracle_fail(Worker *w, int64_t offset, const char *format, ...)
{
    Oracle *o = w->o;
    const Combination *c = o->c;
    g_autofree char *text = NULL;
    va_list ap;
    MUTEX_GUARD(&o->failure_lock);

    w->counts.failures++;
    __atomic_store_n(&o->stop, true, __ATOMIC_RELEASE);
    if (o->failed) {
        return;
    }
    o->failed = true;
    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    fprintf(stderr,
            "status-oracle: %s\n"
            "  thread %d, after %" PRId64 " requests of it\n"
            "  started as: %s\n"
            "  again with: status-oracle --seed %" PRIu64 " --threads %d "
            "--operations %" PRId64 " --file-system %s --io %s --probe %s\n",
            text, w->number, counts_requests(&w->counts),
            o->settings->command_line, c->seed, o->settings->threads,
            o->settings->operations, c->place->name,
            c->direct ? "direct" : "buffered", probe_name(c));
    shadow_report(o->shadow, offset, stderr);
    fflush(stderr);
}

/* ---- the node ----------------------------------------------------------- */

static BlockDriverState *open_node(const Combination *c, const char *filename,
                                   GError **errp)
{
    g_autoptr(JsonNode) node = NULL;
    g_autofree char *probe = c->place->device
                                 ? g_strdup("")
                                 : g_strdup_printf(",'status-probe':'%s'",
                                                   c->seek ? "seek" : "auto");
    g_autofree char *text = g_strdup_printf(
        "{'driver':'%s','node-name':'" NODE "','filename':'%s',"
        "'discard':'unmap','detect-zeroes':'%s','cache':{'direct':%s},"
        "'aio':'%s',"
        "'status-cache-granularity':%" PRIu32
        ",'status-cache-learn-reads':%s%s}",
        c->place->device ? "host_device" : "file", filename,
        c->detect_zeroes ? "unmap" : "off", c->direct ? "true" : "false",
        c->direct ? "native" : "threads", c->granularity,
        c->learn ? "true" : "false", probe);

    g_strdelimit(text, "'", '"');
    node = json_from_string(text, errp);
    return node && schema_check(&blockdev_options_type, node, "", false, errp)
               ? bdrv_open(json_node_get_object(node), errp)
               : NULL;
}

/* A prober in the place of the node's, that takes its time */
static void replace_probe(Oracle *o)
{
    FileState *s = o->bs->opaque;

    if (!o->c->place->device) {
        status_probe_free(s->probe);
        s->probe = status_probe_new_with_ops(
            s->fd, o->c->seek ? STATUS_PROBE_USE_SEEK : STATUS_PROBE_AUTO,
            &faults_probe_ops);
        if (o->c->no_cachestat) {
            status_probe_disable_cachestat(s->probe);
        }
    }
    o->probe = s->probe;
}

static bool open_all(Oracle *o, GError **errp)
{
    const uint64_t perm =
        BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE;
    const char *filename = place_disk(o->place);
    int direct = o->c->direct ? O_DIRECT : 0;
    StatusCacheStats stats;

    bdrv_graph_lock();
    o->bs = open_node(o->c, filename, errp);
    if (o->bs) {
        replace_probe(o);
        o->cache = bdrv_get_status_cache(o->bs);
        status_cache_get_stats(o->cache, &stats);
        o->least_memory = stats.memory;
        o->blk = blk_new("status-oracle", false, perm, BLK_PERM_ALL);
        if (!blk_attach(o->blk, o->bs, errp)) {
            g_clear_pointer(&o->blk, blk_free);
        }
    }
    bdrv_graph_unlock();
    if (!o->blk) {
        return false;
    }
    o->side = open(filename, O_RDWR | O_CLOEXEC | direct);
    o->side_buffered = open(filename, O_RDWR | O_CLOEXEC);
    if (o->side < 0 || o->side_buffered < 0) {
        error_setg_errno(errp, errno, "%s", filename);
        return false;
    }
    if (status_cache_get_mode(o->cache) != STATUS_CACHE_ON) {
        error_setg(errp, "the status cache is not on");
        return false;
    }
    return true;
}

static void close_all(Oracle *o)
{
    if (o->side >= 0) {
        close(o->side);
    }
    if (o->side_buffered >= 0) {
        close(o->side_buffered);
    }
    bdrv_graph_lock();
    g_clear_pointer(&o->blk, blk_free);
    g_clear_pointer(&o->cache, status_cache_unref);
    if (o->bs) {
        bdrv_monitor_del(NODE, NULL);
    }
    bdrv_graph_unlock();
}

/* ---- pauses ------------------------------------------------------------- */

/* A device gets another length: what is cut off is gone, and what it gets is
 * data, or zeroes. */
static void resize_device(Worker *w)
{
    Oracle *o = w->o;
    int64_t old = blk_getlength(o->blk);
    int64_t max = shadow_length(o->shadow);
    int64_t length = max / 2 + random_below(&w->rand, max / 2);
    int64_t edge;
    Value value =
        random_one_in(&w->rand, 4) ? VALUE_ZERO : shadow_new_value(o->shadow);
    g_autofree char *buf = NULL;
    g_autoptr(GError) err = NULL;

    length -= length % (random_one_in(&w->rand, 2) ? 512 : 4096);
    edge = MIN(old, length);
    /* no page of what is cut off stays */
    if (blk_flush(o->blk) < 0 || ioctl(o->side, BLKFLSBUF, 0) < 0) {
        oracle_fail(w, length, "flush has failed");
        return;
    }
    w->counts.ops[OP_KIND_RESIZE]++;
    buf = g_malloc(length - edge);
    shadow_fill(o->shadow, value, edge, length - edge, buf);
    place_resize_device(o->place, length, edge, length - edge, buf);
    shadow_set(o->shadow, edge, length - edge, value);
    shadow_set(o->shadow, length, max - length, VALUE_ZERO);
    bdrv_graph_lock();
    if (bdrv_resize(o->bs, length, &err) < 0) {
        oracle_fail(w, length, "resize to %jd has failed: %s", (intmax_t)length,
                    err->message);
    }
    bdrv_graph_unlock();
    shadow_note(o->shadow, w->number, OP_KIND_RESIZE, shadow_now(o->shadow),
                edge, max - edge, 0);
    /* The last block is zero up to the end, and that is known if reads teach: what
     * may join it next time is not. */
    edge = length - MIN(length, 64 * KIB);
    if (random_one_in(&w->rand, 2) &&
        blk_pwrite_zeroes(o->blk, edge, length - edge, 0) == 0) {
        w->counts.ops[OP_KIND_ZERO]++;
        shadow_set(o->shadow, edge, length - edge, VALUE_ZERO);
        w->counts.ops[OP_KIND_READ]++;
        oracle_read(w, edge, length - edge, 0);
    }
}

static void pause_all(Worker *w, bool last)
{
    Oracle *o = w->o;
    int resizes = random_below(&w->rand, 4);
    g_autoptr(GError) err = NULL;

    oracle_pause(w, last || w->counts.pauses % ASK_EVERY == 0);
    if (!place_share_again(o->place, &err)) {
        oracle_fail(w, 0, "%s", err->message);
    }
    for (; o->c->place->device && resizes > 0 && !last; resizes--) {
        resize_device(w);
        oracle_check_map(w);
    }
    o->hot = random_below(&w->rand, blk_getlength(o->blk));
    o->hot -= o->hot % (64 * KIB);
    o->mood = random_below(&w->rand, MOODS);
}

/* ---- threads ------------------------------------------------------------ */

/* Each so many operations of all combinations together */
static void maybe_drop_caches(Worker *w)
{
    static int64_t steps; /* atomic */
    int fd;

    if (!w->o->settings->drop_caches ||
        __atomic_add_fetch(&steps, 1, __ATOMIC_RELAXED) %
            w->o->settings->drop_caches) {
        return;
    }
    fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "1", 1) != 1) {
        oracle_fail(w, 0, "/proc/sys/vm/drop_caches: %s", g_strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
}

static bool is_done(Worker *workers, const Settings *s)
{
    Counts all = { 0 };
    int i;

    for (i = 0; i < s->threads; i++) {
        counts_add(&all, &workers[i].counts);
    }
    return counts_requests(&all) >= s->operations ||
           (s->deadline_us && g_get_monotonic_time() >= s->deadline_us);
}

static void run_round(Worker *w)
{
    const Settings *s = w->o->settings;
    int64_t round = MIN(ROUND, s->operations) / s->threads + 1;
    int i;

    for (i = 0; i < round && !oracle_stopped(w->o); i++) {
        oracle_step(w);
        maybe_drop_caches(w);
    }
}

static void *worker(void *opaque)
{
    Worker *w = opaque;
    Worker *workers = w - w->number;
    Oracle *o = w->o;

    do {
        run_round(w);
        pthread_barrier_wait(&o->barrier);
        if (w->number == 0 && !oracle_stopped(o)) {
            bool last = is_done(workers, o->settings);

            pause_all(w, last);
            if (last) {
                __atomic_store_n(&o->stop, true, __ATOMIC_RELEASE);
            }
        }
        pthread_barrier_wait(&o->barrier);
    } while (!oracle_stopped(o));
    oracle_submit_end(w);
    return NULL;
}

static void *aligned_buffer(void)
{
    void *buf = NULL;

    g_assert(posix_memalign(&buf, 4096, MAX_REQUEST + 4096) == 0);
    return buf;
}

static void run_threads(Oracle *o, Counts *counts)
{
    int n = o->settings->threads, i;
    g_autofree Worker *workers = g_new0(Worker, n);

    for (i = 0; i < n; i++) {
        workers[i] = (Worker){ .o = o,
                               .number = i,
                               .buf = aligned_buffer(),
                               .side = aligned_buffer() };
        random_seed(&workers[i].rand, o->c->seed * MAX_THREADS + i);
    }
    for (i = 0; i < n; i++) {
        g_assert(
            pthread_create(&workers[i].thread, NULL, worker, &workers[i]) == 0);
    }
    for (i = 0; i < n; i++) {
        pthread_join(workers[i].thread, NULL);
        counts_add(counts, &workers[i].counts);
    }
    if (!o->failed) {
        workers[0].counts = (Counts){ 0 };
        oracle_check_counters(&workers[0], counts);
        counts_add(counts, &workers[0].counts);
    }
    for (i = 0; i < n; i++) {
        shadow_read_free(&workers[i].read);
        free(workers[i].buf);
        free(workers[i].side);
    }
}

/* Old kernels have no O_DIRECT on a tmpfs. */
static bool has_direct(const Place *place)
{
    int fd = open(place_disk(place), O_RDONLY | O_CLOEXEC | O_DIRECT);

    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0 || errno != EINVAL;
}

/* ---- all of it ---------------------------------------------------------- */

/* Longer where the map has more than one leaf for it */
static int64_t disk_length(const Combination *c)
{
    return c->granularity == 4096 ? 2 * MIB : 5 * MIB;
}

bool combination_run(const Combination *c, const Settings *settings,
                     Place *place, Counts *counts, double *seconds)
{
    Oracle o = {
        .settings = settings,
        .c = c,
        .place = place,
        .shadow = shadow_new(disk_length(c)),
        .side = -1,
        .side_buffered = -1,
    };
    g_autoptr(GError) err = NULL;
    int64_t start = g_get_monotonic_time();
    int64_t length;
    Random rand;

    random_seed(&rand, c->seed);
    o.mood = random_below(&rand, MOODS);
    length = disk_length(c) * 3 / 4;
    if (!c->place->device) {
        length += random_below(&rand, 4096);
    }
    mutex_init(&o.stranger_lock);
    mutex_init(&o.failure_lock);
    pthread_barrier_init(&o.barrier, NULL, settings->threads);
    memset(counts, 0, sizeof(*counts));
    if (place_make_disk(place, length, o.shadow, &rand, &err)) {
        if (c->direct && !has_direct(place)) {
            fprintf(stderr, "status-oracle: no O_DIRECT on %s\n",
                    c->place->name);
        } else if (open_all(&o, &err)) {
            run_threads(&o, counts);
        }
    }
    close_all(&o);
    place_remove_disk(place);
    if (err) {
        fprintf(stderr, "status-oracle: %s, %s: %s\n", c->place->name,
                c->direct ? "direct" : "buffered", err->message);
        counts->failures++;
    }
    pthread_barrier_destroy(&o.barrier);
    mutex_destroy(&o.stranger_lock);
    mutex_destroy(&o.failure_lock);
    shadow_free(o.shadow);
    *seconds = (g_get_monotonic_time() - start) / 1e6;
    return counts->failures == 0;
}
