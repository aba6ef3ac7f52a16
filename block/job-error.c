/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a block job does about requests that fail, as its user has chosen. To
 * stop is to pause as if the user had asked for it, so that all that is to be
 * known of pauses holds here, too; the io-status tells the two apart.
 */
#include "block/job-int.h"
#include "monitor/qmp.h"

const char *const job_error_policy_names[] = {
    [JOB_ON_ERROR_REPORT] = "report", [JOB_ON_ERROR_IGNORE] = "ignore",
    [JOB_ON_ERROR_ENOSPC] = "enospc", [JOB_ON_ERROR_STOP] = "stop",
    [JOB_ON_ERROR_AUTO] = "auto",     NULL,
};

const char *const job_error_action_names[] = {
    [JOB_ERROR_IGNORE] = "ignore",
    [JOB_ERROR_REPORT] = "report",
    [JOB_ERROR_STOP] = "stop",
    NULL,
};

const char *const job_io_status_names[] = {
    [JOB_IO_OK] = "ok",
    [JOB_IO_FAILED] = "failed",
    [JOB_IO_NOSPACE] = "nospace",
    NULL,
};

static JobErrorAction action_for(JobErrorPolicy policy, int ret)
{
    switch (policy) {
    case JOB_ON_ERROR_IGNORE:
        return JOB_ERROR_IGNORE;
    case JOB_ON_ERROR_ENOSPC:
    case JOB_ON_ERROR_AUTO:
        return ret == -ENOSPC ? JOB_ERROR_STOP : JOB_ERROR_REPORT;
    case JOB_ON_ERROR_STOP:
        return JOB_ERROR_STOP;
    case JOB_ON_ERROR_REPORT:
        break;
    }
    return JOB_ERROR_REPORT;
}

/* job_mutex held */
static void stop(Job *job, int ret)
{
    job->user_paused = true;
    if (job->io_status == JOB_IO_OK) {
        job->io_status = ret == -ENOSPC ? JOB_IO_NOSPACE : JOB_IO_FAILED;
    }
    job_kick_locked(job);
}

JobErrorAction job_error_action(Job *job, JobErrorPolicy policy, bool is_read,
                                int ret)
{
    JobErrorAction action = action_for(policy, ret);
    JsonObject *data;

    g_assert(ret < 0);
    MUTEX_GUARD(&job_mutex);
    if (job->cancelled) {
        return JOB_ERROR_REPORT;
    }
    data = json_object_new();
    json_object_set_string_member(data, "device", job->id);
    json_object_set_string_member(data, "operation",
                                  is_read ? "read" : "write");
    json_object_set_string_member(data, "action",
                                  job_error_action_names[action]);
    qmp_event_send("BLOCK_JOB_ERROR", data);
    if (action == JOB_ERROR_STOP) {
        stop(job, ret);
    }
    return action;
}
