/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP: file descriptors that clients pass with their commands */
#include "monitor/qmp.h"
#include "util/fdset.h"

/* ---- add-fd, remove-fd, query-fdsets ------------------------------------ */

static const SchemaType add_fd_type = {
    .name = "q_obj_add-fd-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "fdset-id", &schema_int, .optional = true,
              .doc = "The set to add it to, which need not exist (default: a "
                     "new one)." },
            { "opaque", &schema_str, .optional = true,
              .doc = "A text that query-fdsets shows." },
            { NULL },
        },
};

static const SchemaType add_fd_info_type = {
    .name = "AddfdInfo",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "fdset-id", &schema_int, .doc = "The set it was added to." },
            { "fd", &schema_int, .doc = "Its number in the daemon." },
            { NULL },
        },
};

static JsonNode *qmp_add_fd(JsonObject *args, GError **errp)
{
    int64_t id = schema_get_int(args, "fdset-id", 0);
    JsonObject *info;
    int fd = qmp_take_fd(errp);

    if (fd < 0) {
        return NULL;
    }
    if (!fdset_add(fd, schema_has(args, "fdset-id"), &id,
                   schema_get_str(args, "opaque", NULL), errp)) {
        return NULL;
    }
    info = json_object_new();
    json_object_set_int_member(info, "fdset-id", id);
    json_object_set_int_member(info, "fd", fd);
    return qmp_node_from_object(info);
}

static const SchemaType remove_fd_type = {
    .name = "q_obj_remove-fd-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "fdset-id", &schema_int, .doc = "The set." },
            { "fd", &schema_int, .optional = true,
              .doc = "Which of its descriptors (default: all)." },
            { NULL },
        },
};

static JsonNode *qmp_remove_fd(JsonObject *args, GError **errp)
{
    int64_t fd = schema_get_int(args, "fd", -1);

    if (schema_has(args, "fd") && (fd < 0 || fd > G_MAXINT)) {
        error_setg(errp,
                   "File descriptor named 'fdset-id:%" G_GINT64_FORMAT
                   ", fd:%" G_GINT64_FORMAT "' not found",
                   schema_get_int(args, "fdset-id", 0), fd);
        return NULL;
    }
    fdset_remove(schema_get_int(args, "fdset-id", 0), fd, errp);
    return NULL;
}

static const SchemaType fdset_fd_info_type = {
    .name = "FdsetFdInfo",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "fd", &schema_int, .doc = "Its number in the daemon." },
            { "opaque", &schema_str, .optional = true,
              .doc = "What add-fd was told." },
            { NULL },
        },
};

static const SchemaType fdset_fd_list_type = {
    .name = "FdsetFdInfoList",
    .kind = SCHEMA_ARRAY,
    .element = &fdset_fd_info_type,
};

static const SchemaType fdset_info_type = {
    .name = "FdsetInfo",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "fdset-id", &schema_int, .doc = "The set's id." },
            { "fds", &fdset_fd_list_type, .doc = "Its descriptors." },
            { NULL },
        },
};

static const SchemaType fdset_list_type = {
    .name = "FdsetInfoList",
    .kind = SCHEMA_ARRAY,
    .element = &fdset_info_type,
};

static JsonNode *qmp_query_fdsets(JsonObject *args, GError **errp)
{
    return qmp_node_from_array(fdset_query());
}

/* ---- getfd, closefd ----------------------------------------------------- */

static const SchemaType fdname_type = {
    .name = "q_obj_getfd-arg",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "fdname", &schema_str, .doc = "The descriptor's name." },
            { NULL },
        },
};

static JsonNode *qmp_getfd(JsonObject *args, GError **errp)
{
    int fd = qmp_take_fd(errp);

    if (fd >= 0) {
        named_fd_add(schema_get_str(args, "fdname", NULL), fd, errp);
    }
    return NULL;
}

static JsonNode *qmp_closefd(JsonObject *args, GError **errp)
{
    named_fd_close(schema_get_str(args, "fdname", NULL), errp);
    return NULL;
}

const QmpCommand qmp_fd_commands[] = {
    {
        .name = "add-fd",
        .thread = QMP_MANAGEMENT,
        .takes_fd = true,
        .args = &add_fd_type,
        .ret = &add_fd_info_type,
        .doc = "Add a file descriptor, which comes with the command "
               "(SCM_RIGHTS), to a set. The filename \"/dev/fdset/ID\" then "
               "stands for the first one in the set with the access mode that "
               "is wanted: for reading, or for reading and writing. A set that "
               "no node uses is closed when no client is connected any more.",
        .example = "{\"fdset-id\": 1, \"opaque\": \"rdwr:disk0.img\"}",
        .errors = "No descriptor came with the command; 'fdset-id' is "
                  "negative.",
        .handler = qmp_add_fd,
    },
    {
        .name = "remove-fd",
        .thread = QMP_MANAGEMENT,
        .args = &remove_fd_type,
        .doc = "Close a file descriptor of a set, or all. Nodes that were "
               "opened with it stay as they are.",
        .example = "{\"fdset-id\": 1, \"fd\": 12}",
        .errors = "There is no such set, or no such descriptor in it.",
        .handler = qmp_remove_fd,
    },
    {
        .name = "query-fdsets",
        .thread = QMP_WORKER,
        .ret = &fdset_list_type,
        .doc = "List all sets of file descriptors.",
        .handler = qmp_query_fdsets,
    },
    {
        .name = "getfd",
        .thread = QMP_MANAGEMENT,
        .takes_fd = true,
        .args = &fdname_type,
        .doc = "Give a name to a file descriptor, which comes with the command "
               "(SCM_RIGHTS), for socket addresses of type fd. An earlier one "
               "of that name is closed. All monitors share the names. What is "
               "not used is closed when no client is connected any more.",
        .example = "{\"fdname\": \"nbd-socket\"}",
        .errors = "No descriptor came with the command; the name is empty or "
                  "begins with a digit.",
        .handler = qmp_getfd,
    },
    {
        .name = "closefd",
        .thread = QMP_MANAGEMENT,
        .args = &fdname_type,
        .doc = "Close a file descriptor that getfd named.",
        .example = "{\"fdname\": \"nbd-socket\"}",
        .errors = "There is no descriptor of that name.",
        .handler = qmp_closefd,
    },
    { NULL },
};
