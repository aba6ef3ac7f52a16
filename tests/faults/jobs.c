/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Jobs from one file to another: each system call fails, with each policy. What the
 * policy asks for is what happens; a job that succeeds has copied all, and guests
 * notice nothing but what fails on their own disk.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>

#include "../unit/job-harness.h"
#include "block/backup.h"
#include "block/mirror.h"
#include "disk.h"

typedef bool StartFunc(JobErrorPolicy policy, GError **errp);

static char *target;
/* Of a backup: a guest's write may end the job while it is paused. */
static bool guest_decides;
static int
    times; /* that the job has stopped, or gone on in spite of an error */
static uint8_t moment[LENGTH]; /* what a backup is to hold */

/* ---- disks -------------------------------------------------------------- */

static void make_disks(void)
{
    g_autofree char *options = NULL;
    int fd;

    disk_make(LENGTH);
    disk_use_file("'discard':'unmap'");
    disk.fixed = true;
    target = g_build_filename(run_dir, "target", NULL);
    fd = open(target, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    REQUIRE(fd >= 0 && ftruncate(fd, LENGTH) == 0);
    memset(moment, 7, LENGTH);
    REQUIRE(pwrite(fd, moment, LENGTH, 0) == LENGTH);
    close(fd);
    options = g_strdup_printf("{'driver':'file','node-name':'target',"
                              "'filename':'%s','discard':'unmap'}",
                              target);
    harness_start();
    REQUIRE(disk_try_open(NULL));
    REQUIRE(node_new(options, NULL));
    disk_write(16 * KIB, 8 * KIB, 10, 0);
    disk_zero(72 * KIB, 16 * KIB, BDRV_REQ_MAY_UNMAP);
    memcpy(moment, disk.model->data, LENGTH);
}

static void detach_guest(void *opaque)
{
    blk_free(disk.blk);
}

static void drop_disks(void)
{
    on_management(detach_guest, NULL);
    disk.blk = NULL;
    REQUIRE(node_del("target", NULL));
    REQUIRE(node_del("d", NULL));
    harness_stop();
    g_remove(target);
    g_clear_pointer(&target, g_free);
    disk_drop();
}

static bool is_file(const Fault *f, const char *path)
{
    struct stat st;

    REQUIRE(stat(path, &st) == 0);
    return f->call.dev == st.st_dev && f->call.ino == st.st_ino;
}

/* ---- the job ------------------------------------------------------------ */

static bool start_mirror_of(JobErrorPolicy policy, bool write_blocking,
                            GError **errp)
{
    const MirrorOptions options = {
        .job = { .id = "m", .auto_finalize = true, .auto_dismiss = true },
        .device = "d",
        .target = "target",
        .filter_node_name = "filter",
        .sync = MIRROR_SYNC_FULL,
        .buf_size = 64 * KIB,
        .write_blocking = write_blocking,
        .on_source_error = policy,
        .on_target_error = policy,
    };

    return mirror_start(&options, errp);
}

static bool start_mirror(JobErrorPolicy policy, GError **errp)
{
    return start_mirror_of(policy, false, errp);
}

static bool start_active(JobErrorPolicy policy, GError **errp)
{
    return start_mirror_of(policy, true, errp);
}

static bool start_backup(JobErrorPolicy policy, GError **errp)
{
    const BackupOptions options = {
        .job = { .id = "m", .auto_finalize = true, .auto_dismiss = true },
        .device = "d",
        .target = "target",
        .filter_node_name = "filter",
        .sync = BACKUP_SYNC_FULL,
        .on_source_error = policy,
        .on_target_error = policy,
        .max_workers = 1,
    };
    Job *job;

    bdrv_drained_begin(disk.bs);
    job = backup_create(&options, errp);
    if (job) {
        job_start(job);
    }
    bdrv_drained_end(disk.bs);
    return job != NULL;
}

typedef struct Start {
    StartFunc *func;
    JobErrorPolicy policy;
    GError *err;
    bool ok;
} Start;

static void start_now(void *opaque)
{
    Start *start = opaque;

    start->ok = start->func(start->policy, &start->err);
}

/* From here on calls count: when this returns the job runs. */
static void start_job(StartFunc *func, JobErrorPolicy policy)
{
    Start start;

    times = 0;
    do {
        start = (Start){ func, policy };
        forget_events();
        op_begin("the job");
        on_management(start_now, &start);
    } while (!start.ok && !op_end_bool(false, start.err));
}

/* ---- what happens to it ------------------------------------------------- */

enum {
    READY,
    PAUSED,
    STANDBY, /* the same when it is ready */
    GONE,
    IGNORED_READ,
    IGNORED_WRITE,
};

static const char *const steps[] = {
    "m:READY",
    "m:paused",
    "m:standby",
    "m:null",
    "m:ERROR(read,ignore)",
    "m:ERROR(write,ignore)",
    NULL,
};

static bool stops(JobErrorPolicy policy, const Fault *f)
{
    return policy == JOB_ON_ERROR_STOP ||
           (policy == JOB_ON_ERROR_ENOSPC && plan_error(f) == ENOSPC);
}

/* @again: it was resumed, and its target's flush fails for ever. */
static void check_paused(JobErrorPolicy policy, bool again)
{
    g_autoptr(JsonObject) row = job_row("m", true);
    const Fault *f = seam_hit(0);

    REQUIRE(stops(policy, f));
    if (guest_decides && !(row && schema_get_bool(row, "paused", false))) {
        return;
    }
    REQUIRE(schema_get_bool(row, "paused", false));
    REQUIRE(!again || plan_is_sync(f));
    if (!again && strcmp(schema_get_str(row, "io-status", ""),
                         plan_error(f) == ENOSPC ? "nospace" : "failed") != 0) {
        run_fail("io-status is %s", schema_get_str(row, "io-status", ""));
    }
}

static bool verb(bool (*func)(JobFamily family, const char *id, GError **errp))
{
    GError *err = NULL;
    bool ok = func(JOB_FAMILY_ALL, "m", &err);

    g_clear_error(&err);
    return ok;
}

static bool cancel(JobFamily family, const char *id, GError **errp)
{
    return job_verb_cancel(family, id, true, errp);
}

/*
 * Until it is ready or gone. A target whose flush has failed will not do for the
 * job: what stops or goes on for ever then is cancelled.
 */
static int wait_for_job(JobErrorPolicy policy)
{
    for (;;) {
        int step = wait_any_event(steps);
        bool paused = step == PAUSED || step == STANDBY;

        if (step == READY || step == GONE) {
            return step;
        }
        REQUIRE(seam_hits() > 0);
        seam_heal();
        if (paused) {
            check_paused(policy, times > 0);
        } else {
            REQUIRE(policy == JOB_ON_ERROR_IGNORE);
        }
        if (++times > 1 && plan_is_sync(seam_hit(0))) {
            verb(cancel);
        } else if (paused) {
            REQUIRE(verb(job_verb_resume) || guest_decides);
        }
        if (step == STANDBY) {
            return READY;
        }
    }
}

/* The job has failed: it said why, and nothing but its policy asked for it. */
static void check_failure(JobErrorPolicy policy, const char *said)
{
    const Fault *f;

    REQUIRE(seam_hits() > 0);
    f = seam_hit(0);
    if (strstr(said, "m:CANCELLED")) {
        REQUIRE(plan_is_sync(f));
        return;
    }
    if (!op_says(said, f) &&
        !(plan_is_sync(f) && strstr(said, g_strerror(EIO)))) {
        run_fail("the job does not say why it fails: %s", said);
    }
    if (plan_verdict(f) == VERDICT_REPORT && !plan_is_sync(f) &&
        (policy == JOB_ON_ERROR_IGNORE || stops(policy, f))) {
        run_fail("the job fails, against its policy: %s", said);
    }
}

/* It has succeeded, and all that had to be told was told. */
static void check_success(JobErrorPolicy policy, const char *said)
{
    int i;

    for (i = 0; i < seam_hits(); i++) {
        const Fault *f = seam_hit(i);

        if (plan_verdict(f) == VERDICT_REPORT && is_file(f, target) &&
            !strstr(said, "m:ERROR")) {
            run_fail("the job succeeds, and should not: %s", said);
        }
    }
}

static void check_target(const uint8_t *expected)
{
    g_autoptr(GBytes) bytes = file_contents(target);
    const uint8_t *data = g_bytes_get_data(bytes, NULL);
    int64_t i;

    for (i = 0; i < LENGTH; i++) {
        if (data[i] != expected[i]) {
            run_fail("byte %jd of the target is %d, not %d", (intmax_t)i,
                     data[i], expected[i]);
        }
    }
}

/*
 * The guest writes while the job runs. It is told of what fails on its own disk, of
 * the copies that it has to wait for too if that is the source's.
 */
static void guest_writes(int64_t offset, int64_t bytes, int value)
{
    g_autofree char *buf = g_malloc(bytes);
    int hits = seam_hits(), ret;

    memset(buf, value, bytes);
    model_may(disk.model, offset, bytes, value);
    ret = blk_pwrite(disk.blk, offset, bytes, buf, 0);
    if (ret < 0 && (hits == seam_hits() || ret != -plan_error(seam_hit(hits)) ||
                    !is_file(seam_hit(hits), disk.path))) {
        run_fail("the guest's write returns %s", strerrorname_np(-ret));
    }
    if (ret == 0) {
        model_set(disk.model, offset, bytes, value);
        return;
    }
    seam_heal();
    ret = blk_pwrite(disk.blk, offset, bytes, buf, 0);
    if (ret < 0) {
        run_fail("the guest's second write returns %s", strerrorname_np(-ret));
    }
    model_set(disk.model, offset, bytes, value);
}

static void check_guest(bool pivoted)
{
    g_autofree uint8_t *data = g_malloc(LENGTH);

    REQUIRE(blk_pread(disk.blk, 0, LENGTH, data, 0) == 0);
    model_check(disk.model, data, "the guest");
    if (!pivoted) {
        disk_check();
    }
}

static void end_mirror(JobErrorPolicy policy)
{
    g_autofree char *said = NULL;
    bool failed, pivoted;

    guest_writes(100 * KIB, 4 * KIB, 11);
    guest_writes(200 * KIB + 10, 1000, 12);
    do {
        /* Refused if it has been told already, or has just failed */
        verb(job_verb_complete);
    } while (wait_for_job(policy) == READY);
    op_stop();
    said = events();
    failed = strstr(said, "(") && (strstr(said, "COMPLETED(") != NULL);
    pivoted = strstr(said, "m:COMPLETED") && !failed;
    if (pivoted) {
        check_success(policy, said);
        check_target(disk.model->data);
    } else {
        check_failure(policy, said);
    }
    check_guest(pivoted);
}

static void mirror_with(StartFunc *start, JobErrorPolicy policy)
{
    make_disks();
    start_job(start, policy);
    if (wait_for_job(policy) == GONE) {
        g_autofree char *said = events();

        op_stop();
        check_failure(policy, said);
        check_guest(false);
    } else {
        end_mirror(policy);
    }
    drop_disks();
}

/* Writes of the guest may wait for copies: it is by luck who copies. */
static void backup_with(JobErrorPolicy policy)
{
    g_autofree char *said = NULL;

    guest_decides = true;
    make_disks();
    start_job(start_backup, policy);
    guest_writes(0, 4 * KIB, 11);
    guest_writes(130 * KIB, 4 * KIB, 12);
    REQUIRE(wait_for_job(policy) == GONE);
    op_stop();
    said = events();
    if (strstr(said, "m:COMPLETED") && !strstr(said, "m:COMPLETED(")) {
        check_success(policy, said);
        check_target(moment);
    } else {
        /* Of a copy that the guest waited for, no policy is asked. */
        check_failure(JOB_ON_ERROR_REPORT, said);
    }
    check_guest(false);
    drop_disks();
}

#define SCENARIOS(name, POLICY)                                                \
    static void mirror_##name(void)                                            \
    {                                                                          \
        mirror_with(start_mirror, JOB_ON_ERROR_##POLICY);                      \
    }                                                                          \
    static void active_##name(void)                                            \
    {                                                                          \
        mirror_with(start_active, JOB_ON_ERROR_##POLICY);                      \
    }                                                                          \
    static void backup_##name(void)                                            \
    {                                                                          \
        backup_with(JOB_ON_ERROR_##POLICY);                                    \
    }

SCENARIOS(report, REPORT)
SCENARIOS(ignore, IGNORE)
SCENARIOS(stop, STOP)
SCENARIOS(enospc, ENOSPC)

static const Scenario scenarios[] = {
    { "mirror-report", mirror_report, .errors_only = true },
    { "mirror-ignore", mirror_ignore, .errors_only = true },
    { "mirror-stop", mirror_stop, .errors_only = true },
    { "mirror-enospc", mirror_enospc, .errors_only = true },
    { "active-report", active_report, .errors_only = true },
    { "active-ignore", active_ignore, .errors_only = true },
    { "active-stop", active_stop, .errors_only = true },
    { "active-enospc", active_enospc, .errors_only = true },
    { "backup-report", backup_report, .errors_only = true },
    { "backup-ignore", backup_ignore, .errors_only = true },
    { "backup-stop", backup_stop, .errors_only = true },
    { "backup-enospc", backup_enospc, .errors_only = true },
    { NULL },
};

int main(int argc, char **argv)
{
    return run_main(argc, argv, scenarios);
}
