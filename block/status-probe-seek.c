/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Strategy "seek": lseek() with SEEK_DATA and SEEK_HOLE.
 *
 * Here an answer may cost the kernel a walk over the whole file, so it is
 * remembered to its full length, and no question is put twice: where data was
 * seen to begin, only its end is asked for. (Where data ends, a hole begins:
 * the next probe starts with SEEK_DATA there, as any probe does.)
 *
 * SEEK_DATA looks at the mapping first and at the pages later: while writeback
 * ends and pages are reclaimed, it may miss data between the two. A second
 * SEEK_DATA looks at the mapping when the pages of the first one's look are
 * gone, so that a hole is what both say. On tmpfs there are only pages.
 */
#include "block/status-probe-int.h"

#include <errno.h>
#include <unistd.h>

/* Where data begins at or after @offset (q->end: not before that) */
static int64_t find_data(StatusQuestion *q, int64_t offset)
{
    int64_t data = status_question_seek(q, offset, SEEK_DATA);

    if (data > offset && !q->probe->pages_are_truth) {
        int64_t again = status_question_seek(q, offset, SEEK_DATA);

        data = MIN(data, again);
    }
    return MIN(data, q->end);
}

static int learn_hole(StatusQuestion *q, int64_t data)
{
    /* a block with any data is data */
    int64_t end = status_question_floor(q, data);

    q->probe->next_data = data < q->end ? data : -1;
    status_question_learn(q, q->start, end, BLOCK_STATE_ZERO);
    return 0;
}

int status_probe_seek(StatusQuestion *q)
{
    StatusProbe *p = q->probe;
    bool known =
        p->next_data >= 0 && status_question_floor(q, p->next_data) == q->start;
    int64_t data, hole;

    data = known ? p->next_data : find_data(q, q->start);
    if (data < 0) {
        return data;
    }
    if (status_question_floor(q, data) > q->start) {
        return learn_hole(q, data);
    }
    p->next_data = -1;
    hole = status_question_seek(q, data, SEEK_HOLE);
    if (hole < 0) {
        return hole;
    }
    if (hole == data || hole == INT64_MAX) {
        /* punched or cut off since; what is there now, the next one may ask */
        hole = q->start + 1;
    }
    hole = MIN(hole, q->end);
    status_question_learn(q, q->start, status_question_ceil(q, hole),
                          BLOCK_STATE_DATA);
    return 0;
}
