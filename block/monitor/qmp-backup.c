/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP: blockdev-backup */
#include "block/backup.h"
#include "qmp-jobs.h"
#include "qmp-tables.h"
#include "qmp-transaction.h"

/* As in QEMU; there are not so many threads. */
#define DEFAULT_MAX_WORKERS 64

static const SchemaType bitmap_mode_type = {
    .name = "BitmapSyncMode",
    .kind = SCHEMA_ENUM,
    .doc =
        "What becomes of the bitmap that a backup is given. \"on-success\": if "
        "the job succeeds it marks what was written since the job started, and "
        "nothing else; otherwise it goes on as if there had been no job. "
        "\"never\": the latter in any case. \"always\": what was copied "
        "leaves it in any case, and what was not copied stays.",
    .values = (const char *const[]){ "on-success", "never", "always", NULL },
};

static const SchemaType backup_perf_type = {
    .name = "BackupPerf",
    .kind = SCHEMA_OBJECT,
    .doc = "How a backup goes about it.",
    .members =
        (const SchemaMember[]){
            { "use-copy-range", &schema_bool, .optional = true,
              .doc = "Let the kernel copy. Not supported, so it can only be "
                     "false, the default." },
            { "max-workers", &schema_int, .optional = true,
              .doc = "Requests in flight at most; never more than 16, whatever "
                     "is said, and fewer while clients of exports use disks, "
                     "unless that is much slower. Default: 64." },
            { "max-chunk", &schema_int, .optional = true,
              .doc = "Bytes of data in one request at most; never more than 1 "
                     "MiB, or one cluster of the target if that is longer. "
                     "Default: 0, no other limit." },
            { NULL },
        },
};

static const SchemaType blockdev_backup_type = {
    .name = "BlockdevBackup",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "device", &schema_str, .doc = "The node to copy." },
            { "target", &schema_str,
              .doc = "The node to copy to, of the same size." },
            { "sync", &mirror_sync_mode_type, .doc = "What to copy." },
            { "bitmap", &schema_str, .optional = true,
              .doc =
                  "A dirty bitmap of the device. With sync \"incremental\" "
                  "and \"bitmap\" what it marks when the job starts is "
                  "copied; with \"top\" and \"full\" it may be given to start "
                  "anew then. Nobody else may use it meanwhile." },
            { "bitmap-mode", &bitmap_mode_type, .optional = true,
              .doc = "What becomes of it at the end. Needed, but with "
                     "\"incremental\", where it can only be \"on-success\"." },
            { "compress", &schema_bool, .optional = true,
              .doc =
                  "Write data compressed, if the target's format can do that "
                  "(\"qcow2\"). Default: false." },
            { "on-source-error", &blockdev_on_error_type, .optional = true,
              .doc = "What to do if the device cannot be read. What fails is "
                     "tried again later. Default: \"report\"." },
            { "on-target-error", &blockdev_on_error_type, .optional = true,
              .doc = "The same for writes to the target, and for its flush. "
                     "Default: \"report\"." },
            { "x-perf", &backup_perf_type, .optional = true,
              .doc = "How to go about it." },
            QMP_JOB_MEMBERS,
            { NULL },
        },
};

static void backup_options(JsonObject *args, BackupOptions *options)
{
    JsonObject *perf =
        schema_has(args, "x-perf") ? schema_get_object(args, "x-perf") : NULL;

    *options = (BackupOptions){
        .job = qmp_job_options(args),
        .device = schema_get_str(args, "device", NULL),
        .target = schema_get_str(args, "target", NULL),
        .filter_node_name = schema_get_str(args, "filter-node-name", NULL),
        .bitmap = schema_get_str(args, "bitmap", NULL),
        .have_bitmap_mode = schema_has(args, "bitmap-mode"),
        .bitmap_mode = schema_get_enum(args, "bitmap-mode", &bitmap_mode_type,
                                       BACKUP_BITMAP_ON_SUCCESS),
        .compress = schema_get_bool(args, "compress", false),
        .sync = schema_get_enum(args, "sync", &mirror_sync_mode_type,
                                BACKUP_SYNC_FULL),
        .on_source_error = qmp_on_error(args, "on-source-error"),
        .on_target_error = qmp_on_error(args, "on-target-error"),
        .max_workers = DEFAULT_MAX_WORKERS,
    };
    if (perf) {
        options->use_copy_range =
            schema_get_bool(perf, "use-copy-range", false);
        options->max_workers =
            schema_get_int(perf, "max-workers", DEFAULT_MAX_WORKERS);
        options->max_chunk = schema_get_int(perf, "max-chunk", 0);
    }
}

/* ---- the action --------------------------------------------------------- */

typedef struct BackupAction {
    Job *job;
} BackupAction;

static bool backup_prepare(TransactionAction *a, JsonObject *data,
                           GError **errp)
{
    BackupAction *action = transaction_opaque(a);
    BackupOptions options;
    BlockDriverState *bs;

    backup_options(data, &options);
    options.job.txn = transaction_job_txn(a);
    bs = bdrv_find_node(options.device, errp);
    if (!bs) {
        return false;
    }
    if (transaction_drain(a, bs, errp)) {
        action->job = backup_create(&options, errp);
    }
    bdrv_unref(bs);
    return action->job != NULL;
}

static void backup_commit(TransactionAction *a)
{
    BackupAction *action = transaction_opaque(a);

    job_start(action->job);
}

static void backup_abort(TransactionAction *a)
{
    BackupAction *action = transaction_opaque(a);

    job_abandon(action->job);
}

const TransactionActionDriver backup_actions[] = {
    {
        .type = "blockdev-backup",
        .args = &blockdev_backup_type,
        .instance_size = sizeof(BackupAction),
        .grouped = true,
        .prepare = backup_prepare,
        .commit = backup_commit,
        .abort = backup_abort,
    },
    { NULL },
};

static JsonNode *qmp_blockdev_backup(JsonObject *args, GError **errp)
{
    transaction_run_one(&backup_actions[0], args, errp);
    return NULL;
}

const QmpCommand qmp_backup_commands[] = {
    {
        .name = "blockdev-backup",
        .thread = QMP_MANAGEMENT,
        .args = &blockdev_backup_type,
        .doc =
            "Copy a node to another one as it is now, while it is in use, by a "
            "job. What the device's users are about to overwrite is copied "
            "first: they wait for that. The job ends by itself when all is "
            "copied and flushed; with sync \"none\" it goes on until it is "
            "cancelled. If a copy fails that a user waits for, the user's "
            "write goes on and the job fails. Zeroes are copied as zero-writes "
            "that may deallocate, and not at all where the target is known to "
            "be zero.",
        .example = "{\"job-id\": \"backup0\", \"device\": \"disk0\","
                   " \"target\": \"copy0\", \"sync\": \"full\"}",
        .errors = "There is no such device or target; their sizes differ; "
                  "other users of the device or of the target, or another job, "
                  "do not allow it; a request of the device's users does not "
                  "end within 10 s; the job-id is taken or not well-formed; a "
                  "value is not supported, which the message names.",
        .handler = qmp_blockdev_backup,
    },
    { NULL },
};
