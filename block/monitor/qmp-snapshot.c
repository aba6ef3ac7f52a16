/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QMP: blockdev-snapshot, which is an action of transactions, too */
#include "qmp-nodes.h"
#include "qmp-tables.h"
#include "qmp-transaction.h"

static const SchemaType blockdev_snapshot_type = {
    .name = "BlockdevSnapshot",
    .kind = SCHEMA_OBJECT,
    .members =
        (const SchemaMember[]){
            { "node", &schema_str,
              .doc = "The node that becomes the backing file." },
            { "overlay", &schema_str,
              .doc = "The node that is put on it. It was added with "
                     "\"backing\": null, or its image names no backing "
                     "file." },
            { NULL },
        },
};

typedef struct SnapshotAction {
    BdrvSnapshot *snapshot;
} SnapshotAction;

static bool snapshot_prepare(TransactionAction *a, JsonObject *data,
                             GError **errp)
{
    SnapshotAction *s = transaction_opaque(a);
    AUTO_NODE bs = bdrv_find_node(schema_get_str(data, "node", NULL), errp);
    AUTO_NODE overlay =
        bs ? bdrv_find_node(schema_get_str(data, "overlay", NULL), errp) : NULL;

    if (!overlay || !transaction_drain(a, bs, errp)) {
        return false;
    }
    s->snapshot = bdrv_snapshot_prepare(bs, overlay, errp);
    return s->snapshot != NULL;
}

static void snapshot_commit(TransactionAction *a)
{
    SnapshotAction *s = transaction_opaque(a);

    bdrv_snapshot_commit(s->snapshot);
}

static void snapshot_abort(TransactionAction *a)
{
    SnapshotAction *s = transaction_opaque(a);

    bdrv_snapshot_abort(s->snapshot);
}

const TransactionActionDriver snapshot_actions[] = {
    {
        .type = "blockdev-snapshot",
        .args = &blockdev_snapshot_type,
        .instance_size = sizeof(SnapshotAction),
        .prepare = snapshot_prepare,
        .commit = snapshot_commit,
        .abort = snapshot_abort,
    },
    { NULL },
};

static JsonNode *qmp_blockdev_snapshot(JsonObject *args, GError **errp)
{
    transaction_run_one(&snapshot_actions[0], args, errp);
    return NULL;
}

const QmpCommand qmp_snapshot_commands[] = {
    {
        .name = "blockdev-snapshot",
        .thread = QMP_MANAGEMENT,
        .args = &blockdev_snapshot_type,
        .doc =
            "Put an overlay on a node: all that use the node, exports too, go "
            "on with the overlay, and what they write goes there; the node "
            "stays as it is. The overlay's image is not told what its backing "
            "file is: it was, when it was created, or has to be told when it "
            "is opened.",
        .example = "{\"node\": \"disk0\", \"overlay\": \"overlay0\"}",
        .errors =
            "There is no such node; the overlay is in use, has a backing file, "
            "or is of a format that cannot have one; the node is a backing "
            "file already, or a job uses it; the overlay is read-only and the "
            "node's users write; what was written cannot be flushed; a request "
            "does not end in 10 seconds.",
        .handler = qmp_blockdev_snapshot,
    },
    { NULL },
};
