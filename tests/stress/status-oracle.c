/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The map against the truth.
 *
 * Threads write, zero, discard, resize, flush, read, ask for the block status and
 * the map of one node, and have the status cache forget, all at once and in no
 * order, while pages are written back and dropped. A shadow (oracle-shadow.h) knows
 * what each piece of the disk may hold. Each time somebody says that something is
 * zero, it is compared with the shadow, and every other time the disk is read past
 * the node as well; each read through the node is compared with the shadow; and
 * now and then all stands still and the whole disk is compared. System calls of the
 * node let others go first here and there, and fail at times, with or without having
 * done their work.
 *
 * That is done on ext4, XFS, XFS with shared blocks, btrfs, tmpfs and a loop device,
 * with and without O_DIRECT, and for each way in which a file system is asked. Needs
 * root; otherwise only the directory for temporary files is used.
 *
 *   tests/stress/status-oracle                  8,000 requests of each combination
 *   tests/stress/status-oracle --operations 200000 --passes 20
 *   tests/stress/status-oracle --minutes 60 --drop-caches 1000000
 *   tests/stress/status-oracle --threads 1 --seed 7 --file-system xfs --io direct
 *
 * The seed decides what each thread does; with one thread a run can be repeated
 * exactly, but for when the kernel writes pages back. What fails is told with the
 * command line that does it again, and the last operations at that place.
 * tests/stress/oracle-rules tells which broken rules it notices.
 */
#include <glib/gstdio.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"

static gint64 seed = 1, passes = 1;
static gint64 operations = 8000, drop_caches;
static gint threads = 4;
static gdouble minutes;
static gchar *file_system, *io, *probe, *directory;

static const GOptionEntry entries[] = {
    { "seed", 0, 0, G_OPTION_ARG_INT64, &seed, "of the first pass", "N" },
    { "threads", 0, 0, G_OPTION_ARG_INT, &threads, "that make requests", "N" },
    { "operations", 0, 0, G_OPTION_ARG_INT64, &operations,
      "requests of each combination, at least", "N" },
    { "passes", 0, 0, G_OPTION_ARG_INT64, &passes,
      "how often all combinations are done, each time with the next seed",
      "N" },
    { "minutes", 0, 0, G_OPTION_ARG_DOUBLE, &minutes,
      "passes until so much time is over", "M" },
    { "file-system", 0, 0, G_OPTION_ARG_STRING, &file_system,
      "only there: ext4, xfs, xfs-reflink, btrfs, tmpfs, loop", "NAME" },
    { "io", 0, 0, G_OPTION_ARG_STRING, &io, "only so: buffered, direct",
      "HOW" },
    { "probe", 0, 0, G_OPTION_ARG_STRING, &probe,
      "ask the file system only so: fiemap, fiemap-no-cachestat, seek", "HOW" },
    { "directory", 0, 0, G_OPTION_ARG_FILENAME, &directory,
      "have the disk there, instead of on loop-mounted file systems", "DIR" },
    { "drop-caches", 0, 0, G_OPTION_ARG_INT64, &drop_caches,
      "have the kernel drop all pages of the machine, each N operations", "N" },
    { NULL },
};

static const char *const probes[] = { "fiemap", "fiemap-no-cachestat", "seek" };
#define PROBES ((int)G_N_ELEMENTS(probes))

static G_GNUC_NORETURN void usage(const char *what)
{
    fprintf(stderr, "status-oracle: %s\n", what);
    exit(2);
}

static void check_one_of(const char *option, const char *value,
                         const char *const *values, int n)
{
    g_autofree char *text = NULL;
    int i;

    for (i = 0; value && i < n; i++) {
        if (!strcmp(value, values[i])) {
            return;
        }
    }
    if (value) {
        text = g_strdup_printf("there is no --%s %s", option, value);
        usage(text);
    }
}

static void check_options(int argc, char **argv)
{
    static const char *const ios[] = { "buffered", "direct" };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) err = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err)) {
        usage(err->message);
    }
    if (argc != 1) {
        usage("there are no arguments but options");
    }
    if (threads < 1 || threads > MAX_THREADS) {
        usage("--threads are from 1 to 16");
    }
    if (operations < 1 || passes < 1 || minutes < 0 || drop_caches < 0 ||
        seed < 0) {
        usage("a number is too small");
    }
    if (file_system && !place_kind_find(file_system)) {
        usage("--file-system is ext4, xfs, xfs-reflink, btrfs, tmpfs or loop");
    }
    if (file_system && directory) {
        usage("--file-system and --directory are different places");
    }
    check_one_of("io", io, ios, G_N_ELEMENTS(ios));
    check_one_of("probe", probe, probes, PROBES);
}

/* ---- combinations ------------------------------------------------------- */

/* The same for the same seed, whatever else is done in that run */
static void choose_by_seed(Combination *c, uint64_t run_seed)
{
    g_autofree char *name = g_strdup_printf(
        "%s %d %d %d", c->place->name, c->direct, c->seek, c->no_cachestat);
    Random rand;

    random_seed(&rand, run_seed * UINT64_C(0x100000001b3) + g_str_hash(name));
    c->seed = run_seed;
    c->granularity = random_below(&rand, 20) < 10  ? 4096
                     : random_below(&rand, 10) < 7 ? 512
                                                   : 65536;
    c->learn = random_one_in(&rand, 2);
    c->detect_zeroes = random_one_in(&rand, 3);
}

static bool is_wanted(const PlaceKind *place, int direct, int p)
{
    if (file_system && strcmp(file_system, place->name)) {
        return false;
    }
    if (io && direct != !strcmp(io, "direct")) {
        return false;
    }
    if (place->device) {
        /* nobody can be asked about it */
        return p == 0;
    }
    if (!place->fiemap && p != PROBES - 1) {
        return false;
    }
    return !probe || !strcmp(probe, probes[p]);
}

static void print_head(void)
{
    printf("%-11s %-8s %-19s %5s %-3s %-3s %9s %8s %8s %8s %8s %8s %6s %6s %8s "
           "%6s %8s %9s %8s %8s %6s %7s %5s\n",
           "place", "io", "probe", "block", "lrn", "det", "requests", "write",
           "zero", "discard", "read", "status", "map", "flush", "forget",
           "resize", "peek", "is-zero", "is-data", "past", "pauses", "per-s",
           "fails");
}

static void print_row(const char *place, const char *how, const char *ask,
                      uint32_t granularity, bool learn, bool detect,
                      const Counts *c, double seconds)
{
    const int64_t *n = c->ops;

    printf("%-11s %-8s %-19s %5" PRIu32 " %-3s %-3s", place, how, ask,
           granularity, learn ? "yes" : "-", detect ? "yes" : "-");
    printf(" %9" PRId64 " %8" PRId64 " %8" PRId64 " %8" PRId64 " %8" PRId64
           " %8" PRId64 " %6" PRId64 " %6" PRId64 " %8" PRId64 " %6" PRId64
           " %8" PRId64 " %9" PRId64 " %8" PRId64 " %8" PRId64 " %6" PRId64
           " %7.0f %5" PRId64 "\n",
           counts_requests(c), n[OP_KIND_WRITE] + n[OP_KIND_WRITE_ZEROES],
           n[OP_KIND_ZERO], n[OP_KIND_DISCARD], n[OP_KIND_READ],
           n[OP_KIND_STATUS] + n[OP_KIND_PROBE], n[OP_KIND_MAP],
           n[OP_KIND_FLUSH],
           n[OP_KIND_FORGET] + n[OP_KIND_FORGET_ALL] + n[OP_KIND_LIMIT],
           n[OP_KIND_RESIZE] + n[OP_KIND_GROW], n[OP_KIND_PEEK], c->zero_claims,
           c->data_claims, c->read_backs, c->pauses,
           counts_requests(c) / MAX(seconds, 1e-3), c->failures);
    fflush(stdout);
}

static bool run_place(const PlaceKind *kind, uint64_t run_seed,
                      const Settings *settings, Counts *total, double *time)
{
    g_autoptr(GError) err = NULL;
    Place *place = NULL;
    bool ok = true;
    int i;

    for (i = 0; i < 2 * PROBES && ok; i++) {
        int direct = i / PROBES, p = i % PROBES;
        Combination c = { .place = kind,
                          .direct = direct,
                          .seek = p == PROBES - 1,
                          .no_cachestat = p == 1 };
        Counts counts;
        double seconds;

        if (!is_wanted(kind, direct, p)) {
            continue;
        }
        if (settings->deadline_us &&
            g_get_monotonic_time() >= settings->deadline_us) {
            break;
        }
        place = place ? place : place_new(kind, settings->directory, &err);
        if (!place) {
            fprintf(stderr, "status-oracle: no %s: %s\n", kind->name,
                    err->message);
            return true; /* nothing but this one left out */
        }
        choose_by_seed(&c, run_seed);
        ok = combination_run(&c, settings, place, &counts, &seconds);
        print_row(kind->name, direct ? "direct" : "buffered",
                  kind->device ? "-" : probes[p], c.granularity, c.learn,
                  c.detect_zeroes, &counts, seconds);
        counts_add(total, &counts);
        *time += seconds;
    }
    if (place) {
        place_free(place);
    }
    return ok;
}

static void print_total(const Counts *c, double seconds)
{
    print_row("all", "-", "-", 0, false, false, c, seconds);
    printf("%" PRId64 " requests; %" PRId64 " claims of zero, of %" PRId64
           " MiB together, %" PRId64 " of them read past the node (%" PRId64
           " MiB to which nobody wrote meanwhile); %" PRId64
           " reads compared (%" PRId64 " MiB); %" PRId64
           " requests failed on purpose; %" PRId64
           " were submitted; the whole disk compared %" PRId64
           " times; %" PRId64 " failures\n",
           counts_requests(c), c->zero_claims, c->zero_units * UNIT / MIB,
           c->read_backs, c->read_back_units * UNIT / MIB, c->node_reads,
           c->node_read_units * UNIT / MIB, c->failed_on_purpose, c->submitted,
           c->pauses, c->failures);
}

int main(int argc, char **argv)
{
    g_autofree char *command_line = g_strjoinv(" ", argv);
    static const PlaceKind there = { "directory", .fiemap = true };
    g_autoptr(GError) err = NULL;
    Settings settings = { .command_line = command_line };
    Counts total = { 0 };
    double seconds = 0;
    bool ok = true;
    gint64 pass;
    int i;

    check_options(argc, argv);
    if (!directory && !places_set_up(&err)) {
        fprintf(stderr,
                "status-oracle: %s: using the directory for temporary "
                "files\n",
                err->message);
        directory = g_dir_make_tmp("status-oracle-XXXXXX", NULL);
        file_system = NULL;
    }
    settings.directory = directory;
    settings.threads = threads;
    settings.operations = operations;
    settings.drop_caches = drop_caches;
    settings.deadline_us =
        minutes ? g_get_monotonic_time() + (int64_t)(minutes * 60e6) : 0;
    print_head();
    for (pass = 0;
         ok && (minutes ? g_get_monotonic_time() < settings.deadline_us
                        : pass < passes);
         pass++) {
        if (directory) {
            ok = run_place(&there, seed + pass, &settings, &total, &seconds);
            continue;
        }
        for (i = 0; ok && i < n_place_kinds; i++) {
            ok = run_place(&place_kinds[i], seed + pass, &settings, &total,
                           &seconds);
        }
    }
    print_total(&total, seconds);
    if (err) {
        g_rmdir(directory);
    }
    places_tear_down();
    if (ok && counts_requests(&total) == 0) {
        fprintf(stderr, "status-oracle: nothing could be done\n");
        return 2;
    }
    return ok ? 0 : 1;
}
