/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2: where the snapshots in an image have their L1 tables */
#include <errno.h>
#include <inttypes.h>

#include "block/qcow2.h"
#include "util/error.h"

#define ENTRY_BYTES 40
#define MAX_EXTRA_BYTES 1024

static int check_l1(const Qcow2State *s, const Qcow2Snapshot *snapshot,
                    uint32_t n, GError **errp)
{
    uint64_t bytes = (uint64_t)snapshot->l1_entries * sizeof(uint64_t);

    if (bytes > QCOW2_MAX_L1_BYTES) {
        error_setg(errp,
                   "L1 table of snapshot %" PRIu32 " too large: %" PRIu32
                   " entries",
                   n, snapshot->l1_entries);
        return -EFBIG;
    }
    if (bytes &&
        (snapshot->l1_offset == 0 || qcow2_in_cluster(s, snapshot->l1_offset) ||
         snapshot->l1_offset > QCOW2_MAX_FILE_BYTES - bytes)) {
        error_setg(errp,
                   "Invalid offset of the L1 table of snapshot %" PRIu32
                   ": %" PRIu64,
                   n, snapshot->l1_offset);
        return -EINVAL;
    }
    return 0;
}

/* The @n-th, at *@offset, which is then where the next is */
static int read_snapshot(Qcow2State *s, uint32_t n, uint64_t *offset,
                         GError **errp)
{
    Qcow2Snapshot snapshot;
    uint8_t entry[ENTRY_BYTES];
    uint32_t id_bytes, name_bytes, extra_bytes;
    int ret = qcow2_read_file(s, *offset, sizeof(entry), entry);

    if (ret < 0) {
        error_setg_errno(errp, -ret,
                         "Could not read snapshot %" PRIu32
                         " at offset %" PRIu64,
                         n, *offset);
        return ret;
    }
    snapshot.l1_offset = qcow2_get_be64(entry);
    snapshot.l1_entries = qcow2_get_be32(entry + 8);
    id_bytes = entry[12] << 8 | entry[13];
    name_bytes = entry[14] << 8 | entry[15];
    extra_bytes = qcow2_get_be32(entry + 36);
    if (extra_bytes > MAX_EXTRA_BYTES) {
        error_setg(errp,
                   "Too much extra data of snapshot %" PRIu32 ": %" PRIu32
                   " bytes",
                   n, extra_bytes);
        return -EFBIG;
    }
    *offset += (ENTRY_BYTES + extra_bytes + id_bytes + name_bytes + 7) & ~7u;
    ret = check_l1(s, &snapshot, n, errp);
    if (ret == 0) {
        g_array_append_val(s->snapshots, snapshot);
    }
    return ret;
}

int qcow2_read_snapshots(Qcow2State *s, GError **errp)
{
    uint64_t offset = s->snapshots_offset;
    uint32_t n;
    int ret = 0;

    if (s->n_snapshots == 0) {
        return 0;
    }
    s->snapshots = g_array_new(false, false, sizeof(Qcow2Snapshot));
    for (n = 0; ret == 0 && n < s->n_snapshots; n++) {
        ret = read_snapshot(s, n, &offset, errp);
    }
    s->snapshots_bytes = offset - s->snapshots_offset;
    return ret;
}
