/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP: blockdev-mirror */
#include "block/mirror.h"
#include "qmp-jobs.h"
#include "qmp-tables.h"
#include "util/error.h"

static const SchemaType copy_mode_type = {
    .name = "MirrorCopyMode",
    .kind = SCHEMA_ENUM,
    .doc = "When to copy what guests write: \"background\", some time after; "
           "or \"write-blocking\", before they are told that it is written.",
    .values = (const char *const[]){ "background", "write-blocking", NULL },
};

static const SchemaType blockdev_mirror_type = {
    .name = "q_obj_blockdev-mirror-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "device", &schema_str,
              .doc = "The node to copy from. What lies below it may be "
                     "written through it only, as long as the job exists." },
            { "target", &schema_str,
              .doc = "The node to copy to, of the same size, which nobody else "
                     "may use." },
            { "replaces", &schema_str, .optional = true,
              .doc = "The node whose users go on with the target when the job "
                     "is completed: the device, or a node below it with only "
                     "filters (\"throttle\") between. Default: the device." },
            { "sync", &mirror_sync_mode_type,
              .doc =
                  "What to copy at first; what is written while the job runs "
                  "is "
                  "copied in any case. With \"top\" and \"none\" the target "
                  "keeps the rest of what it has; around what is written, "
                  "granularity decides. \"incremental\" and \"bitmap\" are not "
                  "supported." },
            { "granularity", &schema_int, .optional = true,
              .doc =
                  "Bytes that are copied if one of them was written: a "
                  "power of two from 512 to 64 MiB. Default: 64 KiB; less if "
                  "the target has smaller clusters, but 4 KiB at least." },
            { "buf-size", &schema_int, .optional = true,
              .doc = "Bytes of data in flight at most, rounded up to 64 KiB: "
                     "16 requests share them. While clients of exports use "
                     "disks it is less, unless that is much slower. Up to 1 "
                     "GiB; default: 16 MiB." },
            { "on-source-error", &blockdev_on_error_type, .optional = true,
              .doc = "What to do if the device cannot be read. What fails is "
                     "copied later: the job is not ready, or is not completed, "
                     "before that has succeeded. Default: \"report\"." },
            { "on-target-error", &blockdev_on_error_type, .optional = true,
              .doc = "The same for writes to the target, and for its flushes. "
                     "Default: \"report\"." },
            { "copy-mode", &copy_mode_type, .optional = true,
              .doc =
                  "\"write-blocking\": writes go to the device and then to "
                  "the target, and end when both are done. So what is left "
                  "to copy only gets less, however fast the device's users "
                  "write, and from BLOCK_JOB_READY on the target is equal to "
                  "the device whenever no write is in flight. Default: "
                  "\"background\"." },
            { "target-is-zero", &schema_bool, .optional = true,
              .doc = "All of the target is known to read as zeroes, so that "
                     "none need to be written there. If it is not so, the copy "
                     "is wrong. Not with sync \"top\": what may be put below "
                     "the target later would show. Default: false." },
            QMP_JOB_MEMBERS,
            { NULL },
        },
};

static bool check_sync(JsonObject *args, GError **errp)
{
    int sync = schema_get_enum(args, "sync", &mirror_sync_mode_type, 0);

    if (sync > MIRROR_SYNC_NONE) {
        error_setg(errp, "Sync mode '%s' not supported",
                   mirror_sync_mode_type.values[sync]);
        return false;
    }
    return true;
}

static JsonNode *qmp_blockdev_mirror(JsonObject *args, GError **errp)
{
    MirrorOptions options = {
        .job = qmp_job_options(args),
        .device = schema_get_str(args, "device", NULL),
        .target = schema_get_str(args, "target", NULL),
        .replaces = schema_get_str(args, "replaces", NULL),
        .filter_node_name = schema_get_str(args, "filter-node-name", NULL),
        .granularity = schema_get_int(args, "granularity", 0),
        .buf_size = schema_get_int(args, "buf-size", 0),
        .sync = schema_get_enum(args, "sync", &mirror_sync_mode_type,
                                MIRROR_SYNC_FULL),
        .write_blocking =
            schema_get_enum(args, "copy-mode", &copy_mode_type, 0) == 1,
        .target_is_zero = schema_get_bool(args, "target-is-zero", false),
        .on_source_error = qmp_on_error(args, "on-source-error"),
        .on_target_error = qmp_on_error(args, "on-target-error"),
    };

    if (check_sync(args, errp)) {
        mirror_start(&options, errp);
    }
    return NULL;
}

const QmpCommand qmp_mirror_commands[] = {
    {
        .name = "blockdev-mirror",
        .thread = QMP_MANAGEMENT,
        .args = &blockdev_mirror_type,
        .doc =
            "Copy a node to another one while it is in use, by a job. It is "
            "ready (BLOCK_JOB_READY) when there was a moment with nothing "
            "left to copy; or, if the device's users never pause, when "
            "buf-size bytes or fewer are left after a few rounds. From then "
            "on it follows what is written: job-complete moves the device's "
            "users to the target, and block-job-cancel without force ends "
            "with a consistent copy and moves nobody. For that the job waits "
            "until buf-size bytes or fewer are left and stops the users for "
            "the time it takes to copy those; if they write faster than it "
            "copies, or a request of theirs does not end, it stays ready. "
            "Zeroes are copied as zero-writes that may deallocate, and not "
            "at all where the target is known to be zero.",
        .example = "{\"job-id\": \"mirror0\", \"device\": \"disk0\","
                   " \"target\": \"copy0\", \"sync\": \"full\"}",
        .errors = "There is no such device or target; their sizes differ; "
                  "other users of the target, or another job, do not allow "
                  "it; the job-id is taken or not well-formed; a value is "
                  "not supported, which the message names.",
        .handler = qmp_blockdev_mirror,
    },
    { NULL },
};
