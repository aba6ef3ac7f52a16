/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Backing files: what an overlay does not have itself is in the node below,
 * which is named by the option "backing" or by the overlay's own header.
 *
 * A header is somebody else's input: what it names is opened for reading only,
 * as a file, in the format it tells. Where it tells none, only an image that
 * does not look like a format is taken, as raw: what a guest wrote to a raw disk
 * must not choose how that disk is read.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/graph-int.h"
#include "util/error.h"
#include "util/iov.h"
#include "util/json-copy.h"

/* ---- reading ------------------------------------------------------------ */

int bdrv_read_backing(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      const struct iovec *iov, int niov)
{
    BlockDriverState *backing = bs->backing ? bs->backing->bs : NULL;
    g_autofree struct iovec *slice = NULL;
    int64_t length = backing ? bdrv_driver_getlength(backing) : 0;
    int64_t n;

    if (length < 0) {
        return length;
    }
    n = CLAMP(length - offset, 0, bytes);
    iov_zero(iov, niov, n, bytes - n);
    if (n == bytes) {
        return bytes ? bdrv_preadv(backing, offset, bytes, iov, niov, 0) : 0;
    }
    if (n == 0) {
        return 0;
    }
    slice = g_new(struct iovec, niov);
    niov = iov_slice(iov, niov, 0, n, slice);
    return bdrv_preadv(backing, offset, n, slice, niov, 0);
}

/* ---- the file that a header names --------------------------------------- */

/*
 * The images whose backing files are being opened at the moment, the topmost
 * last: an image that comes a second time would have no end.
 */
typedef struct Opening {
    struct Opening *above;
    bool known; /* dev and ino are */
    dev_t dev;
    ino_t ino;
    unsigned depth;
} Opening;

static Opening *opening; /* graph mutex */

/* The name of the file that @bs lies in, to be freed, or NULL; any thread */
static char *own_filename(BlockDriverState *bs)
{
    char *name;

    graph_short_rdlock();
    while (bs->file && bs->file->bs) {
        bs = bs->file->bs;
    }
    name = g_strdup(schema_get_str(bs->options, "filename", NULL));
    graph_short_rdunlock();
    return name;
}

char *bdrv_backing_path(const char *own, const char *name)
{
    const char *slash = strrchr(own, '/');

    return slash && !g_path_is_absolute(name)
               ? g_strdup_printf("%.*s%s", (int)(slash + 1 - own), own, name)
               : g_strdup(name);
}

/* "nbd:...": a colon, and no slash before it */
static bool has_protocol(const char *name)
{
    return name[strcspn(name, ":/")] == ':';
}

char *bdrv_full_backing_name(BlockDriverState *bs, const char *name,
                             GError **errp)
{
    g_autofree char *own = own_filename(bs);

    if (g_str_has_prefix(name, "file:")) {
        return g_strdup(name + strlen("file:"));
    }
    if (has_protocol(name)) {
        error_setg(errp,
                   "'%s': protocol '%.*s' is not supported in image headers; "
                   "name a node with the option 'backing'",
                   name, (int)strcspn(name, ":"), name);
        return NULL;
    }
    if (!own && !g_path_is_absolute(name)) {
        error_setg(errp,
                   "'%s' is relative to the image, which has no file name; "
                   "name a node with the option 'backing'",
                   name);
        return NULL;
    }
    return bdrv_backing_path(own ? own : "", name);
}

static const struct {
    const char *name, *magic;
} known_formats[] = {
    { "qcow2", "QFI\xfb" },
    { "qed", "QED" },
    { "vmdk", "KDMV" },
    { "vmdk", "COWD" },
    { "vmdk", "# Disk Descriptor" },
    { "vhdx", "vhdxfile" },
    { "vpc", "conectix" },
    { "luks", "LUKS\xba\xbe" },
    { "vdi", "<<< " },
    { "parallels", "WithoutFreeSpace" },
    { "parallels", "WithouFreSpacExt" },
};

const char *bdrv_probe_format(const char *filename, GError **errp)
{
    char head[32] = "";
    int fd = open(filename, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : pread(fd, head, sizeof(head), 0);
    int error = errno;
    size_t i;

    if (fd >= 0) {
        close(fd);
    }
    if (n < 0) {
        error_setg_errno(errp, error, "Could not %s '%s'",
                         fd < 0 ? "open" : "read", filename);
        return NULL;
    }
    for (i = 0; i < G_N_ELEMENTS(known_formats); i++) {
        const char *magic = known_formats[i].magic;

        if ((size_t)n >= strlen(magic) && !memcmp(head, magic, strlen(magic))) {
            return known_formats[i].name;
        }
    }
    return "raw";
}

static bool check_loop(const struct stat *st, const char *name, GError **errp)
{
    const Opening *o;

    if (opening->depth >= BDRV_MAX_CHAIN) {
        error_setg(errp, "'%s' would be a chain of more than %d images", name,
                   BDRV_MAX_CHAIN);
        return false;
    }
    for (o = opening; o; o = o->above) {
        if (o->known && o->dev == st->st_dev && o->ino == st->st_ino) {
            error_setg(errp, "Backing file '%s' creates an infinite loop.",
                       name);
            return false;
        }
    }
    return true;
}

static JsonObject *node_options(const char *driver, const char *name,
                                const char *value)
{
    JsonObject *options = json_object_new();

    json_object_set_string_member(options, "driver", driver);
    if (name) {
        json_object_set_string_member(options, name, value);
    }
    return options;
}

/* What to open for the backing file @name; or NULL and @errp */
static JsonObject *header_options(BlockDriverState *bs, const char *name,
                                  const char *format, GError **errp)
{
    g_autofree char *filename = bdrv_full_backing_name(bs, name, errp);
    const BlockDriver *drv;
    JsonObject *file, *options;
    struct stat st;

    if (!filename) {
        return NULL;
    }
    if (stat(filename, &st) < 0) {
        error_setg_errno(errp, errno, "Could not open '%s'", filename);
        return NULL;
    }
    if (!check_loop(&st, filename, errp)) {
        return NULL;
    }
    if (!format) {
        format = bdrv_probe_format(filename, errp);
        if (!format) {
            return NULL;
        }
        if (strcmp(format, "raw")) {
            error_setg(errp,
                       "the image does not tell the format of '%s', which "
                       "looks like %s: tell it with 'qemu-img rebase -u -b %s "
                       "-F FORMAT', or name a node with the option 'backing'",
                       filename, format, name);
            return NULL;
        }
    }
    drv = bdrv_find_driver(format);
    if (!drv || drv->kind != BLOCK_DRIVER_FORMAT) {
        error_setg(errp, "Unknown driver '%s'", format);
        return NULL;
    }
    file = node_options(S_ISBLK(st.st_mode) ? "host_device" : "file",
                        "filename", filename);
    options = node_options(format, NULL, NULL);
    json_object_set_object_member(options, "file", file);
    return options;
}

/* @options is that of @bs: it has what its child inherits. */
static int open_child_of_header(BlockDriverState *bs, JsonObject *options,
                                const char *name, const char *format,
                                GError **errp)
{
    g_autofree char *own = own_filename(bs);
    Opening me = { .above = opening,
                   .depth = opening ? opening->depth + 1 : 1 };
    g_autoptr(JsonObject) with_backing = NULL;
    JsonObject *given;
    struct stat st;
    int ret = -EINVAL;

    if (own && stat(own, &st) == 0) {
        me.known = true;
        me.dev = st.st_dev;
        me.ino = st.st_ino;
    }
    opening = &me;
    given = header_options(bs, name, format, errp);
    if (given) {
        with_backing = json_object_deep_copy(options);
        json_object_set_object_member(with_backing, "backing", given);
        ret = bdrv_open_child(bs, with_backing, "backing", errp) ? 0 : -EINVAL;
    }
    opening = me.above;
    return ret;
}

int bdrv_open_backing(BlockDriverState *bs, JsonObject *options,
                      const char *header_file, const char *header_format,
                      GError **errp)
{
    JsonNode *node = json_object_get_member(options, "backing");
    g_autoptr(GError) err = NULL;
    int ret = 0;

    g_assert(bdrv_graph_locked() && bs->drv->supports_backing);
    bs->names_backing = header_file && *header_file;
    bs->implied_backing = !node;
    if (node && !JSON_NODE_HOLDS_NULL(node)) {
        ret = bdrv_open_child(bs, options, "backing", &err) ? 0 : -EINVAL;
    } else if (!node && bs->names_backing) {
        ret =
            open_child_of_header(bs, options, header_file, header_format, &err);
    }
    if (ret < 0) {
        g_prefix_error(&err, "Could not open backing file: ");
        g_propagate_error(errp, g_steal_pointer(&err));
    }
    return ret;
}
