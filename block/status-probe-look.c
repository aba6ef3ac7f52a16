/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page looks: where does the page cache hold nothing of the file?
 *
 * Data that was written through the page cache is there, or its extent is
 * mapped and no longer unwritten: writeback converts the extent before it lets
 * go of the page. So where a look finds no pages and a *later* look at the
 * mapping finds a gap or an unwritten extent, there is no data. The other
 * order proves nothing. A look stays good until the next write: the cache
 * keeps it (status_cache_set_looked), so that one look may serve many probes.
 *
 * cachestat(2) counts pages in a range. It costs 0.3 us and 3 to 9 ns a page,
 * cached or evicted lately, so that its window is made longer where there are
 * none and shorter where there are many. It needs Linux 6.5 and a file that we
 * may write; where it is refused once, it is not tried again.
 *
 * One SEEK_DATA that answers "a hole up to there" is a page look as well: 0.5 us,
 * but it walks all unwritten extents on its way. It passes over clean pages
 * that readers left over holes. So it is for gaps that have an end close by,
 * for windows that have pages still ahead, and for all without cachestat; what it
 * has seen is noted to its full length, that no extent be walked over twice.
 */
#include "block/status-probe-int.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define MIN_WINDOW (INT64_C(1) << 20)
#define FIRST_WINDOW (INT64_C(4) << 20)
#define MAX_WINDOW (INT64_C(1) << 40)

/*
 * What is called data at a page over an unwritten extent; at each that follows
 * twice as much, for there may be pages all over it
 */
#define MIN_SEEK_STEP (INT64_C(64) << 10)
#define MAX_SEEK_STEP (INT64_C(1) << 20)

/* Pages that a window may come upon; one that meets more was far too long. */
#define MANY_PAGES 1024

/* ---- the list of looks -------------------------------------------------- */

/* Where @start lies is not looked at yet. */
static void add_look(StatusProbe *p, int64_t start, int64_t end)
{
    ProbeLooks *looks = &p->looks;
    int i = looks->n;

    while (i > 0 && looks->at[i - 1].start > start) {
        i--;
    }
    if (i > 0 && looks->at[i - 1].end == start) {
        looks->at[i - 1].end = end;
        return;
    }
    if (looks->n == PROBE_MAX_LOOKS) {
        return; /* it would have been of use, no more */
    }
    memmove(&looks->at[i + 1], &looks->at[i],
            (looks->n - i) * sizeof(looks->at[0]));
    looks->at[i] = (ProbeRange){ start, end };
    looks->n++;
}

int64_t status_probe_looked_until(const StatusProbe *p, int64_t offset)
{
    int i;

    for (i = 0; i < p->looks.n && p->looks.at[i].start <= offset; i++) {
        offset = MAX(offset, p->looks.at[i].end);
    }
    return offset;
}

void status_probe_load_looks(StatusQuestion *q)
{
    int64_t offset = q->start, n;
    int i;

    for (i = 0; i < PROBE_MAX_LOOKS && offset < q->end; i++, offset += n) {
        if (status_cache_has_looked(q->cache, offset, q->end - offset, &n)) {
            add_look(q->probe, offset, offset + n);
        }
    }
}

/* ---- cachestat ---------------------------------------------------------- */

/* False if it is refused; that is for good. */
static bool count_pages(StatusQuestion *q, int64_t start, int64_t end,
                        StatusPages *pages)
{
    StatusProbe *p = q->probe;
    int tried = __atomic_load_n(&p->cachestat, __ATOMIC_RELAXED);
    int now = PROBE_CACHESTAT_WORKS;

    if (tried == PROBE_CACHESTAT_REFUSED) {
        return false;
    }
    q->delta.probe_calls[STATUS_PROBE_CACHESTAT]++;
    if (p->ops->cachestat(p->fd, start, end - start, pages) < 0) {
        now = PROBE_CACHESTAT_REFUSED;
    }
    /* unless status_probe_disable_cachestat() came in between */
    __atomic_compare_exchange_n(&p->cachestat, &tried, now, false,
                                __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return now == PROBE_CACHESTAT_WORKS;
}

static void note_look(StatusQuestion *q, int64_t start, int64_t end)
{
    add_look(q->probe, start, end);
    status_cache_set_looked(q->cache, &q->op, start, end - start);
}

bool status_probe_look_at(StatusQuestion *q, int64_t start, int64_t end)
{
    StatusPages pages;

    if (!count_pages(q, start, end, &pages) || pages.cached) {
        return false;
    }
    note_look(q, start, end);
    return true;
}

int64_t status_probe_look_window(StatusQuestion *q, int64_t start, int64_t end,
                                 uint64_t *cached)
{
    StatusProbe *p = q->probe;
    int64_t window = MAX(p->window ? p->window : FIRST_WINDOW, q->granularity);
    int64_t bytes = MIN(window, end - start);
    StatusPages pages;

    if (!count_pages(q, start, start + bytes, &pages)) {
        return -ENOTSUP;
    }
    if (pages.cached + pages.evicted > MANY_PAGES) {
        p->window = MAX(window / 16, MIN_WINDOW);
    } else if (pages.cached) {
        p->window = MAX(window / 4, MIN_WINDOW);
    } else if (bytes == window) {
        p->window = MIN(window * 2, MAX_WINDOW);
    }
    *cached = pages.cached;
    if (!pages.cached) {
        note_look(q, start, start + bytes);
    }
    return bytes;
}

/* ---- SEEK_DATA ---------------------------------------------------------- */

/*
 * Where the hole at @offset ends. What is seen is noted in the cache up to the
 * end of the disk, not only of this probe: the walk shall not be made again.
 */
static int64_t seek_data(StatusQuestion *q, int64_t offset)
{
    StatusOp op;
    int64_t data;

    status_cache_probe_begin(q->cache, &op, offset, q->length - offset);
    data = status_question_seek(q, offset, SEEK_DATA);
    if (data > offset) {
        data = status_question_floor(q, data);
    }
    if (data > offset) {
        status_cache_set_looked(q->cache, &op, offset, data - offset);
    }
    status_cache_probe_end(q->cache, &op);
    return data;
}

/* As status_probe_look_seek(); at a page call so much data as @first_step. */
static int look_seek(StatusQuestion *q, int64_t start, int64_t end,
                     int64_t first_step, int *calls, int64_t *done)
{
    int64_t step, data;

    first_step = MAX(first_step, q->granularity);
    step = first_step;
    *done = start;
    while (*done < end && (*done == start || *calls > 0)) {
        data = seek_data(q, *done);
        if (data < 0) {
            return data;
        }
        --*calls;
        if (data > *done) {
            data = MIN(data, q->end);
            add_look(q->probe, *done, data);
            *done = data;
            step = first_step;
        } else {
            /* Pages, or by now an extent, and nobody tells how far */
            *done = end - *done > step ? *done + step : end;
            step = MAX(step, MIN(step * 2, MAX_SEEK_STEP));
            /* Behind the last page it would walk on to the end of the file. */
            if (*done < end) {
                status_probe_look_at(q, *done, end);
                --*calls;
            }
        }
        *done = status_probe_looked_until(q->probe, *done);
    }
    *done = MIN(*done, end);
    return 0;
}

int status_probe_look_seek(StatusQuestion *q, int64_t start, int64_t end,
                           int *calls, int64_t *done)
{
    return look_seek(q, start, end, MIN_SEEK_STEP, calls, done);
}

int status_probe_look(StatusQuestion *q, int64_t start, int64_t end, int *calls,
                      int64_t *done)
{
    int64_t page_size = sysconf(_SC_PAGESIZE), step, n;
    uint64_t cached;
    int r;

    *done = start;
    while (*done < end && (*done == start || *calls > 0)) {
        n = status_probe_look_window(q, *done, end, &cached);
        if (n == -ENOTSUP) {
            return status_probe_look_seek(q, *done, end, calls, done);
        }
        --*calls;
        if (cached) {
            step = (int64_t)cached >= n / page_size ? n : MIN_SEEK_STEP;
            r = look_seek(q, *done, *done + n, step, calls, done);
            if (r < 0) {
                return r;
            }
        } else {
            *done += n;
        }
        *done = status_probe_looked_until(q->probe, *done);
    }
    *done = MIN(*done, end);
    return 0;
}
