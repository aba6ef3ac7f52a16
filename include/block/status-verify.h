/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The job "status-cache-verify": is what a status cache calls zero really zero?
 */
#ifndef BLOCK_STATUS_VERIFY_H
#define BLOCK_STATUS_VERIFY_H

#include "block/job.h"

/*
 * Start it for the cache that answers for node @node_name. Management thread, graph
 * mutex held. False and @errp if there is no such node, it has no cache, or one that
 * is distrusted, or the job's options are wrong.
 */
bool status_verify_start(const char *node_name, const JobOptions *options,
                         GError **errp);

#endif
