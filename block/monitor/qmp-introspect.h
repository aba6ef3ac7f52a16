/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tables as query-qmp-schema shows them. */
#ifndef MONITOR_QMP_INTROSPECT_H
#define MONITOR_QMP_INTROSPECT_H

#include <json-glib/json-glib.h>

#include "monitor/qmp.h"

/* An array of SchemaInfo: commands and events first, then each type they use,
 * once. */
JsonArray *qmp_introspect(const QmpCommand *const *commands,
                          const QmpEvent *const *events);

extern const SchemaType schema_info_list_type;

#endif
