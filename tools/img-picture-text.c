/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A picture of a disk as text: a character a cell, as high as its share of data.
 * In colour the ground is what most of the rest is. A little data is never
 * shown as none, nor much of it as all.
 */
#include <inttypes.h>

#include "tools/img-picture.h"

/* 256-colour numbers, which look alike on black and on white: those of the SVG
 * picture, as nearly as can be */
static const int colours[PICTURE_STATES] = {
    25, 74, 153, 222, 229, 230, 254, 182,
};

#define SIGN_COLOUR 240 /* on the lighter of them */

/* In the legend, and where there is no data */
static const char *const signs[PICTURE_STATES] = {
    [PICTURE_DATA] = "\u2588",   [PICTURE_DATA_1] = "\u2588",
    [PICTURE_DATA_2] = "\u2588", [PICTURE_ZERO] = "\u00b7",
    [PICTURE_ZERO_1] = "\u2236", [PICTURE_ZERO_2] = "\u205d",
    [PICTURE_HOLE] = " ",        [PICTURE_UNKNOWN] = "?",
};

static const char *const blocks[] = {
    "\u2581", "\u2582", "\u2583", "\u2584",
    "\u2585", "\u2586", "\u2587", "\u2588",
};

static PictureState largest(const PictureCell *c, PictureState first,
                            PictureState end)
{
    PictureState found = first, i;

    for (i = first; i < end; i++) {
        if (c->bytes[i] > c->bytes[found]) {
            found = i;
        }
    }
    return found;
}

/* From 1 to 7 eighths where there is something and not all, or 8 */
static int eighths(int64_t part, int64_t all)
{
    return part == all ? 8 : CLAMP((int)((__int128)part * 8 / all), 1, 7);
}

/* @last_front, @last_ground: the colours of the cell before */
static void add_cell(GString *out, const Picture *p, int cell, bool colour,
                     int *last_front, int *last_ground)
{
    const PictureCell *c = &p->cells[cell];
    PictureState data = largest(c, PICTURE_DATA, PICTURE_ZERO);
    PictureState rest = largest(c, PICTURE_ZERO, PICTURE_STATES);
    int64_t bytes = c->bytes[PICTURE_DATA] + c->bytes[PICTURE_DATA_1] +
                    c->bytes[PICTURE_DATA_2];
    int64_t all = picture_cell_bytes(p, cell);

    if (colour) {
        int front = bytes ? colours[data] : SIGN_COLOUR;
        /* Not every font's full block fills its cell. */
        int ground = bytes == all ? front : colours[rest];

        if (cell % p->columns == 0 || front != *last_front ||
            ground != *last_ground) {
            g_string_append_printf(out, "\033[38;5;%d;48;5;%dm", front, ground);
        }
        *last_front = front;
        *last_ground = ground;
    }
    if (bytes) {
        g_string_append(out, blocks[eighths(bytes, all) - 1]);
    } else {
        g_string_append(out, signs[rest]);
    }
}

static void add_legend(GString *out, const Picture *p, PictureState state,
                       bool colour)
{
    g_autofree char *percent = picture_percent(p->totals[state], p->length);
    const char *sign = signs[state];

    if (colour) {
        g_string_append_printf(out, "\033[38;5;%d;48;5;%dm%s\033[0m",
                               state < PICTURE_ZERO ? colours[state]
                                                    : SIGN_COLOUR,
                               colours[state], sign);
    } else {
        g_string_append(out, sign);
    }
    g_string_append_printf(out, " %-22s %20" PRId64 " bytes  %7s\n",
                           picture_names[state], p->totals[state], percent);
}

/* A terminal does what control characters say: names must not have any. */
static char *harmless(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *out = g_string_new("");
    const char *c;

    for (c = valid; *c; c = g_utf8_next_char(c)) {
        gunichar character = g_utf8_get_char(c);

        g_string_append_unichar(out,
                                g_unichar_isprint(character) ? character : '?');
    }
    return g_string_free(out, FALSE);
}

GString *picture_text(const Picture *p, bool colour)
{
    g_autofree char *title = harmless(p->title);
    GString *out = g_string_new(title);
    int i, front = 0, ground = 0;

    g_string_append_c(out, '\n');
    for (i = 0; i < p->n_cells; i++) {
        if (i % p->columns == 0) {
            g_string_append_c(out, '|');
        }
        add_cell(out, p, i, colour, &front, &ground);
        if (i % p->columns == p->columns - 1 || i == p->n_cells - 1) {
            g_string_append(out, colour ? "\033[0m|\n" : "|\n");
        }
    }
    for (i = 0; i < PICTURE_STATES; i++) {
        if (p->totals[i]) {
            add_legend(out, p, i, colour);
        }
    }
    if (p->n_cells) {
        g_autofree char *scale = picture_scale(p);

        g_string_append_printf(out, "%s; its height is its share of data.\n",
                               scale);
    }
    return out;
}
