/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the commands of all kinds of jobs share */
#ifndef MONITOR_QMP_JOBS_H
#define MONITOR_QMP_JOBS_H

#include "block/job.h"
#include "util/schema.h"

extern const SchemaType blockdev_on_error_type; /* values: JobErrorPolicy */

/* Values: BackupSync, of which MirrorSync is the beginning */
extern const SchemaType mirror_sync_mode_type;

/* Of each command that starts a job over a device */
#define QMP_JOB_MEMBERS                                                        \
    { "job-id", &schema_str, .optional = true,                                 \
      .doc = "The job's name: a letter, then letters, digits, \"-\", \".\" "   \
             "and \"_\". Nodes give jobs no name, so it is needed." },         \
        { "speed", &schema_int, .optional = true,                              \
          .doc = "Bytes of data to copy in a second at most; zeroes do not "   \
                 "count "                                                      \
                 "but where the target has to write them. Default: 0, no "     \
                 "limit." },                                                   \
        { "filter-node-name", &schema_str, .optional = true,                   \
          .doc =                                                               \
              "The name of the node that stands between the device and its "   \
              "users while the job runs. Default: generated." },               \
        { "auto-finalize", &schema_bool, .optional = true,                     \
          .doc = "Do not wait for job-finalize. Default: true." },             \
    {                                                                          \
        "auto-dismiss", &schema_bool,                                          \
            .optional = true,                                                  \
            .doc = "Do not wait for job-dismiss. Default: true."               \
    }

/* What they say of any job; its strings are those of @args. */
JobOptions qmp_job_options(JsonObject *args);
/* What member @name of @args, of blockdev_on_error_type, says; default: report */
JobErrorPolicy qmp_on_error(JsonObject *args, const char *name);

#endif
