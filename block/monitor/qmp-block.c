/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP: the daemon itself, and nodes that come and go */
#include "block/block-int.h"
#include "block/job.h"
#include "monitor/qmp.h"
#include "util/json-copy.h"

/* ---- query-version, quit ------------------------------------------------ */

static const SchemaType version_triple_type = {
    .name = "VersionTriple",
    .kind = SCHEMA_OBJECT,
    .doc = "A version number.",
    .members =
        (const SchemaMember[]){
            { "major", &schema_int, .doc = "The first number." },
            { "minor", &schema_int, .doc = "The second number." },
            { "micro", &schema_int, .doc = "The third number." },
            { NULL },
        },
};

static const SchemaType version_info_type = {
    .name = "VersionInfo",
    .kind = SCHEMA_OBJECT,
    .doc = "What program this is.",
    .members =
        (const SchemaMember[]){
            { "qemu", &version_triple_type,
              .doc = "The version of QEMU whose QMP this is." },
            { "package", &schema_str,
              .doc = "\"seekless-\" and the daemon's own version." },
            { NULL },
        },
};

static JsonNode *qmp_query_version(JsonObject *args, GError **errp)
{
    return qmp_node_from_object(qmp_version_info());
}

static JsonNode *qmp_quit(JsonObject *args, GError **errp)
{
    daemon_quit();
    return NULL;
}

/* ---- blockdev-add, blockdev-del ----------------------------------------- */

static const SchemaType blockdev_del_type = {
    .name = "q_obj_blockdev-del-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "node-name", &schema_str, .doc = "The node's name." },
            { NULL },
        },
};

static JsonNode *qmp_blockdev_add(JsonObject *args, GError **errp)
{
    bdrv_open(args, errp);
    return NULL;
}

static JsonNode *qmp_blockdev_del(JsonObject *args, GError **errp)
{
    bdrv_monitor_del(json_object_get_string_member(args, "node-name"), errp);
    return NULL;
}

/* ---- blockdev-reopen ---------------------------------------------------- */

static const SchemaType reopen_list_type = {
    .kind = SCHEMA_ARRAY,
    .element = &blockdev_options_type,
};

static const SchemaType blockdev_reopen_type = {
    .name = "q_obj_blockdev-reopen-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "options", &reopen_list_type,
              .doc = "For each node, by its \"node-name\", all its options as "
                     "they are to be. What is left out goes back to its "
                     "default." },
            { NULL },
        },
};

static JsonNode *qmp_blockdev_reopen(JsonObject *args, GError **errp)
{
    bdrv_reopen(json_object_get_array_member(args, "options"), errp);
    return NULL;
}

/* ---- block_resize ------------------------------------------------------- */

static const SchemaType block_resize_type = {
    .name = "q_obj_block_resize-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "device", &schema_str, .optional = true,
              .doc = "Accepted for compatibility: nodes are known by their "
                     "node-name alone." },
            { "node-name", &schema_str, .optional = true,
              .doc = "The node's name." },
            { "size", &schema_int,
              .doc = "Its new size in bytes, of any alignment." },
            { NULL },
        },
};

static JsonNode *qmp_block_resize(JsonObject *args, GError **errp)
{
    const char *node_name = schema_get_str(args, "node-name", "");
    int64_t size = json_object_get_int_member(args, "size");
    BlockDriverState *bs = bdrv_find_node(node_name, NULL);

    if (!bs) {
        error_setg(errp, "Cannot find device='%s' nor node-name='%s'",
                   schema_get_str(args, "device", ""), node_name);
        return NULL;
    }
    if (size < 0) {
        error_setg(errp, "Parameter 'size' expects a >0 size");
    } else {
        bdrv_resize(bs, size, errp);
    }
    bdrv_unref(bs);
    return NULL;
}

/* ---- blockdev-create ---------------------------------------------------- */

/* The drivers that can create something, in the order of bdrv_drivers */
static const BlockDriver *nth_creator(size_t n)
{
    const BlockDriver *const *drv;

    for (drv = bdrv_drivers; *drv; drv++) {
        if ((*drv)->create && n-- == 0) {
            return *drv;
        }
    }
    return NULL;
}

static bool create_branch(size_t n, const char **tag, const SchemaType **type)
{
    const BlockDriver *drv = nth_creator(n);

    if (!drv) {
        return false;
    }
    *tag = drv->format_name;
    *type = drv->create_options;
    return true;
}

static const SchemaType create_options_type = {
    .name = "BlockdevCreateOptions",
    .kind = SCHEMA_OBJECT,
    .doc = "What to create: the driver's options.",
    .members =
        (const SchemaMember[]){
            { "driver", &schema_str, .doc = "The driver that creates." },
            { NULL },
        },
    .discriminator = "driver",
    .branch = create_branch,
};

static const SchemaType blockdev_create_type = {
    .name = "q_obj_blockdev-create-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "job-id", &schema_str,
              .doc = "The name of the job that does it. It stays, concluded, "
                     "until job-dismiss." },
            { "options", &create_options_type, .doc = "What to create." },
            { NULL },
        },
};

typedef struct CreateJob {
    const BlockDriver *drv;
    JsonObject *options;
} CreateJob;

static bool create_cancelled(void *opaque)
{
    return job_is_cancelled(opaque);
}

static int create_run(Job *job)
{
    const BdrvStop stop = { create_cancelled, job };
    CreateJob *create = job_opaque(job);
    g_autoptr(GError) err = NULL;
    int ret;

    job_progress_set_remaining(job, 1);
    ret = create->drv->create(create->options, &stop, &err);
    job_progress_update(job, 1);
    if (ret < 0) {
        job_set_error(job, ret, "%s", err->message);
    }
    return ret;
}

static void create_clean(Job *job)
{
    CreateJob *create = job_opaque(job);

    json_object_unref(create->options);
}

static const JobDriver create_job_driver = {
    .type = "create",
    .instance_size = sizeof(CreateJob),
    .run = create_run,
    .clean = create_clean,
};

static JsonNode *qmp_blockdev_create(JsonObject *args, GError **errp)
{
    JobOptions job_options = {
        .id = json_object_get_string_member(args, "job-id"),
        .auto_finalize = true,
    };
    JsonObject *options = json_object_get_object_member(args, "options");
    CreateJob *create;
    Job *job;

    job = job_create(&create_job_driver, &job_options, errp);
    if (!job) {
        return NULL;
    }
    create = job_opaque(job);
    create->options = json_object_deep_copy(options);
    create->drv =
        bdrv_find_driver(json_object_get_string_member(options, "driver"));
    job_start(job);
    return NULL;
}

const QmpCommand qmp_block_commands[] = {
    {
        .name = "query-version",
        .thread = QMP_MAIN,
        .ret = &version_info_type,
        .doc = "Tell the daemon's version.",
        .handler = qmp_query_version,
    },
    {
        .name = "quit",
        .thread = QMP_MAIN,
        .doc = "End the daemon: jobs are cancelled, exports closed, data is "
               "flushed.",
        .handler = qmp_quit,
    },
    {
        .name = "blockdev-add",
        .thread = QMP_MANAGEMENT,
        .args = &blockdev_options_type,
        .doc = "Open a block node.",
        .example = "{\"driver\": \"file\", \"node-name\": \"disk0\","
                   " \"filename\": \"disk.img\"}",
        .errors = "The node's name is taken or not well-formed; a file "
                  "cannot be opened, or is locked by somebody else; a child "
                  "does not exist, or its other users do not share what "
                  "this node needs.",
        .handler = qmp_blockdev_add,
    },
    {
        .name = "blockdev-del",
        .thread = QMP_MANAGEMENT,
        .args = &blockdev_del_type,
        .doc = "Close a block node that blockdev-add opened. Refused while "
               "anybody uses it.",
        .example = "{\"node-name\": \"disk0\"}",
        .errors = "There is no such node; it was not made by blockdev-add; "
                  "somebody uses it.",
        .handler = qmp_blockdev_del,
    },
    {
        .name = "blockdev-reopen",
        .thread = QMP_MANAGEMENT,
        .args = &blockdev_reopen_type,
        .doc =
            "Change options of block nodes that are in use: all of them, or if "
            "anything is refused, none. Of all nodes \"read-only\", "
            "\"auto-read-only\", \"cache\", \"discard\" and "
            "\"detect-zeroes\" may change; of drivers \"file\" and "
            "\"host_device\" \"status-cache\", \"status-cache-size\", "
            "\"status-cache-learn-reads\" and \"status-probe\"; of \"raw\" "
            "\"offset\", \"size\" and \"file\"; of \"throttle\" "
            "\"throttle-group\" and \"file\". Of a node that has a backing "
            "file, or whose image names one, \"backing\" must be given: the "
            "one there is, or the name of another node, or null. A node that "
            "was "
            "made inline "
            "is reopened with the one that made it, and takes over what was "
            "not given for itself.",
        .example = "{\"options\": [{\"driver\": \"file\","
                   " \"node-name\": \"disk0\", \"filename\":"
                   " \"disk.img\", \"cache\": {\"direct\": true}}]}",
        .errors = "There is no such node, or it is mentioned twice; an option "
                  "that cannot change would; a node that somebody writes to "
                  "would be read-only; the file cannot be opened that way, or "
                  "somebody else has it; a job relies on contents that would "
                  "change; a request does not end within 10 seconds.",
        .handler = qmp_blockdev_reopen,
    },
    {
        .name = "block_resize",
        .thread = QMP_MANAGEMENT,
        .args = &block_resize_type,
        .doc =
            "Make the disk of a node longer or shorter. What is new reads as "
            "zeroes, what is cut off is lost. NBD clients that are connected "
            "go on with the size they were told, and fail where there is no "
            "disk any more; those who connect see the new one.",
        .example = "{\"node-name\": \"disk0\", \"size\": 2147483648}",
        .errors =
            "There is no such node; it is read-only, or of a driver whose "
            "disks have a fixed size; a job uses the node, or another "
            "user that does not share the permission to resize; a request "
            "does not end in 10 seconds; the file system does not take "
            "so long a file.",
        .handler = qmp_block_resize,
    },
    {
        .name = "blockdev-create",
        .thread = QMP_MANAGEMENT,
        .args = &blockdev_create_type,
        .doc = "Create an image, by a job. It tells by its \"error\" in "
               "query-jobs if it failed.",
        .example = "{\"job-id\": \"create0\", \"options\": {\"driver\":"
                   " \"file\", \"filename\": \"new.img\","
                   " \"size\": 1073741824}}",
        .errors = "The name of the job is taken or not well-formed. All "
                  "else that can go wrong is told by the job.",
        .handler = qmp_blockdev_create,
    },
    { NULL },
};

/* ---- events ------------------------------------------------------------- */

static const SchemaType image_corrupted_type = {
    .name = "q_obj_BLOCK_IMAGE_CORRUPTED-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "device", &schema_str, .doc = "Always empty." },
            { "node-name", &schema_str, .optional = true,
              .doc = "The node of the image." },
            { "msg", &schema_str, .doc = "What is wrong, for people." },
            { "offset", &schema_int, .optional = true,
              .doc = "Where in the image's file, bytes." },
            { "size", &schema_int, .optional = true,
              .doc = "How much of it, bytes." },
            { "fatal", &schema_bool,
              .doc = "Whether the image is marked as corrupt, and writes fail "
                     "from now on. Otherwise the node is read-only." },
            { NULL },
        },
};

const QmpEvent qmp_block_events[] = {
    { "BLOCK_IMAGE_CORRUPTED", &image_corrupted_type,
      .doc = "What an image says of itself makes no sense. It should be "
             "checked, and repaired, before it is used again. Sent once for an "
             "image." },
    { NULL },
};
