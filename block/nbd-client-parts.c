/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What of a read has come. libnbd sees to it that each part of a reply lies within
 * what was asked for, and puts it there; not that the parts make up the whole.
 * A server that sends one twice and leaves another out has answered nothing.
 */
#include "block/nbd-client-int.h"

/* That do not adjoin, at a time. Who sends a reply in order has one. */
#define MAX_PARTS 4096

typedef struct Part {
    int64_t start, end;
} Part;

static Part *part(NbdRequest *req, guint i)
{
    return &g_array_index(req->parts, Part, i);
}

void nbd_parts_begin(NbdRequest *req)
{
    if (!req->parts) {
        req->parts = g_array_new(FALSE, FALSE, sizeof(Part));
    }
    g_array_set_size(req->parts, 0);
    req->parts_wrong = false;
}

void nbd_parts_add(NbdRequest *req, int64_t start, int64_t bytes)
{
    Part new = { start, start + bytes };
    bool joins_before, joins_after;
    guint i = req->parts->len;

    /* Most come in order. */
    while (i > 0 && part(req, i - 1)->start >= start) {
        i--;
    }
    if ((i > 0 && part(req, i - 1)->end > start) ||
        (i < req->parts->len && part(req, i)->start < new.end)) {
        req->parts_wrong = true;
        return;
    }
    joins_before = i > 0 && part(req, i - 1)->end == start;
    joins_after = i < req->parts->len && part(req, i)->start == new.end;
    if (joins_before && joins_after) {
        part(req, i - 1)->end = part(req, i)->end;
        g_array_remove_index(req->parts, i);
    } else if (joins_before) {
        part(req, i - 1)->end = new.end;
    } else if (joins_after) {
        part(req, i)->start = start;
    } else if (req->parts->len < MAX_PARTS) {
        g_array_insert_val(req->parts, i, new);
    } else {
        req->parts_wrong = true;
    }
}

bool nbd_parts_are_whole(NbdRequest *req)
{
    return !req->parts_wrong && req->parts->len == 1 &&
           part(req, 0)->start == req->offset &&
           part(req, 0)->end == req->offset + req->bytes;
}

void nbd_parts_free(NbdRequest *req)
{
    g_clear_pointer(&req->parts, g_array_unref);
}
