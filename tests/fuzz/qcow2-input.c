/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qcow2-input.h"

#include "block/qcow2.h"

#define HEAD 3
#define MAX_PATCHES 15
#define MAX_PATCH 16
#define STEP 4

/* ---- images ---------------------------------------------------------------- */

static GBytes *load(const char *name)
{
    static GHashTable *loaded;
    g_autofree char *path = g_build_filename(FUZZ_FOLDER, "base", name, NULL);
    g_autoptr(GError) err = NULL;
    GBytes *image;
    char *data;
    gsize size;

    if (!loaded) {
        loaded = g_hash_table_new(g_str_hash, g_str_equal);
    }
    image = g_hash_table_lookup(loaded, name);
    if (!image) {
        fuzz_assert(g_file_get_contents(path, &data, &size, &err), "%s",
                    err->message);
        image = g_bytes_new_take(data, size);
        g_hash_table_insert(loaded, (char *)name, image);
    }
    return image;
}

static const char *choose(const char *const *bases, uint8_t n)
{
    return bases[n % g_strv_length((char **)bases)];
}

void qcow2_input_parse(Qcow2Input *input, const char *const *bases,
                       const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    const uint8_t *base, *bytes;
    unsigned n_patches;
    gsize length;

    *input = (Qcow2Input){ .base = choose(bases, fuzz_u8(&in)) };
    base = g_bytes_get_data(load(input->base), &length);
    input->image = g_byte_array_new();
    g_byte_array_append(input->image, base, length);
    input->flags = fuzz_u8(&in);
    n_patches = fuzz_u8(&in) % (MAX_PATCHES + 1);
    while (n_patches-- > 0) {
        size_t at = fuzz_u16(&in);
        size_t want = fuzz_u8(&in) % MAX_PATCH + 1, n;

        bytes = fuzz_bytes(&in, want, &n);
        if (at < length) {
            memcpy(input->image->data + at, bytes, MIN(n, length - at));
        }
    }
    while (in.left > 0 && input->n_steps < QCOW2_STEPS_MAX) {
        Qcow2Step *step = &input->steps[input->n_steps++];

        step->what = fuzz_u8(&in);
        step->where = fuzz_u8(&in);
        step->length = fuzz_u8(&in);
        step->how = fuzz_u8(&in);
    }
}

void qcow2_input_clear(Qcow2Input *input)
{
    g_byte_array_unref(input->image);
}

/* ---- mutations ------------------------------------------------------------- */

/* Where the steps begin; at most @size */
static size_t steps_at(const uint8_t *data, size_t size)
{
    unsigned n = size < HEAD ? 0 : data[2] % (MAX_PATCHES + 1);
    size_t at = MIN(HEAD, size);

    while (n-- > 0 && at + 3 <= size) {
        at += 3 + data[at + 2] % MAX_PATCH + 1;
    }
    return MIN(at, size);
}

typedef struct Header {
    unsigned cluster_bits;
    uint64_t l1, reftable, snapshots, bitmaps;
    size_t length;
    const uint8_t *image;
} Header;

static void read_header(Header *h, const char *base)
{
    gsize length;
    const uint8_t *image = g_bytes_get_data(load(base), &length);
    size_t at;

    *h = (Header){
        .cluster_bits = qcow2_get_be32(image + 20),
        .l1 = qcow2_get_be64(image + 40),
        .reftable = qcow2_get_be64(image + 48),
        .snapshots = qcow2_get_be64(image + 64),
        .length = length,
        .image = image,
    };
    for (at = 72; at + 24 <= 512 && at + 24 < length; at += 8) {
        if (qcow2_get_be32(image + at) == QCOW2_EXT_BITMAPS) {
            h->bitmaps = qcow2_get_be64(image + at + 24);
        }
    }
}

/* Where something stands that is worth to be changed */
static size_t pick_place(const Header *h, uint64_t *state)
{
    static const uint8_t fields[] = { 4,  8,  16, 20,  24,  28,  32,  36, 40,
                                      48, 56, 60, 64,  72,  79,  80,  87, 88,
                                      95, 96, 99, 100, 104, 112, 120, 128 };
    const uint64_t tables[] = { h->l1, h->reftable, h->snapshots, h->bitmaps };
    uint64_t table = tables[fuzz_random(state, G_N_ELEMENTS(tables))];
    unsigned tries = 64;

    switch (fuzz_random(state, 4)) {
    case 0:
        return fields[fuzz_random(state, G_N_ELEMENTS(fields))];
    case 1:
        if (table > 0 && table < h->length) {
            /* what it refers to, or itself */
            uint64_t entry =
                qcow2_get_be64(h->image + table) & QCOW2_OFFSET_MASK;

            if (entry > 0 && entry < h->length && fuzz_random(state, 2)) {
                table = entry;
            }
            return table + fuzz_random(state, 12) * 8;
        }
        /* fall through */
    case 2:
        /* Entries of tables are not zero, and begin and end with zeroes. */
        while (tries-- > 0) {
            size_t at = fuzz_random(state, h->length / 8) * 8;

            if (at + 8 <= h->length && qcow2_get_be64(h->image + at) &&
                (h->image[at] & 0x3f) == 0) {
                return at;
            }
        }
        /* fall through */
    default:
        return fuzz_random(state, h->length);
    }
}

static uint64_t pick_number(const Header *h, size_t at, uint64_t *state)
{
    uint64_t old =
        at + 8 <= h->length ? qcow2_get_be64(h->image + at) : UINT64_C(0);
    uint64_t cluster = UINT64_C(1) << h->cluster_bits;
    uint64_t last = h->length / cluster;
    uint64_t place = fuzz_random(state, last + 2) * cluster;

    switch (fuzz_random(state, 10)) {
    case 0:
        return old ^ UINT64_C(1) << fuzz_random(state, 64);
    case 1:
        return old + 1 - 2 * fuzz_random(state, 2);
    case 2:
        return old + cluster * (1 - 2 * (uint64_t)fuzz_random(state, 2));
    case 3:
        return place;
    case 4:
        return place | QCOW2_COPIED;
    case 5:
        return place | QCOW2_COMPRESSED | fuzz_random(state, 512);
    case 6:
        return place | QCOW2_ZERO | (fuzz_random(state, 2) ? QCOW2_COPIED : 0);
    case 7:
        return fuzz_random(state, 16);
    case 8:
        return UINT64_C(1) << fuzz_random(state, 64);
    default:
        return ~UINT64_C(0) >> fuzz_random(state, 64);
    }
}

static size_t add_patch(const char *const *bases, uint8_t *data, size_t size,
                        size_t max_size, uint64_t *state)
{
    static const uint8_t widths[] = { 1, 2, 4, 8, 8, 8 };
    unsigned width = widths[fuzz_random(state, G_N_ELEMENTS(widths))];
    uint8_t patch[3 + 8];
    size_t grown, at;
    uint64_t number;
    Header h;

    if (data[2] % (MAX_PATCHES + 1) == MAX_PATCHES) {
        return size;
    }
    read_header(&h, choose(bases, data[0]));
    at = pick_place(&h, state);
    number = pick_number(&h, at, state);
    /* The part of the number that stands there is the upper one, but in fields
     * of 4 bytes. */
    qcow2_put_be64(patch + 3, width < 8 ? number << (64 - 8 * width) : number);
    patch[0] = at >> 8;
    patch[1] = at;
    patch[2] = width - 1;
    grown = fuzz_insert(data, size, max_size, steps_at(data, size), patch,
                        3 + width);
    if (grown > size) {
        data[2] = data[2] % (MAX_PATCHES + 1) + 1;
    }
    return grown;
}

/* The last one, as the others need not be found */
static size_t drop_patch(uint8_t *data, size_t size, uint64_t *state)
{
    unsigned n = data[2] % (MAX_PATCHES + 1);
    size_t at = HEAD, skip;

    if (n == 0) {
        return size;
    }
    for (skip = fuzz_random(state, n); skip > 0 && at + 3 <= size; skip--) {
        at += 3 + data[at + 2] % MAX_PATCH + 1;
    }
    if (at + 3 > size) {
        return size;
    }
    data[2] = n - 1;
    return fuzz_remove(data, size, at, 3 + data[at + 2] % MAX_PATCH + 1);
}

static size_t change_steps(unsigned n_whats, uint8_t *data, size_t size,
                           size_t max_size, uint64_t *state)
{
    size_t first = steps_at(data, size);
    unsigned n = (size - first) / STEP;
    size_t at = first + fuzz_random(state, n + 1) * STEP;
    uint8_t step[STEP];
    int i;

    for (i = 0; i < STEP; i++) {
        step[i] = fuzz_random(state, 256);
    }
    step[0] %= n_whats;
    switch (n == 0 ? 0 : fuzz_random(state, 5)) {
    case 0:
    case 1:
        return n < QCOW2_STEPS_MAX
                   ? fuzz_insert(data, size, max_size, at, step, STEP)
                   : size;
    case 2:
        return fuzz_remove(data, size, at, STEP);
    case 3:
        /* another one, once more */
        memcpy(step, data + first + fuzz_random(state, n) * STEP, STEP);
        return n < QCOW2_STEPS_MAX
                   ? fuzz_insert(data, size, max_size, at, step, STEP)
                   : size;
    default:
        at = first + fuzz_random(state, n) * STEP;
        i = fuzz_random(state, STEP);
        data[at + i] = step[i];
        return size;
    }
}

size_t qcow2_input_mutate(const char *const *bases, unsigned n_whats,
                          uint8_t *data, size_t size, size_t max_size,
                          unsigned seed)
{
    uint64_t state = seed;

    if (max_size < HEAD + STEP) {
        return size;
    }
    while (size < HEAD) {
        data[size++] = 0;
    }
    switch (fuzz_random(&state, 16)) {
    case 0:
        data[0] = fuzz_random(&state, g_strv_length((char **)bases));
        return size;
    case 1:
        data[1] ^= 1 << fuzz_random(&state, 8);
        return size;
    case 2:
        return LLVMFuzzerMutate(data, size, max_size);
    case 3:
        return drop_patch(data, size, &state);
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
        return add_patch(bases, data, size, max_size, &state);
    default:
        return change_steps(n_whats, data, size, max_size, &state);
    }
}
