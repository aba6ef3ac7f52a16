/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Strategy "fiemap": windows of a bounded number of extents.
 *
 * A mapped extent that is not unwritten is data, delayed allocation included.
 * All else (a gap, here: nothing mapped, or unwritten) may still have data in
 * the page cache that the mapping does not know of, so that a gap is called
 * zero only where a look for pages came before the look at the mapping
 * (status-probe-look.c), and data where there are pages.
 *
 * In which order this costs least depends on the file, and files differ:
 *
 *   fully written: the mapping alone. No gap, no look for pages.
 *   gaps without pages: a window is looked at for pages first, then its
 *     mapping is read. Each extent is visited once.
 *   gaps among pages: the mapping is read to know where the gaps are, each is
 *     looked at for pages, then the mapping is read again.
 *
 * A probe begins with what the probes before it met with.
 */
#include "block/status-probe-int.h"

#include <errno.h>
#include <string.h>

/*
 * Extents of a window whose extents all have gaps between them: the kernel
 * visits the gaps as well, and the cache learns twice as many runs.
 */
#define SPARSE_EXTENTS 64
/* Extents of a plan: as many gaps as can be looked at, 0.5 us each */
#define PLAN_EXTENTS 32
#define LOOKS_A_PROBE 32
/* Where nothing is remembered, what lies further on is of no use. */
#define UNCACHED_EXTENTS 16
/* For so many windows gaps are expected after one with gaps. */
#define GAPS_EXPECTED 8

/* ---- the mapping -------------------------------------------------------- */

static void add_run(ProbeMapping *m, int64_t end, bool data)
{
    if (m->n_runs && m->runs[m->n_runs - 1].data == data) {
        m->runs[m->n_runs - 1].end = end;
    } else {
        m->runs[m->n_runs++] = (ProbeRun){ end, data };
    }
    m->gaps |= !data;
}

static void expect_gaps(StatusProbe *p, bool seen)
{
    if (seen) {
        p->gaps = GAPS_EXPECTED;
    } else if (p->gaps) {
        p->gaps--;
    }
}

static int fiemap(StatusQuestion *q, int64_t start, int64_t end, int count)
{
    StatusProbe *p = q->probe;
    struct fiemap *f = p->fiemap;
    int r;

    memset(f, 0, sizeof(*f));
    f->fm_start = start;
    f->fm_length = end - start;
    f->fm_extent_count = count;
    q->delta.probe_calls[STATUS_PROBE_FIEMAP]++;
    do {
        r = p->ops->fiemap(p->fd, f);
    } while (r < 0 && errno == EINTR);
    if (r < 0) {
        switch (errno) {
        case EBADR:
        case EINVAL:
        case ENOSYS:
        case ENOTTY:
        case EOPNOTSUPP:
            return -ENOTSUP;
        default:
            return -errno;
        }
    }
    if (f->fm_mapped_extents > (uint32_t)count) {
        return -EIO;
    }
    q->delta.extents += f->fm_mapped_extents;
    return 0;
}

/* Where @e ends, but not behind @end */
static int64_t extent_end(const struct fiemap_extent *e, int64_t end)
{
    if (e->fe_length > (uint64_t)end || e->fe_logical > end - e->fe_length) {
        return end;
    }
    return e->fe_logical + e->fe_length;
}

/* Add @e to the mapping that reaches up to @m->end. Blocks with data are data. */
static void add_extent(StatusQuestion *q, ProbeMapping *m,
                       const struct fiemap_extent *e, int64_t end)
{
    int64_t from, to = extent_end(e, end);

    if ((e->fe_flags & FIEMAP_EXTENT_UNWRITTEN) || to <= m->end) {
        return;
    }
    from = status_question_floor(q, MIN(e->fe_logical, (uint64_t)end));
    if (from > m->end) {
        add_run(m, from, false);
    }
    m->end = status_question_ceil(q, to);
    add_run(m, m->end, true);
}

/*
 * Read the mapping from @start, as far as @count extents reach, to @end at
 * most, into the probe's mapping.
 */
static int read_mapping(StatusQuestion *q, int64_t start, int64_t end,
                        int count)
{
    const struct fiemap *f = q->probe->fiemap;
    ProbeMapping *m = &q->probe->mapping;
    int64_t seen = start;
    uint32_t i;
    int r = fiemap(q, start, end, count);

    if (r < 0) {
        return r;
    }
    m->start = m->end = start;
    m->n_runs = 0;
    m->gaps = false;
    for (i = 0; i < f->fm_mapped_extents; i++) {
        seen = MAX(seen, extent_end(&f->fm_extents[i], end));
        add_extent(q, m, &f->fm_extents[i], end);
    }
    if (f->fm_mapped_extents < (uint32_t)count) {
        seen = end;
    } else if (seen <= start) {
        return -EIO; /* they went backwards */
    }
    seen = seen < end ? status_question_floor(q, seen) : end;
    if (seen > m->end) {
        add_run(m, seen, false);
        m->end = seen;
    }
    if (m->end == start) {
        /* Not even one block: what cannot be seen at once is data. */
        m->end = status_question_ceil(q, start + 1);
        add_run(m, m->end, true);
    }
    q->probe->max_extents = m->n_runs > (int)f->fm_mapped_extents / 2
                                ? SPARSE_EXTENTS
                                : PROBE_MAX_EXTENTS;
    expect_gaps(q->probe, m->gaps);
    return 0;
}

/* ---- probes ------------------------------------------------------------- */

/*
 * A gap is zero where there were no pages when the mapping was read. @look is
 * the first look that may matter.
 */
static void learn_gap(StatusQuestion *q, int64_t start, int64_t end, int *look,
                      bool looked_all)
{
    const ProbeLooks *looks = &q->probe->looks;
    int64_t next, until;

    while (start < end) {
        while (*look < looks->n && looks->at[*look].end <= start) {
            ++*look;
        }
        next = *look < looks->n ? looks->at[*look].start : end;
        if (next > start) {
            until = MIN(next, end);
            if (looked_all) {
                status_question_learn(q, start, until, BLOCK_STATE_DATA);
            }
        } else {
            until = MIN(looks->at[*look].end, end);
            status_question_learn(q, start, until, BLOCK_STATE_ZERO);
        }
        start = until;
    }
}

/*
 * @looked_all: pages were looked for in all gaps, and where no look is noted,
 * there were some. Otherwise such parts stay unknown.
 */
static void learn_mapping(StatusQuestion *q, bool looked_all)
{
    const ProbeMapping *m = &q->probe->mapping;
    int64_t start = m->start;
    int look = 0, i;

    for (i = 0; i < m->n_runs; i++) {
        const ProbeRun *run = &m->runs[i];

        if (run->data) {
            status_question_learn(q, start, run->end, BLOCK_STATE_DATA);
        } else {
            learn_gap(q, start, run->end, &look, looked_all);
        }
        start = run->end;
    }
}

/*
 * The mapping has been read; look for pages in its gaps. Stores in *@done how
 * far that came.
 */
static int look_at_gaps(StatusQuestion *q, int64_t *done)
{
    StatusProbe *p = q->probe;
    const ProbeMapping *m = &p->mapping;
    int64_t start = m->start;
    int calls = LOOKS_A_PROBE;
    int i, r;

    for (i = 0; i < m->n_runs; start = m->runs[i++].end) {
        int64_t end = m->runs[i].end;

        if (m->runs[i].data) {
            continue;
        }
        start = status_probe_looked_until(p, start);
        if (start >= end) {
            continue;
        }
        if (calls <= 0) {
            *done = start;
            return 0;
        }
        if (i < m->n_runs - 1) {
            r = status_probe_look_seek(q, start, end, &calls, done);
        } else {
            r = status_probe_look(q, start, end, &calls, done);
        }
        if (r < 0) {
            return r;
        }
        if (*done < end) {
            return 0;
        }
    }
    *done = m->end;
    return 0;
}

/* Mapping, pages in its gaps, mapping. */
static int probe_with_plan(StatusQuestion *q, int count)
{
    StatusProbe *p = q->probe;
    const ProbeMapping *m = &p->mapping;
    bool expected = p->gaps > 0;
    int64_t gap, end;
    int r;

    r = read_mapping(q, q->start, q->end,
                     expected ? MIN(count, PLAN_EXTENTS) : count);
    if (r < 0) {
        return r;
    }
    if (m->gaps) {
        gap = m->runs[0].data ? m->runs[0].end : m->start;
        end = m->end;
        /* the first gap for long: perhaps there are no pages in any */
        if (expected || !status_probe_look_at(q, gap, end)) {
            r = look_at_gaps(q, &end);
            if (r < 0) {
                return r;
            }
        }
        end = MIN(status_probe_looked_until(p, end), q->end);
        r = read_mapping(q, gap, end, MIN(count, PLAN_EXTENTS));
        if (r < 0) {
            return r;
        }
        status_question_learn(q, q->start, gap, BLOCK_STATE_DATA);
    }
    learn_mapping(q, true);
    return 0;
}

/* Where the looks end that @q->start is in, over what lies known in between */
static int64_t looks_end(const StatusQuestion *q)
{
    const ProbeLooks *looks = &q->probe->looks;
    int64_t end = q->start;
    int i;

    for (i = 0; i < looks->n; i++) {
        if (looks->at[i].start > end + PROBE_ISLAND) {
            break;
        }
        end = MAX(end, looks->at[i].end);
    }
    return end;
}

int status_probe_fiemap(StatusQuestion *q)
{
    StatusProbe *p = q->probe;
    int count = q->mode == STATUS_CACHE_OFF ? UNCACHED_EXTENTS : p->max_extents;
    uint64_t cached;
    int r;

    p->looks.n = 0;
    status_probe_load_looks(q);
    if (p->gaps && status_probe_looked_until(p, q->start) == q->start) {
        status_probe_look_window(q, q->start, q->end, &cached);
    }
    if (status_probe_looked_until(p, q->start) == q->start) {
        return probe_with_plan(q, count);
    }
    r = read_mapping(q, q->start, looks_end(q), count);
    if (r < 0) {
        return r;
    }
    learn_mapping(q, false);
    return 0;
}
