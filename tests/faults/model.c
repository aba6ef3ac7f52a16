/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "model.h"

#include <string.h>

#include "run.h"
#include "util/iov.h"

#define BIT(value) (UINT64_C(1) << (value))

Model *model_new(int64_t length, int64_t max)
{
    Model *m = g_new0(Model, 1);

    m->max = max;
    m->data = g_malloc0(max);
    m->may = g_new(uint64_t, max);
    m->since = g_new(uint64_t, max);
    m->length = length;
    return m;
}

void model_free(Model *m)
{
    g_free(m->data);
    g_free(m->may);
    g_free(m->since);
    g_free(m);
}

static bool is_doubtful(const Model *m, int64_t offset)
{
    return offset >= m->doubt && offset < m->sure;
}

/* From now on [@offset, @end) is told by m->may. */
static void doubt(Model *m, int64_t offset, int64_t end)
{
    int64_t i;

    if (m->doubt < m->sure) {
        offset = MIN(offset, m->doubt);
        end = MAX(end, m->sure);
    }
    for (i = offset; i < end; i++) {
        if (!is_doubtful(m, i)) {
            m->may[i] = BIT(m->data[i]);
        }
    }
    m->doubt = offset;
    m->sure = end;
}

/* What is written to [@offset, @end) is not stable yet. */
static void loosen(Model *m, int64_t offset, int64_t end, int value)
{
    int64_t from = offset, to = end, i;

    if (m->loose < m->firm) {
        from = MIN(from, m->loose);
        to = MAX(to, m->firm);
    }
    for (i = from; i < to; i++) {
        if (i < m->loose || i >= m->firm) {
            m->since[i] = is_doubtful(m, i) ? m->may[i] : BIT(m->data[i]);
        }
    }
    for (i = offset; i < end; i++) {
        m->since[i] |= BIT(value);
    }
    m->loose = from;
    m->firm = to;
}

void model_flushed(Model *m)
{
    m->loose = m->firm = 0;
}

void model_lose(Model *m)
{
    int64_t i;

    if (m->loose < m->firm) {
        doubt(m, m->loose, m->firm);
        for (i = m->loose; i < m->firm; i++) {
            m->may[i] |= m->since[i];
        }
    }
    model_flushed(m);
}

void model_set(Model *m, int64_t offset, int64_t bytes, int value)
{
    int64_t i;

    g_assert(value < MODEL_VALUES && offset + bytes <= m->max);
    loosen(m, offset, offset + bytes, value);
    memset(m->data + offset, value, bytes);
    if (m->doubt >= offset && m->sure <= offset + bytes) {
        m->doubt = m->sure = 0;
    }
    for (i = MAX(offset, m->doubt); i < MIN(offset + bytes, m->sure); i++) {
        m->may[i] = BIT(value);
    }
}

void model_may(Model *m, int64_t offset, int64_t bytes, int value)
{
    int64_t i;

    g_assert(value < MODEL_VALUES && offset + bytes <= m->max);
    loosen(m, offset, offset + bytes, value);
    doubt(m, offset, offset + bytes);
    for (i = offset; i < offset + bytes; i++) {
        m->may[i] |= BIT(value);
    }
}

void model_resize(Model *m, int64_t length)
{
    int64_t old = m->length;

    m->length = length;
    if (length > old) {
        model_set(m, old, length - old, 0);
    }
}

static void wrong(const Model *m, int64_t at, int byte, const char *who)
{
    run_fail("%s: byte %jd is %d; bits of what it may be: %#jx", who,
             (intmax_t)at, byte,
             (uintmax_t)(is_doubtful(m, at) ? m->may[at] : BIT(m->data[at])));
}

/* [@start, @end), where nothing is doubtful */
static void compare(const Model *m, int64_t start, int64_t end,
                    const uint8_t *data, const char *who)
{
    int64_t i;

    if (start >= end || memcmp(m->data + start, data, end - start) == 0) {
        return;
    }
    for (i = start; m->data[i] == data[i - start]; i++) {
    }
    wrong(m, i, data[i - start], who);
}

void model_check_part(const Model *m, int64_t offset, int64_t bytes,
                      const uint8_t *data, const char *who)
{
    g_assert(m->doubt >= m->sure);
    compare(m, offset, offset + bytes, data, who);
}

void model_check(Model *m, const uint8_t *data, const char *who)
{
    int64_t from = MIN(m->doubt, m->length), to = MIN(m->sure, m->length), i;

    if (from >= to) {
        from = to = m->length;
    }
    compare(m, 0, from, data, who);
    for (i = from; i < to; i++) {
        if (data[i] >= MODEL_VALUES || !(m->may[i] & BIT(data[i]))) {
            wrong(m, i, data[i], who);
        }
        m->data[i] = data[i];
    }
    compare(m, to, m->length, data + to, who);
    m->doubt = m->sure = 0;
}

static bool is_empty(const Model *m, int64_t start, int64_t end)
{
    return start >= end || buffer_is_zero(m->data + start, end - start);
}

bool model_is_zero(const Model *m, int64_t offset, int64_t bytes)
{
    int64_t end = offset + bytes;
    int64_t from = MIN(MAX(offset, m->doubt), end);
    int64_t to = MAX(MIN(end, m->sure), from), i;

    for (i = from; i < to; i++) {
        if (m->may[i] != BIT(0)) {
            return false;
        }
    }
    return is_empty(m, offset, from) && is_empty(m, to, end);
}
