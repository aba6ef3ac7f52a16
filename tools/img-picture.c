/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The cells of a picture of a disk */
#include <inttypes.h>

#include "tools/img-picture.h"

const char *const picture_names[PICTURE_STATES] = {
    "data", "data, 1 below", "data, 2 or more below",
    "zero", "zero, 1 below", "zero, 2 or more below",
    "hole", "unknown",
};

/* Where @cell begins, bytes from the start */
static int64_t cell_start(const Picture *p, int cell)
{
    return (__int128)p->length * cell / p->n_cells;
}

static int cell_of(const Picture *p, int64_t offset)
{
    int cell = (__int128)offset * p->n_cells / p->length;

    while (cell > 0 && cell_start(p, cell) > offset) {
        cell--;
    }
    while (cell_start(p, cell + 1) <= offset) {
        cell++;
    }
    return cell;
}

Picture *picture_new(const char *title, int64_t start, int64_t length,
                     int columns, int rows)
{
    Picture *p = g_new0(Picture, 1);

    g_assert(start >= 0 && length >= 0 && columns > 0 && rows > 0);
    p->title = g_strdup(title);
    p->start = start;
    p->length = length;
    p->columns = columns;
    p->n_cells = MIN((int64_t)columns * rows, length);
    p->cells = g_new0(PictureCell, p->n_cells);
    return p;
}

void picture_free(Picture *p)
{
    g_free(p->title);
    g_free(p->cells);
    g_free(p);
}

void picture_add(Picture *p, int64_t offset, int64_t length, PictureState state)
{
    int64_t end = MIN(offset + length - p->start, p->length);
    int64_t pos = MAX(offset - p->start, 0);
    int cell;

    if (pos >= end) {
        return;
    }
    p->totals[state] += end - pos;
    for (cell = cell_of(p, pos); pos < end; cell++) {
        int64_t next = MIN(cell_start(p, cell + 1), end);

        p->cells[cell].bytes[state] += next - pos;
        pos = next;
    }
}

int64_t picture_cell_bytes(const Picture *p, int cell)
{
    return cell_start(p, cell + 1) - cell_start(p, cell);
}

char *picture_percent(int64_t part, int64_t all)
{
    double percent = all ? 100.0 * part / all : 0;

    if (part > 0 && percent < 0.1) {
        return g_strdup("<0.1 %");
    }
    if (part < all && percent > 99.9) {
        return g_strdup(">99.9 %");
    }
    return g_strdup_printf("%.1f %%", percent);
}

char *picture_scale(const Picture *p)
{
    static const char *const units[] = {
        "bytes", "KiB", "MiB", "GiB", "TiB", "PiB",
    };
    double value = (double)p->length / p->n_cells;
    size_t i = 0;

    /* Three digits are shown, so that 999.5 belongs to the next unit. */
    while (value >= 999.5 && i < G_N_ELEMENTS(units) - 1) {
        value /= 1024;
        i++;
    }
    return g_strdup_printf("Bytes %" PRId64 " to %" PRId64
                           "; a cell is %.3g %s",
                           p->start, p->start + p->length - 1, value, units[i]);
}
