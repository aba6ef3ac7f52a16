/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Types that the commands of all kinds of jobs share */
#ifndef MONITOR_QMP_JOBS_H
#define MONITOR_QMP_JOBS_H

#include "util/schema.h"

extern const SchemaType blockdev_on_error_type; /* values: JobErrorPolicy */

#endif
