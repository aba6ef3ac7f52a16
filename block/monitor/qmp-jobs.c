/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP: jobs of any kind. Verbs and queries are answered at once on the main
 * thread; what verbs ask for is told by events.
 */
#include "qmp-jobs.h"
#include "qmp-tables.h"

JobErrorPolicy qmp_on_error(JsonObject *args, const char *name)
{
    return schema_get_enum(args, name, &blockdev_on_error_type,
                           JOB_ON_ERROR_REPORT);
}

JobOptions qmp_job_options(JsonObject *args)
{
    return (JobOptions){
        .id = schema_get_str(args, "job-id", NULL),
        .speed = schema_get_int(args, "speed", 0),
        .auto_finalize = schema_get_bool(args, "auto-finalize", true),
        .auto_dismiss = schema_get_bool(args, "auto-dismiss", true),
    };
}

/* ---- verbs -------------------------------------------------------------- */

static const SchemaType id_type = {
    .name = "q_obj_job-id-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){ { "id", &schema_str, .doc = "The job's name." },
                                { NULL } },
};

static const SchemaType device_type = {
    .name = "q_obj_job-device-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "device", &schema_str, .doc = "The job's name." }, { NULL } },
};

static const SchemaType block_job_cancel_type = {
    .name = "q_obj_block-job-cancel-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "device", &schema_str, .doc = "The job's name." },
            { "force", &schema_bool, .optional = true,
              .doc = "Cancel a job also if it is ready or paused. "
                     "Default: false." },
            { NULL },
        },
};

static const SchemaType set_speed_type = {
    .name = "q_obj_block-job-set-speed-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "device", &schema_str, .doc = "The job's name." },
            { "speed", &schema_int,
              .doc = "Bytes in a second at most; 0: no limit." },
            { NULL },
        },
};

static const char *id_of(JsonObject *args)
{
    return schema_get_str(args, "id", NULL);
}

static const char *device_of(JsonObject *args)
{
    return schema_get_str(args, "device", NULL);
}

static JsonNode *qmp_job_cancel(JsonObject *args, GError **errp)
{
    job_verb_cancel(JOB_FAMILY_ALL, id_of(args), true, errp);
    return NULL;
}

static JsonNode *qmp_job_complete(JsonObject *args, GError **errp)
{
    job_verb_complete(JOB_FAMILY_ALL, id_of(args), errp);
    return NULL;
}

static JsonNode *qmp_job_pause(JsonObject *args, GError **errp)
{
    job_verb_pause(JOB_FAMILY_ALL, id_of(args), errp);
    return NULL;
}

static JsonNode *qmp_job_resume(JsonObject *args, GError **errp)
{
    job_verb_resume(JOB_FAMILY_ALL, id_of(args), errp);
    return NULL;
}

static JsonNode *qmp_job_finalize(JsonObject *args, GError **errp)
{
    job_verb_finalize(JOB_FAMILY_ALL, id_of(args), errp);
    return NULL;
}

static JsonNode *qmp_job_dismiss(JsonObject *args, GError **errp)
{
    job_verb_dismiss(JOB_FAMILY_ALL, id_of(args), errp);
    return NULL;
}

static JsonNode *qmp_block_job_cancel(JsonObject *args, GError **errp)
{
    job_verb_cancel(JOB_FAMILY_BLOCK, device_of(args),
                    schema_get_bool(args, "force", false), errp);
    return NULL;
}

static JsonNode *qmp_block_job_complete(JsonObject *args, GError **errp)
{
    job_verb_complete(JOB_FAMILY_BLOCK, device_of(args), errp);
    return NULL;
}

static JsonNode *qmp_block_job_pause(JsonObject *args, GError **errp)
{
    job_verb_pause(JOB_FAMILY_BLOCK, device_of(args), errp);
    return NULL;
}

static JsonNode *qmp_block_job_resume(JsonObject *args, GError **errp)
{
    job_verb_resume(JOB_FAMILY_BLOCK, device_of(args), errp);
    return NULL;
}

static JsonNode *qmp_block_job_set_speed(JsonObject *args, GError **errp)
{
    job_verb_set_speed(device_of(args), schema_get_int(args, "speed", 0), errp);
    return NULL;
}

static JsonNode *qmp_block_job_finalize(JsonObject *args, GError **errp)
{
    job_verb_finalize(JOB_FAMILY_BLOCK, id_of(args), errp);
    return NULL;
}

static JsonNode *qmp_block_job_dismiss(JsonObject *args, GError **errp)
{
    job_verb_dismiss(JOB_FAMILY_BLOCK, id_of(args), errp);
    return NULL;
}

/* ---- queries ------------------------------------------------------------ */

static const SchemaType job_status_type = {
    .name = "JobStatus",
    .kind = SCHEMA_ENUM,
    .doc = "The states of a job. \"created\"; \"running\"; \"paused\"; "
           "\"ready\": it has caught up and goes on until job-complete or "
           "block-job-cancel; \"standby\": ready and paused; \"waiting\": for "
           "others to end with it; \"pending\": for job-finalize; "
           "\"aborting\": it failed or was cancelled; \"concluded\": it has "
           "ended and waits for job-dismiss; \"null\": it is gone.",
    .values = job_status_names,
};

const SchemaType mirror_sync_mode_type = {
    .name = "MirrorSyncMode",
    .kind = SCHEMA_ENUM,
    .doc =
        "What a job is to copy. \"full\": the whole disk, as it is read "
        "through "
        "the backing chain; \"top\": what the device itself holds over its "
        "backing file, for a target that has the same one, or is going to, and "
        "without a backing file the whole disk; \"none\": nothing, but what is "
        "written while the job runs; \"bitmap\": what a dirty bitmap marks; "
        "\"incremental\": the same, and the bitmap starts anew when that is "
        "done.",
    .values = (const char *const[]){ "top", "full", "none", "incremental",
                                     "bitmap", NULL },
};

static const SchemaType job_type_type = {
    .name = "JobType",
    .kind = SCHEMA_ENUM,
    .doc = "What a job does.",
    .values = (const char *const[]){ "commit", "mirror", "backup", "create",
                                     "status-cache-verify", NULL },
};

static const SchemaType job_info_type = {
    .name = "JobInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "A job.",
    .members =
        (const SchemaMember[]){
            { "id", &schema_str, .doc = "The job's name." },
            { "type", &job_type_type, .doc = "What it does." },
            { "status", &job_status_type, .doc = "How it stands." },
            { "current-progress", &schema_int,
              .doc =
                  "What is done; for block jobs in bytes. Never decreases." },
            { "total-progress", &schema_int,
              .doc = "What is done and what remains, as far as is known." },
            { "error", &schema_str, .optional = true,
              .doc = "Why it failed, if it did." },
            { NULL },
        },
};

static const SchemaType job_info_list_type = {
    .name = "JobInfoList",
    .kind = SCHEMA_ARRAY,
    .element = &job_info_type,
};

static const SchemaType io_status_type = {
    .name = "BlockDeviceIoStatus",
    .kind = SCHEMA_ENUM,
    .doc = "Why a job is paused: \"failed\", \"nospace\": a request of its own "
           "failed, or failed for lack of space, and it was told to stop "
           "then. \"ok\": it is not, or a user wanted it so.",
    .values = job_io_status_names,
};

static const SchemaType block_job_info_type = {
    .name = "BlockJobInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "A job about block nodes.",
    .members =
        (const SchemaMember[]){
            { "type", &job_type_type, .doc = "What it does." },
            { "device", &schema_str, .doc = "The job's name." },
            { "len", &schema_int,
              .doc = "Bytes that are done or remain. Grows by what is written "
                     "while the job runs." },
            { "offset", &schema_int,
              .doc = "Bytes that are done. Never decreases." },
            { "busy", &schema_bool, .doc = "Requests are in flight." },
            { "paused", &schema_bool,
              .doc = "A pause was asked for, or has begun." },
            { "speed", &schema_int,
              .doc = "Bytes in a second at most; 0: no limit." },
            { "io-status", &io_status_type,
              .doc = "Whether it was stopped by an error; \"ok\" again when it "
                     "is resumed." },
            { "ready", &schema_bool,
              .doc = "It has caught up and may be completed." },
            { "status", &job_status_type, .doc = "How it stands." },
            { "auto-finalize", &schema_bool,
              .doc = "It does not wait for job-finalize." },
            { "auto-dismiss", &schema_bool,
              .doc = "It does not wait for job-dismiss." },
            { "error", &schema_str, .optional = true,
              .doc = "Why it failed, if it did." },
            { NULL },
        },
};

static const SchemaType block_job_info_list_type = {
    .name = "BlockJobInfoList",
    .kind = SCHEMA_ARRAY,
    .element = &block_job_info_type,
};

static JsonNode *qmp_query_jobs(JsonObject *args, GError **errp)
{
    return qmp_node_from_array(job_query());
}

static JsonNode *qmp_query_block_jobs(JsonObject *args, GError **errp)
{
    return qmp_node_from_array(job_query_block());
}

const QmpCommand qmp_job_commands[] = {
    {
        .name = "query-jobs",
        .thread = QMP_MAIN,
        .ret = &job_info_list_type,
        .doc = "Show all jobs.",
        .handler = qmp_query_jobs,
    },
    {
        .name = "query-block-jobs",
        .thread = QMP_MAIN,
        .ret = &block_job_info_list_type,
        .doc = "Show the jobs about block nodes.",
        .handler = qmp_query_block_jobs,
    },
    {
        .name = "job-cancel",
        .thread = QMP_MAIN,
        .args = &id_type,
        .doc = "Cancel a job: what it did is not to be used.",
        .example = "{\"id\": \"mirror0\"}",
        .errors = "There is no such job; in its state it cannot be "
                  "cancelled.",
        .handler = qmp_job_cancel,
    },
    {
        .name = "job-complete",
        .thread = QMP_MAIN,
        .args = &id_type,
        .doc = "Let a job that is ready come to its end.",
        .example = "{\"id\": \"mirror0\"}",
        .errors = "There is no such job; it is not ready, or of a type that "
                  "ends by itself.",
        .handler = qmp_job_complete,
    },
    {
        .name = "job-pause",
        .thread = QMP_MAIN,
        .args = &id_type,
        .doc = "Pause a job, as soon as its requests in flight have ended.",
        .example = "{\"id\": \"mirror0\"}",
        .errors = "There is no such job; it is already paused, or its state "
                  "allows no pause.",
        .handler = qmp_job_pause,
    },
    {
        .name = "job-resume",
        .thread = QMP_MAIN,
        .args = &id_type,
        .doc = "Let a paused job go on; also one that was stopped by an error, "
               "which then tries again what failed.",
        .example = "{\"id\": \"mirror0\"}",
        .errors = "There is no such job; it is not paused.",
        .handler = qmp_job_resume,
    },
    {
        .name = "job-finalize",
        .thread = QMP_MAIN,
        .args = &id_type,
        .doc = "Let a pending job take its last step.",
        .example = "{\"id\": \"mirror0\"}",
        .errors = "There is no such job; it is not pending.",
        .handler = qmp_job_finalize,
    },
    {
        .name = "job-dismiss",
        .thread = QMP_MAIN,
        .args = &id_type,
        .doc = "Forget a concluded job.",
        .example = "{\"id\": \"mirror0\"}",
        .errors = "There is no such job; it is not concluded.",
        .handler = qmp_job_dismiss,
    },
    {
        .name = "block-job-cancel",
        .thread = QMP_MAIN,
        .args = &block_job_cancel_type,
        .doc = "End a block job. A mirror (or commit) that is ready ends with "
               "a consistent "
               "copy (BLOCK_JOB_COMPLETED) unless force is given; all others "
               "are cancelled (BLOCK_JOB_CANCELLED).",
        .example = "{\"device\": \"mirror0\"}",
        .errors = "DeviceNotActive if there is no such job. It is paused "
                  "and force is not given; in its state it cannot be "
                  "cancelled.",
        .handler = qmp_block_job_cancel,
    },
    {
        .name = "block-job-complete",
        .thread = QMP_MAIN,
        .args = &device_type,
        .doc = "As job-complete.",
        .example = "{\"device\": \"mirror0\"}",
        .errors = "DeviceNotActive if there is no such job. It is not "
                  "ready.",
        .handler = qmp_block_job_complete,
    },
    {
        .name = "block-job-pause",
        .thread = QMP_MAIN,
        .args = &device_type,
        .doc = "As job-pause.",
        .example = "{\"device\": \"mirror0\"}",
        .errors = "DeviceNotActive if there is no such job. It is already "
                  "paused, or its state allows no pause.",
        .handler = qmp_block_job_pause,
    },
    {
        .name = "block-job-resume",
        .thread = QMP_MAIN,
        .args = &device_type,
        .doc = "As job-resume.",
        .example = "{\"device\": \"mirror0\"}",
        .errors = "DeviceNotActive if there is no such job. It is not "
                  "paused.",
        .handler = qmp_block_job_resume,
    },
    {
        .name = "block-job-set-speed",
        .thread = QMP_MAIN,
        .args = &set_speed_type,
        .doc = "Change how fast a job may go.",
        .example = "{\"device\": \"mirror0\", \"speed\": 10485760}",
        .errors = "DeviceNotActive if there is no such job. The speed is "
                  "negative.",
        .handler = qmp_block_job_set_speed,
    },
    {
        .name = "block-job-finalize",
        .thread = QMP_MAIN,
        .args = &id_type,
        .doc = "As job-finalize.",
        .example = "{\"id\": \"mirror0\"}",
        .errors = "DeviceNotActive if there is no such job. It is not pending.",
        .handler = qmp_block_job_finalize,
    },
    {
        .name = "block-job-dismiss",
        .thread = QMP_MAIN,
        .args = &id_type,
        .doc = "As job-dismiss.",
        .example = "{\"id\": \"mirror0\"}",
        .errors =
            "DeviceNotActive if there is no such job. It is not concluded.",
        .handler = qmp_block_job_dismiss,
    },
    { NULL },
};

/* ---- events ------------------------------------------------------------- */

static const SchemaType status_change_type = {
    .name = "q_obj_JOB_STATUS_CHANGE-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "id", &schema_str, .doc = "The job's name." },
            { "status", &job_status_type, .doc = "Its state from now on." },
            { NULL },
        },
};

#define BLOCK_JOB_EVENT_MEMBERS                                                \
    { "type", &job_type_type, .doc = "What the job does." },                   \
        { "device", &schema_str, .doc = "The job's name." },                   \
        { "len", &schema_int, .doc = "Bytes that are done or remain." },       \
        { "offset", &schema_int, .doc = "Bytes that are done." },              \
    {                                                                          \
        "speed", &schema_int, .doc = "Bytes in a second at most; 0: no limit." \
    }

static const SchemaType block_job_event_type = {
    .name = "q_obj_BLOCK_JOB_READY-arg",
    .kind = SCHEMA_OBJECT,
    .members = (const SchemaMember[]){ BLOCK_JOB_EVENT_MEMBERS, { NULL } },
};

static const SchemaType block_job_completed_type = {
    .name = "q_obj_BLOCK_JOB_COMPLETED-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            BLOCK_JOB_EVENT_MEMBERS,
            { "error", &schema_str, .optional = true,
              .doc = "Why it failed; not there if it succeeded." },
            { NULL },
        },
};

static const SchemaType block_job_pending_type = {
    .name = "q_obj_BLOCK_JOB_PENDING-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "type", &job_type_type, .doc = "What the job does." },
            { "id", &schema_str, .doc = "The job's name." },
            { NULL },
        },
};

static const SchemaType io_operation_type = {
    .name = "IoOperationType",
    .kind = SCHEMA_ENUM,
    .doc = "What failed; writes include zero-writes and flushes.",
    .values = (const char *const[]){ "read", "write", NULL },
};

const SchemaType blockdev_on_error_type = {
    .name = "BlockdevOnError",
    .kind = SCHEMA_ENUM,
    .doc = "What to do if a job's own request fails (BLOCK_JOB_ERROR tells). "
           "\"report\": the job fails; \"ignore\": it goes on, and tries again "
           "later what failed, a few times a second; \"stop\": it pauses until "
           "job-resume, and then tries again; \"enospc\", \"auto\": \"stop\" "
           "if there is no space left, otherwise \"report\".",
    .values = job_error_policy_names,
};

static const SchemaType error_action_type = {
    .name = "BlockErrorAction",
    .kind = SCHEMA_ENUM,
    .doc = "What is done about an error. \"report\": the job fails; "
           "\"ignore\": it goes on, and tries again later what failed; "
           "\"stop\": it pauses until it is resumed, and then tries again.",
    .values = job_error_action_names,
};

static const SchemaType block_job_error_type = {
    .name = "q_obj_BLOCK_JOB_ERROR-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "device", &schema_str, .doc = "The job's name." },
            { "operation", &io_operation_type, .doc = "What failed." },
            { "action", &error_action_type, .doc = "What was done about it." },
            { NULL },
        },
};

const QmpEvent qmp_job_events[] = {
    { "JOB_STATUS_CHANGE", &status_change_type,
      "A job has changed its state." },
    { "BLOCK_JOB_READY", &block_job_event_type,
      "A mirror has caught up: the copy is complete but for what is being "
      "written." },
    { "BLOCK_JOB_COMPLETED", &block_job_completed_type,
      "A block job has ended, well or with an error." },
    { "BLOCK_JOB_CANCELLED", &block_job_event_type,
      "A block job was cancelled." },
    { "BLOCK_JOB_PENDING", &block_job_pending_type,
      "A block job waits for job-finalize." },
    { "BLOCK_JOB_ERROR", &block_job_error_type,
      "A request of a block job has failed." },
    { NULL },
};
