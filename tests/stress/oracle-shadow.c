/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "oracle-shadow-int.h"

#include <glib.h>
#include <inttypes.h>
#include <string.h>

#define REPORT_RANGE INT64_C(4096)
#define REPORT_RECORDS 48

/* ---- patterns ----------------------------------------------------------- */

void shadow_pattern(const Shadow *s, Value value, int64_t unit,
                    uint64_t words[WORDS])
{
    uint64_t x = value * UINT64_C(0x9e3779b97f4a7c15) +
                 unit * UINT64_C(0xc2b2ae3d27d4eb4f);
    int i;

    if (value == VALUE_ZERO) {
        memset(words, 0, UNIT);
        return;
    }
    if (value == VALUE_LITERAL) {
        memcpy(words, s->literal + unit * UNIT, UNIT);
        return;
    }
    for (i = 0; i < WORDS; i++) {
        x ^= x >> 29;
        x *= UINT64_C(0xbf58476d1ce4e5b9);
        /* no byte is zero */
        words[i] = x | UINT64_C(0x0101010101010101);
    }
}

void shadow_fill(const Shadow *s, Value value, int64_t offset, int64_t bytes,
                 void *buf)
{
    uint64_t words[WORDS];
    int64_t pos, next;

    for (pos = offset; pos < offset + bytes; pos = next) {
        next = MIN(pos - pos % UNIT + UNIT, offset + bytes);
        shadow_pattern(s, value, pos / UNIT, words);
        memcpy((char *)buf + (pos - offset), (char *)words + pos % UNIT,
               next - pos);
    }
}

/* ---- sets --------------------------------------------------------------- */

static void set_add(UnitSet *set, Value value, uint32_t stamp)
{
    uint32_t i;

    for (i = 0; i < set->n; i++) {
        if (set->value[i] == value) {
            set->stamp[i] = stamp;
            return;
        }
    }
    if (set->n == SET_VALUES) {
        set->n = 0;
        value = VALUE_ANY;
    }
    set->value[set->n] = value;
    set->stamp[set->n++] = stamp;
}

static void set_remove_before(UnitSet *set, uint32_t stamp)
{
    uint32_t i, n = 0;

    for (i = 0; i < set->n; i++) {
        if (set->stamp[i] >= stamp) {
            set->value[n] = set->value[i];
            set->stamp[n++] = set->stamp[i];
        }
    }
    set->n = n;
}

/* ---- a shadow ----------------------------------------------------------- */

Shadow *shadow_new(int64_t length)
{
    Shadow *s = g_new0(Shadow, 1);
    int64_t i;

    g_assert(length % UNIT == 0);
    s->length = length;
    s->units = length / UNIT;
    s->now = 1;
    s->next = 1;
    s->sets = g_new0(UnitSet, s->units);
    s->nonzero_since = g_new0(uint32_t, s->units);
    s->data_until = g_new0(uint32_t, s->units);
    s->literal = g_malloc0(length);
    for (i = 0; i < s->units; i++) {
        s->sets[i].n = 1; /* zero */
    }
    mutex_init(&s->lock);
    return s;
}

void shadow_free(Shadow *s)
{
    mutex_destroy(&s->lock);
    g_free(s->sets);
    g_free(s->nonzero_since);
    g_free(s->data_until);
    g_free(s->literal);
    g_free(s);
}

int64_t shadow_length(const Shadow *s)
{
    return s->length;
}

Value shadow_new_value(Shadow *s)
{
    Value value = __atomic_fetch_add(&s->next, 1, __ATOMIC_RELAXED);

    g_assert(value < VALUE_LAST);
    return value;
}

uint32_t shadow_now(Shadow *s)
{
    return __atomic_load_n(&s->now, __ATOMIC_SEQ_CST);
}

/* ---- requests ----------------------------------------------------------- */

static bool may_zero(const Record *r)
{
    return r->effect == EFFECT_ZERO || r->effect == EFFECT_MAY_ZERO;
}

void shadow_begin(Shadow *s, int thread, OpKind kind, Effect effect,
                  int64_t offset, int64_t bytes, Value value)
{
    Record *r = &s->active[thread];
    int64_t unit;
    MUTEX_GUARD(&s->lock);

    g_assert(!s->is_active[thread] && offset + bytes <= s->length);
    *r = (Record){
        .number = s->log.n,
        .begin = shadow_tick(s),
        .begin_ns = log_now_ns(),
        .offset = offset,
        .bytes = bytes,
        .value = effect == EFFECT_DATA ? value : VALUE_ZERO,
        .thread = thread,
        .kind = kind,
        .effect = effect,
    };
    *log_add(&s->log) = *r;
    s->is_active[thread] = true;
    if (may_zero(r)) {
        for (unit = first_unit(offset); unit < end_unit(s, offset, bytes);
             unit++) {
            s->nonzero_since[unit] = 0;
        }
    }
}

/* Could somebody else in flight make the unit zero? Lock held */
static bool zero_in_flight(Shadow *s, int64_t unit)
{
    int i;

    for (i = 0; i < MAX_THREADS; i++) {
        if (s->is_active[i] && may_zero(&s->active[i]) &&
            record_overlaps(&s->active[i], unit * UNIT, UNIT)) {
            return true;
        }
    }
    return false;
}

static void end_unit_of(Shadow *s, const Record *r, int64_t unit,
                        Outcome outcome, bool zeroes)
{
    UnitSet *set = &s->sets[unit];
    bool whole = record_covers_unit(r, unit);

    if (outcome == OUTCOME_DONE && whole && r->effect != EFFECT_MAY_ZERO) {
        set_remove_before(set, r->begin);
        set_add(set, r->value, r->end);
    } else if (outcome != OUTCOME_NOTHING) {
        bool still_zero = r->value == VALUE_ZERO && unit_set_only_zero(set);

        set_add(set, whole || still_zero ? r->value : VALUE_ANY, r->end);
    }
    if (r->effect == EFFECT_DATA) {
        s->data_until[unit] = r->end;
    }
    if (s->nonzero_since[unit] == 0 && !unit_set_has(set, VALUE_ZERO) &&
        !unit_set_has(set, VALUE_ANY) && !unit_set_has(set, VALUE_LITERAL) &&
        !(zeroes && zero_in_flight(s, unit))) {
        s->nonzero_since[unit] = r->end;
    }
}

void shadow_end(Shadow *s, int thread, Outcome outcome, int result)
{
    Record *r = &s->active[thread], *logged;
    bool zeroes = false;
    int64_t unit;
    int i;
    MUTEX_GUARD(&s->lock);

    g_assert(s->is_active[thread]);
    s->is_active[thread] = false;
    r->end = shadow_tick(s);
    r->end_ns = log_now_ns();
    r->outcome = outcome;
    r->result = result;
    logged = log_get(&s->log, r->number);
    if (logged) {
        *logged = *r;
    }
    for (i = 0; i < MAX_THREADS; i++) {
        zeroes |= s->is_active[i] && may_zero(&s->active[i]) &&
                  record_overlaps(&s->active[i], r->offset, r->bytes);
    }
    for (unit = first_unit(r->offset); unit < end_unit(s, r->offset, r->bytes);
         unit++) {
        end_unit_of(s, r, unit, outcome, zeroes);
    }
}

void shadow_note(Shadow *s, int thread, OpKind kind, uint32_t since,
                 int64_t offset, int64_t bytes, int result)
{
    Record *r;
    uint64_t number;
    MUTEX_GUARD(&s->lock);

    number = s->log.n;
    r = log_add(&s->log);
    *r = (Record){
        .number = number,
        .begin = since,
        .end = s->now,
        .begin_ns = log_now_ns(),
        .offset = offset,
        .bytes = bytes,
        .result = result,
        .thread = thread,
        .kind = kind,
    };
    r->end_ns = r->begin_ns;
}

/* ---- reports ------------------------------------------------------------- */

void shadow_report(Shadow *s, int64_t offset, FILE *to)
{
    int64_t unit = offset / UNIT;
    const UnitSet *set;
    uint32_t i;
    MUTEX_GUARD(&s->lock);

    if (offset < 0 || unit >= s->units) {
        return;
    }
    set = &s->sets[unit];
    fprintf(to,
            "  byte %" PRId64 ": it is %" PRIu32 " o'clock; data was written "
            "until %" PRIu32 "; not zero since %" PRIu32 " (0: may be); may be",
            offset, s->now, s->data_until[unit], s->nonzero_since[unit]);
    for (i = 0; i < set->n; i++) {
        Value v = set->value[i];

        fprintf(to,
                v == VALUE_ZERO      ? " zero"
                : v == VALUE_ANY     ? " anything"
                : v == VALUE_LITERAL ? " as seen at the last pause"
                                     : " value %" PRIu32,
                v);
        fprintf(to, " of %" PRIu32 "%s", set->stamp[i],
                i + 1 < set->n ? "," : "");
    }
    fprintf(to, ", or what is in flight\n");
    log_print(&s->log, offset - offset % REPORT_RANGE, REPORT_RANGE,
              REPORT_RECORDS, to);
}
