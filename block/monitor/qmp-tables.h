/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tables of commands and events: one a subject. */
#ifndef MONITOR_QMP_TABLES_H
#define MONITOR_QMP_TABLES_H

#include "monitor/qmp.h"

extern const QmpCommand qmp_backup_commands[];
extern const QmpCommand qmp_block_commands[];
extern const QmpCommand qmp_bitmap_commands[];
extern const QmpCommand qmp_commit_commands[];
extern const QmpCommand qmp_control_commands[];
extern const QmpCommand qmp_export_commands[];
extern const QmpCommand qmp_fd_commands[];
extern const QmpCommand qmp_job_commands[];
extern const QmpCommand qmp_mirror_commands[];
extern const QmpCommand qmp_object_commands[];
extern const QmpCommand qmp_query_block_commands[];
extern const QmpCommand qmp_snapshot_commands[];
extern const QmpCommand qmp_status_cache_commands[];
extern const QmpCommand qmp_transaction_commands[];

extern const QmpEvent qmp_block_events[];
extern const QmpEvent qmp_export_events[];
extern const QmpEvent qmp_job_events[];
extern const QmpEvent qmp_status_cache_events[];

#endif
