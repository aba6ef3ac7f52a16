/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What oracle-shadow.c (requests) and oracle-compare.c (what is compared) share */
#ifndef TESTS_ORACLE_SHADOW_INT_H
#define TESTS_ORACLE_SHADOW_INT_H

#include "oracle-shadow.h"
#include "util/thread.h"

#define SET_VALUES 4
#define WORDS (UNIT / 8)

/* The values that a unit may have, but for those in flight */
typedef struct UnitSet {
    uint32_t n;
    Value value[SET_VALUES];
    uint32_t stamp[SET_VALUES];
} UnitSet;

struct Shadow {
    int64_t length, units;
    Mutex lock;   /* protects what follows */
    uint32_t now; /* read without the lock, too */
    Value next;   /* atomic */
    UnitSet *sets;
    uint32_t *nonzero_since; /* not zero since then; 0: may be */
    uint32_t *data_until;    /* when the last that wrote data ended */
    uint8_t *literal;        /* of units with VALUE_LITERAL */
    bool is_active[MAX_THREADS];
    Record active[MAX_THREADS]; /* those that may change something */
    Log log;
};

/* Take a stamp. Lock held */
static inline uint32_t shadow_tick(Shadow *s)
{
    g_assert(s->now < UINT32_MAX);
    return __atomic_add_fetch(&s->now, 1, __ATOMIC_SEQ_CST);
}

static inline int64_t first_unit(int64_t offset)
{
    return offset / UNIT;
}

static inline int64_t end_unit(const Shadow *s, int64_t offset, int64_t bytes)
{
    return MIN((offset + bytes + UNIT - 1) / UNIT, s->units);
}

static inline bool record_covers_unit(const Record *r, int64_t unit)
{
    return r->offset <= unit * UNIT &&
           r->offset + r->bytes >= unit * UNIT + UNIT;
}

static inline bool unit_set_has(const UnitSet *set, Value value)
{
    uint32_t i;

    for (i = 0; i < set->n; i++) {
        if (set->value[i] == value) {
            return true;
        }
    }
    return false;
}

static inline bool unit_set_only_zero(const UnitSet *set)
{
    return set->n == 1 && set->value[0] == VALUE_ZERO;
}

/* What the unit looks like with @value */
void shadow_pattern(const Shadow *s, Value value, int64_t unit,
                    uint64_t words[WORDS]);

#endif
