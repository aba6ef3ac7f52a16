/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A status cache as QMP shows it. query-blockstats and
 * query-block-status-cache both show what is made here.
 */
#ifndef BLOCK_STATUS_JSON_H
#define BLOCK_STATUS_JSON_H

#include <json-glib/json-glib.h>

#include "block/status-cache.h"
#include "block/status-probe.h"
#include "util/schema.h"

/* StatusCacheMode's values, in its order, as in option status-cache */
extern const SchemaType status_cache_mode_type;

/* What status_cache_to_json() makes */
extern const SchemaType block_status_cache_stats_type;
/* The same with a member "node-name" */
extern const SchemaType block_status_cache_info_type;

/*
 * Counters and state of @cache; @probe is what fills it, NULL if nothing does.
 * Any thread; short locks only.
 */
JsonObject *status_cache_to_json(StatusCache *cache, StatusProbe *probe);

#endif
