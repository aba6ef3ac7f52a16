/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/job-workers.h"

#include <glib.h>

int job_workers_start(JobWorkers *w, unsigned n, void *(*run)(void *),
                      JobWorkerOpaque *item, void *opaque)
{
    g_assert(n <= JOB_MAX_WORKERS);
    while (w->n < n) {
        int r =
            pthread_create(&w->threads[w->n], NULL, run, item(opaque, w->n));

        if (r != 0) {
            return w->n > 0 ? 0 : -r;
        }
        w->n++;
    }
    return 0;
}

void job_workers_join(JobWorkers *w)
{
    while (w->n > 0) {
        pthread_join(w->threads[--w->n], NULL);
    }
}
