/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All that the monitors offer: one table a subject */
#include "qmp-tables.h"

/* clang-format off */
const QmpCommand *const qmp_command_tables[] = {
    qmp_control_commands,
    qmp_block_commands,
    qmp_bitmap_commands,
    qmp_snapshot_commands,
    qmp_transaction_commands,
    qmp_query_block_commands,
    qmp_status_cache_commands,
    qmp_export_commands,
    qmp_backup_commands,
    qmp_mirror_commands,
    qmp_commit_commands,
    qmp_job_commands,
    qmp_object_commands,
    qmp_fd_commands,
    NULL,
};
/* clang-format on */

const QmpEvent *const qmp_event_tables[] = {
    qmp_block_events,
    qmp_export_events,
    qmp_job_events,
    qmp_status_cache_events,
    NULL,
};
