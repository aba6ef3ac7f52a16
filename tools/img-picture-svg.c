/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A picture of a disk as SVG. Each cell is a square, divided from bottom to top
 * into parts as large as the states' shares; the thinnest can be seen still.
 *
 * The colours are told apart by those who do not see all of them, and by how
 * light they are; unknown is hatched. The page is light or dark as the reader's.
 */
#include <inttypes.h>
#include <string.h>

#include "tools/img-picture.h"

#define CELL 11 /* with its gap of one, pixels */
#define MARGIN 16
#define TOP 58 /* of the cells, below title and scale */
#define LEGEND_LINE 20
#define MIN_SHARE 1.0 /* pixels */

static const char *const classes[PICTURE_STATES] = {
    "d0", "d1", "d2", "z0", "z1", "z2", "h", "u",
};

static const char style[] =
    "<style>\n"
    "text{font:13px system-ui,sans-serif;fill:#1f2328}\n"
    ".t{font-size:15px;font-weight:600}.s{fill:#59636e}\n"
    ".n{text-anchor:end;font-variant-numeric:tabular-nums}\n"
    ".b{fill:#fff}\n"
    ".d0{fill:#00518f}.d1{fill:#3d8fd1}.d2{fill:#94c4ec}\n"
    ".z0{fill:#f2cd80}.z1{fill:#f7e0b0}.z2{fill:#fbf0d9}\n"
    ".h{fill:#e4e7ea}\n"
    ".u{fill:url(#hatch)}.hb{fill:#f6e3ee}.hl{stroke:#a8477f}\n"
    "@media (prefers-color-scheme:dark){\n"
    "text{fill:#f0f6fc}.s{fill:#9198a1}.b{fill:#0d1117}\n"
    ".d0{fill:#6cb6ff}.d1{fill:#3683cf}.d2{fill:#1f4f80}\n"
    ".z0{fill:#80601c}.z1{fill:#5e4511}.z2{fill:#40300d}\n"
    ".h{fill:#2a3038}\n"
    ".hb{fill:#3d1f30}.hl{stroke:#e08cbc}\n"
    "}\n"
    "</style>\n"
    "<defs><pattern id=\"hatch\" width=\"4\" height=\"4\" "
    "patternUnits=\"userSpaceOnUse\"><rect class=\"hb\" width=\"4\" "
    "height=\"4\"/><path class=\"hl\" d=\"M-1,1l2,-2M0,4l4,-4M3,5l2,-2\"/>"
    "</pattern></defs>\n";

/* XML has no other control characters than tab and line break, and what is not
 * UTF-8 cannot be told at all: "?" stands for these. */
static char *escape(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    char *c;

    for (c = valid; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f) {
            *c = '?';
        }
    }
    /* U+FFFE and U+FFFF are no characters of XML, either. */
    for (c = valid; (c = strstr(c, "\xef\xbf")); c++) {
        if ((unsigned char)c[2] >= 0xbe) {
            c[0] = c[1] = c[2] = '?';
        }
    }
    return g_markup_escape_text(valid, -1);
}

static void add_number(GString *out, const char *before, double number)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];

    g_ascii_formatd(text, sizeof(text), "%.4g", number);
    g_string_append(out, before);
    g_string_append(out, text);
}

/* How high the parts of a cell are, pixels, all together CELL - 1 */
static void part_heights(const Picture *p, int cell,
                         double heights[PICTURE_STATES])
{
    const PictureCell *c = &p->cells[cell];
    double all = picture_cell_bytes(p, cell), sum = 0;
    int i;

    for (i = 0; i < PICTURE_STATES; i++) {
        heights[i] =
            c->bytes[i] ? MAX((CELL - 1) * (c->bytes[i] / all), MIN_SHARE) : 0;
        sum += heights[i];
    }
    for (i = 0; i < PICTURE_STATES && sum > CELL - 1; i++) {
        heights[i] *= (CELL - 1) / sum;
    }
}

/* The parts of one cell, each on its state's path */
static void add_cell(GString *paths[PICTURE_STATES], const Picture *p, int cell)
{
    double x = MARGIN + cell % p->columns * CELL;
    double y = TOP + cell / p->columns * CELL + CELL - 1;
    double heights[PICTURE_STATES];
    int i;

    part_heights(p, cell, heights);
    for (i = 0; i < PICTURE_STATES; i++) {
        if (heights[i] > 0) {
            y -= heights[i];
            add_number(paths[i], "M", x);
            add_number(paths[i], " ", y);
            add_number(paths[i], "h10v", heights[i]);
            g_string_append(paths[i], "h-10z");
        }
    }
}

static void add_cells(GString *out, const Picture *p)
{
    GString *paths[PICTURE_STATES];
    int i;

    for (i = 0; i < PICTURE_STATES; i++) {
        paths[i] = g_string_new("");
    }
    for (i = 0; i < p->n_cells; i++) {
        add_cell(paths, p, i);
    }
    for (i = 0; i < PICTURE_STATES; i++) {
        if (paths[i]->len) {
            g_string_append_printf(out, "<path class=\"%s\" d=\"%s\"/>\n",
                                   classes[i], paths[i]->str);
        }
        g_string_free(paths[i], TRUE);
    }
}

static void add_legend(GString *out, const Picture *p, int y)
{
    int i;

    for (i = 0; i < PICTURE_STATES; i++) {
        g_autofree char *percent = picture_percent(p->totals[i], p->length);

        if (p->totals[i]) {
            g_string_append_printf(
                out,
                "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"10\" "
                "height=\"10\"/><text x=\"%d\" y=\"%d\">%s</text>"
                "<text class=\"n\" x=\"%d\" y=\"%d\">%" PRId64 " bytes</text>"
                "<text class=\"n\" x=\"%d\" y=\"%d\">%s</text>\n",
                classes[i], MARGIN, y - 9, MARGIN + 18, y, picture_names[i],
                MARGIN + 330, y, p->totals[i], MARGIN + 420, y,
                percent[0] == '<'   ? "&lt;0.1 %"
                : percent[0] == '>' ? "&gt;99.9 %"
                                    : percent);
            y += LEGEND_LINE;
        }
    }
}

GString *picture_svg(const Picture *p)
{
    GString *out = g_string_new("");
    g_autofree char *title = escape(p->title);
    int rows = (p->n_cells + p->columns - 1) / p->columns, lines = 0, i;
    int width = 2 * MARGIN + p->columns * CELL, height;

    for (i = 0; i < PICTURE_STATES; i++) {
        lines += p->totals[i] > 0;
    }
    height = TOP + rows * CELL + lines * LEGEND_LINE + 2 * MARGIN;
    g_string_append_printf(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
        "viewBox=\"0 0 %d %d\" role=\"img\">\n<title>%s</title>\n%s"
        "<rect class=\"b\" width=\"%d\" height=\"%d\"/>\n"
        "<text class=\"t\" x=\"%d\" y=\"27\">%s</text>\n"
        "<text class=\"s\" x=\"%d\" y=\"46\">",
        width, height, width, height, title, style, width, height, MARGIN,
        title, MARGIN);
    if (p->n_cells) {
        g_autofree char *scale = picture_scale(p);

        g_string_append_printf(out, "%s, from left to right and top to bottom",
                               scale);
    } else {
        g_string_append(out, "no bytes");
    }
    g_string_append(out, "</text>\n<g>\n");
    add_cells(out, p);
    g_string_append(out, "</g>\n");
    add_legend(out, p, TOP + rows * CELL + MARGIN + 10);
    g_string_append(out, "</svg>\n");
    return out;
}
