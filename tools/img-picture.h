/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A picture of a disk: so many cells, each of which stands for the same number
 * of bytes (give or take one) and knows how many of them are in which state.
 * Nothing is rounded away: a cell with one byte of data has data.
 */
#ifndef TOOLS_IMG_PICTURE_H
#define TOOLS_IMG_PICTURE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum PictureState {
    PICTURE_DATA,   /* of the image itself, */
    PICTURE_DATA_1, /* of the one below it in the backing chain, */
    PICTURE_DATA_2, /* of one further below */
    PICTURE_ZERO,
    PICTURE_ZERO_1,
    PICTURE_ZERO_2,
    PICTURE_HOLE, /* in no image of the chain */
    PICTURE_UNKNOWN,
    PICTURE_STATES,
} PictureState;

/* "data", "zero, 1 below" */
extern const char *const picture_names[PICTURE_STATES];

typedef struct PictureCell {
    int64_t bytes[PICTURE_STATES];
} PictureCell;

typedef struct Picture {
    int64_t start, length; /* of the disk's part that is shown */
    int columns, n_cells;  /* n_cells: fewer than asked for if so are bytes */
    PictureCell *cells;
    int64_t totals[PICTURE_STATES];
    char *title;
} Picture;

/* @columns * @rows cells for [@start, @start + @length) */
Picture *picture_new(const char *title, int64_t start, int64_t length,
                     int columns, int rows);
void picture_free(Picture *picture);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Picture, picture_free)
/* [@offset, @offset + @length) is in that state; what lies outside of the
 * picture does not count. */
void picture_add(Picture *picture, int64_t offset, int64_t length,
                 PictureState state);
int64_t picture_cell_bytes(const Picture *picture, int cell);
/* "12.5 %"; never 0 or 100 for what is not; to be freed */
char *picture_percent(int64_t part, int64_t all);
/* "Bytes 0 to 65535; a cell is 42.7 bytes"; there are cells; to be freed */
char *picture_scale(const Picture *picture);

/* An SVG document */
GString *picture_svg(const Picture *picture);
/* Lines of block characters, in colour if the terminal has that */
GString *picture_text(const Picture *picture, bool colour);

#endif
