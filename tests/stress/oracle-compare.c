/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The shadow of a disk: comparing what is said about it, read from it, and there
 * when nothing is going on.
 */
#include <glib.h>
#include <string.h>

#include "oracle-shadow-int.h"

/* ---- claims ------------------------------------------------------------- */

int64_t shadow_claim_zero(Shadow *s, uint32_t since, int64_t offset,
                          int64_t bytes)
{
    int64_t unit, end = end_unit(s, offset, bytes);
    MUTEX_GUARD(&s->lock);

    for (unit = first_unit(offset); unit < end; unit++) {
        /* wraps around for 0 */
        if (G_UNLIKELY(s->nonzero_since[unit] - 1 < since)) {
            return MAX(unit * UNIT, offset);
        }
    }
    return -1;
}

static bool data_in_flight(Shadow *s, int64_t offset, int64_t bytes)
{
    int i;

    for (i = 0; i < MAX_THREADS; i++) {
        if (s->is_active[i] && s->active[i].effect == EFFECT_DATA &&
            record_overlaps(&s->active[i], offset, bytes)) {
            return true;
        }
    }
    return false;
}

int64_t shadow_claim_read(Shadow *s, uint32_t since, int64_t offset,
                          int64_t bytes, const void *buf, int64_t *checked)
{
    int64_t pos, next, i, end = MIN(offset + bytes, s->length);
    const char *p = buf;
    bool busy;
    MUTEX_GUARD(&s->lock);

    *checked = 0;
    busy = data_in_flight(s, offset, bytes);
    for (pos = offset; pos < end; pos = next) {
        next = MIN(pos - pos % UNIT + UNIT, end);
        if (s->data_until[pos / UNIT] > since ||
            (busy && data_in_flight(s, pos - pos % UNIT, UNIT))) {
            continue;
        }
        ++*checked;
        for (i = pos; i < next; i++) {
            if (p[i - offset]) {
                return i;
            }
        }
    }
    return -1;
}

/* ---- reads -------------------------------------------------------------- */

void shadow_read_begin(Shadow *s, ShadowRead *r, int64_t offset, int64_t bytes)
{
    int64_t first = first_unit(offset), n;
    int i;
    MUTEX_GUARD(&s->lock);

    n = end_unit(s, offset, bytes) - first;
    if (n > r->room) {
        g_free(r->before);
        r->before = g_new(UnitSet, n);
        r->room = n;
    }
    memcpy(r->before, s->sets + first, n * sizeof(UnitSet));
    r->since = s->now;
    r->offset = offset;
    r->bytes = bytes;
    r->n_ops = 0;
    r->vague = false;
    for (i = 0; i < MAX_THREADS; i++) {
        if (s->is_active[i] && record_overlaps(&s->active[i], offset, bytes)) {
            r->ops[r->n_ops++] = s->active[i];
        }
    }
}

/* Add what began since. Lock held */
static void collect_ops(Shadow *s, ShadowRead *r)
{
    uint64_t number = s->log.n;

    while (number-- > 0) {
        const Record *op = log_get(&s->log, number);

        if (!op) {
            r->vague = true;
            return;
        }
        if (op->effect == EFFECT_NONE) {
            continue;
        }
        if (op->begin <= r->since) {
            return;
        }
        if (record_overlaps(op, r->offset, r->bytes)) {
            if (r->n_ops == LOG_WINDOW) {
                r->vague = true;
                return;
            }
            r->ops[r->n_ops++] = *op;
        }
    }
}

#define MAX_ALLOWED (SET_VALUES + LOG_WINDOW)

/* The values that the unit may have been read with; 0: any */
static int allowed_values(const ShadowRead *r, const UnitSet *before,
                          int64_t unit, Value values[MAX_ALLOWED])
{
    int i, n = 0;

    for (i = 0; i < (int)before->n; i++) {
        if (before->value[i] == VALUE_ANY) {
            return 0;
        }
        values[n++] = before->value[i];
    }
    for (i = 0; i < r->n_ops; i++) {
        if (!record_overlaps(&r->ops[i], unit * UNIT, UNIT)) {
            continue;
        }
        if (!record_covers_unit(&r->ops[i], unit)) {
            return 0;
        }
        values[n++] = r->ops[i].value;
    }
    return n;
}

/* A byte of [@from, @to) of the unit that is none of the values', or -1 */
static int64_t compare_unit(const Shadow *s, int64_t unit, int from, int to,
                            const char *bytes, const Value *values, int n)
{
    uint64_t words[WORDS];
    bool fits[UNIT] = { 0 };
    int i, j;

    for (i = 0; i < n; i++) {
        shadow_pattern(s, values[i], unit, words);
        if (!memcmp((char *)words + from, bytes, to - from)) {
            return -1;
        }
        for (j = from; j < to; j++) {
            fits[j] |= ((char *)words)[j] == bytes[j - from];
        }
    }
    /* Reads and writes that meet may leave a piece of each. */
    for (j = from; j < to; j++) {
        if (!fits[j]) {
            return unit * UNIT + j;
        }
    }
    return -1;
}

/* Is @op still in flight, and has nothing but what it overwrites been zero? */
static bool is_newest(Shadow *s, const Record *op, int64_t unit)
{
    const UnitSet *set = &s->sets[unit];
    uint32_t i;
    int t;

    for (i = 0; i < set->n; i++) {
        if ((set->value[i] == VALUE_ZERO || set->value[i] >= VALUE_LAST) &&
            set->stamp[i] >= op->begin) {
            return false;
        }
    }
    for (t = 0; t < MAX_THREADS; t++) {
        const Record *other = &s->active[t];

        if (s->is_active[t] && other->number != op->number &&
            record_overlaps(other, unit * UNIT, UNIT)) {
            return false;
        }
    }
    return s->is_active[op->thread] &&
           s->active[op->thread].number == op->number;
}

/*
 * What a write in flight put there was read: from now on it is there for everybody,
 * and nobody may be told what was there before. Lock held
 */
static void note_seen(Shadow *s, const ShadowRead *r, const Record *op,
                      const char *buf)
{
    int64_t start = MAX(r->offset, op->offset);
    int64_t end = MIN(r->offset + r->bytes, op->offset + op->bytes);
    int64_t unit = (start + UNIT - 1) / UNIT;
    uint64_t words[WORDS];
    uint32_t stamp = 0;

    for (; (unit + 1) * UNIT <= end; unit++) {
        if (s->nonzero_since[unit] == 0 && is_newest(s, op, unit)) {
            shadow_pattern(s, op->value, unit, words);
            if (!memcmp(words, buf + (unit * UNIT - r->offset), UNIT)) {
                stamp = stamp ? stamp : shadow_tick(s);
                s->nonzero_since[unit] = stamp;
            }
        }
    }
}

int64_t shadow_read_end(Shadow *s, ShadowRead *r, const void *buf,
                        int64_t *checked)
{
    int64_t end = r->offset + r->bytes, pos, next, bad = -1;
    Value values[MAX_ALLOWED];
    int n;

    *checked = 0;
    mutex_lock(&s->lock);
    collect_ops(s, r);
    for (n = 0; n < r->n_ops; n++) {
        if (r->ops[n].effect == EFFECT_DATA) {
            note_seen(s, r, &r->ops[n], buf);
        }
    }
    mutex_unlock(&s->lock);
    if (r->vague) {
        return -1;
    }
    for (pos = r->offset; pos < end && bad < 0; pos = next) {
        int64_t unit = pos / UNIT;

        next = MIN(unit * UNIT + UNIT, end);
        n = allowed_values(r, &r->before[unit - first_unit(r->offset)], unit,
                           values);
        if (n > 0) {
            ++*checked;
            bad =
                compare_unit(s, unit, pos - unit * UNIT, next - unit * UNIT,
                             (const char *)buf + (pos - r->offset), values, n);
        }
    }
    return bad;
}

void shadow_read_free(ShadowRead *r)
{
    g_clear_pointer(&r->before, g_free);
    r->room = 0;
}

/* ---- while nothing is in flight ----------------------------------------- */

/* Lock held */
static void set_one(Shadow *s, int64_t unit, Value value, bool nonzero)
{
    s->sets[unit] = (UnitSet){ 1, { value }, { s->now } };
    s->nonzero_since[unit] = nonzero ? s->now : 0;
}

void shadow_set(Shadow *s, int64_t offset, int64_t bytes, Value value)
{
    int64_t unit;
    MUTEX_GUARD(&s->lock);

    g_assert(offset % UNIT == 0 && bytes % UNIT == 0);
    shadow_tick(s);
    for (unit = offset / UNIT; unit < (offset + bytes) / UNIT; unit++) {
        set_one(s, unit, value, value != VALUE_ZERO);
    }
}

static void settle_unit(Shadow *s, int64_t unit, const char *bytes, int n)
{
    UnitSet *set = &s->sets[unit];
    uint64_t words[WORDS];
    char whole[UNIT] = { 0 };
    uint32_t i;

    if (set->n == 1 && set->value[0] != VALUE_ANY) {
        if (s->nonzero_since[unit] == 0 && set->value[0] < VALUE_LAST &&
            set->value[0] != VALUE_ZERO) {
            s->nonzero_since[unit] = s->now;
        }
        return;
    }
    memcpy(whole, bytes, n);
    for (i = 0; i < set->n; i++) {
        if (set->value[i] != VALUE_ANY) {
            shadow_pattern(s, set->value[i], unit, words);
            if (!memcmp(words, whole, UNIT)) {
                set_one(s, unit, set->value[i],
                        set->value[i] != VALUE_ZERO &&
                            set->value[i] != VALUE_LITERAL);
                return;
            }
        }
    }
    memcpy(s->literal + unit * UNIT, whole, UNIT);
    set_one(s, unit, VALUE_LITERAL, !memchr(whole, 0, UNIT));
}

int64_t shadow_settle(Shadow *s, const void *buf, int64_t length)
{
    static const char zeroes[UNIT];
    int64_t unit, n, bad;
    MUTEX_GUARD(&s->lock);

    shadow_tick(s);
    for (unit = 0; unit < s->units; unit++) {
        const UnitSet *set = &s->sets[unit];
        const char *bytes = (const char *)buf + unit * UNIT;

        n = CLAMP(length - unit * UNIT, 0, UNIT);
        if (n == 0) {
            bytes = zeroes;
        }
        if (!unit_set_has(set, VALUE_ANY)) {
            bad = compare_unit(s, unit, 0, n ? n : UNIT, bytes, set->value,
                               set->n);
            if (bad >= 0) {
                return bad;
            }
        }
        settle_unit(s, unit, bytes, n);
    }
    return -1;
}

int64_t shadow_find_nonzero(Shadow *s, int64_t offset, int64_t bytes)
{
    int64_t pos, next, i, end = MIN(offset + bytes, s->length);
    uint64_t words[WORDS];
    MUTEX_GUARD(&s->lock);

    for (pos = offset; pos < end; pos = next) {
        int64_t unit = pos / UNIT;

        next = MIN(unit * UNIT + UNIT, end);
        if (unit_set_only_zero(&s->sets[unit])) {
            continue;
        }
        shadow_pattern(s, s->sets[unit].value[0], unit, words);
        for (i = pos; i < next; i++) {
            if (((char *)words)[i - unit * UNIT]) {
                return i;
            }
        }
    }
    return -1;
}
