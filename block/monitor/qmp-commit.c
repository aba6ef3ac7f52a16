/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP: block-commit */
#include "block/mirror.h"
#include "qmp-jobs.h"
#include "qmp-tables.h"

static const SchemaType block_commit_type = {
    .name = "q_obj_block-commit-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "device", &schema_str,
              .doc = "The active layer: the node on the top of the chain." },
            { "base-node", &schema_str, .optional = true,
              .doc = "The node to write to, which is in the chain below the "
                     "device. Default: the bottom of the chain." },
            { "base", &schema_str, .optional = true,
              .doc = "The same by the name of its file, spelled as it was "
                     "given when the node was made." },
            { "top-node", &schema_str, .optional = true,
              .doc = "The topmost node whose data is to go to the base. "
                     "Default: the device." },
            { "top", &schema_str, .optional = true,
              .doc = "The same by the name of its file." },
            { "backing-file", &schema_str, .optional = true,
              .doc =
                  "If the top is not the device: how the header of the image "
                  "that stands on it is to name the base. Default: the name "
                  "of the base's file, as it was given." },
            { "on-error", &blockdev_on_error_type, .optional = true,
              .doc = "What to do if a node cannot be read, or the base cannot "
                     "be written. Default: \"report\"." },
            QMP_JOB_MEMBERS,
            { NULL },
        },
};

static JsonNode *qmp_block_commit(JsonObject *args, GError **errp)
{
    CommitOptions options = {
        .job = qmp_job_options(args),
        .device = schema_get_str(args, "device", NULL),
        .base_node = schema_get_str(args, "base-node", NULL),
        .base = schema_get_str(args, "base", NULL),
        .top_node = schema_get_str(args, "top-node", NULL),
        .top = schema_get_str(args, "top", NULL),
        .backing_file = schema_get_str(args, "backing-file", NULL),
        .filter_node_name = schema_get_str(args, "filter-node-name", NULL),
        .on_error = qmp_on_error(args, "on-error"),
    };

    commit_start(&options, errp);
    return NULL;
}

const QmpCommand qmp_commit_commands[] = {
    {
        .name = "block-commit",
        .thread = QMP_MANAGEMENT,
        .args = &block_commit_type,
        .doc =
            "Copy what the nodes from top down to the base hold to the base, "
            "by "
            "a job, while the device is in use. If the top is the device "
            "itself, "
            "it gets ready (BLOCK_JOB_READY) and "
            "goes on like a mirror to the base: job-complete moves the "
            "device's users to the base, and block-job-cancel without force "
            "leaves them where they are; either way the base reads as the "
            "device does. If not, it ends by itself, and what stood on the top "
            "stands on the base, which its image's header names then. "
            "What is read at the device is the same throughout; "
            "at the nodes between it is not, so nobody else may read those "
            "while the job runs, nor ever again: their own data fits the base "
            "no more. A base that is shorter is made as long as the device; "
            "one that is read-only is made writable, until the job ends if "
            "its users do not go to it.",
        .example = "{\"job-id\": \"commit0\", \"device\": \"overlay0\","
                   " \"base-node\": \"base0\"}",
        .errors = "DeviceNotFound if there is no such device. A node stands on "
                  "it; base or top are not in its chain; two nodes stand "
                  "on what is to be left out; the base has no name for a "
                  "header; other users of the nodes do not allow it, or "
                  "another job; the base cannot be made writable or long "
                  "enough; the job-id is taken or not well-formed.",
        .handler = qmp_block_commit,
    },
    { NULL },
};
