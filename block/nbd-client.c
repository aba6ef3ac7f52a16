/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Protocol driver "nbd": a disk that an NBD server has, maybe on another host.
 * nbd-client-int.h tells which file does what.
 */
#include <errno.h>
#include <string.h>

#include "block/nbd-client-int.h"
#include "block/status-json.h"
#include "util/error.h"
#include "util/json-copy.h"
#include "util/socket.h"

#define MIN_GRANULARITY 4096
#define DEFAULT_CACHE_SIZE (INT64_C(64) << 20)
#define MAX_SECONDS (INT64_MAX / G_USEC_PER_SEC / 4)

/* ---- open --------------------------------------------------------------- */

static int64_t microseconds(JsonObject *options, const char *name)
{
    int64_t seconds = schema_get_int(options, name, 0);

    return CLAMP(seconds, 0, MAX_SECONDS) * G_USEC_PER_SEC;
}

static NbdConn *make_connection(BlockDriverState *bs, JsonObject *options)
{
    NbdConn *conn = nbd_conn_new();

    conn->address = json_object_deep_copy(schema_get_object(options, "server"));
    conn->export = g_strdup(schema_get_str(options, "export", ""));
    conn->context = g_strdup(schema_get_str(options, "x-dirty-bitmap",
                                            LIBNBD_CONTEXT_BASE_ALLOCATION));
    conn->delay_us = microseconds(options, "reconnect-delay");
    conn->opening_us =
        g_get_monotonic_time() + microseconds(options, "open-timeout");
    conn->node_name = g_strdup(bs->node_name);
    return conn;
}

/* As QEMU names it, or NULL where a name would not tell all */
static char *make_filename(JsonObject *options)
{
    JsonObject *server = schema_get_object(options, "server");
    const char *type = schema_get_str(server, "type", "");
    const char *export = schema_get_str(options, "export", NULL);
    const char *slash = export ? "/" : "";
    g_autofree char *address = socket_address_text(server);

    export = export ? export : "";
    if (g_str_equal(type, "unix")) {
        return g_strdup_printf("nbd+unix://%s%s?socket=%s", slash, export,
                               address);
    }
    if (g_str_equal(type, "inet") && !schema_has(server, "ipv4") &&
        !schema_has(server, "ipv6") && !schema_has(server, "to")) {
        return g_strdup_printf("nbd://%s%s%s", address, slash, export);
    }
    return NULL;
}

/* It is for good, so it is none of those that are written to if need be. */
static void set_read_only(BlockDriverState *bs)
{
    bdrv_set_read_only(bs, true);
    bs->auto_read_only = false;
}

/* Does the server offer what the node is to be? 0, or -errno and @errp */
static int check_offer(BlockDriverState *bs, const NbdConn *conn, bool context,
                       GError **errp)
{
    if (context && !conn->info.status) {
        error_setg(errp, "requested x-dirty-bitmap %s not found",
                   conn->context);
        return -EINVAL;
    }
    if (conn->info.read_only && !bdrv_is_read_only(bs)) {
        if (!bs->auto_read_only) {
            error_setg(errp,
                       "request on write denied without write permission");
            return -EACCES;
        }
        set_read_only(bs);
    }
    return 0;
}

/*
 * Servers that tell no minimum, nor block status, are so old that they may want
 * sectors.
 */
static void find_limits(const NbdExportInfo *info, BlockLimits *limits)
{
    uint32_t align = info->min_block;
    uint32_t best = MAX(info->opt_block, MIN_GRANULARITY);
    int64_t max = NBD_CLIENT_MAX_BYTES;

    if (align == 0) {
        align = info->size % 512 || info->status ? 1 : 512;
    }
    if (info->max_block) {
        max = MIN(max, info->max_block);
    }
    *limits = (BlockLimits){
        .request_alignment = align,
        .opt_alignment = best & (best - 1) ? MIN_GRANULARITY : best,
        .mem_alignment = 1,
        .max_transfer = MAX(max - max % align, align),
    };
}

static StatusCache *make_cache(const NbdConn *conn, JsonObject *options,
                               GError **errp)
{
    StatusCacheOptions o = {
        .length = conn->info.size,
        .granularity = MAX(conn->info.min_block, MIN_GRANULARITY),
        .max_memory =
            schema_get_int(options, "status-cache-size", DEFAULT_CACHE_SIZE),
        .mode =
            schema_get_enum(options, "status-cache", &status_cache_mode_type,
                            STATUS_CACHE_DATA_ONLY),
    };

    if (schema_has(options, "x-dirty-bitmap")) {
        o.mode = STATUS_CACHE_OFF;
    }
    return status_cache_new(&o, errp);
}

static void nbd_client_close(BlockDriverState *bs)
{
    NbdClient *s = bs->opaque;

    nbd_conn_close(s->conn);
    status_cache_unref(s->cache);
    g_free(s->filename);
}

static int nbd_client_open(BlockDriverState *bs, JsonObject *options,
                           GError **errp)
{
    NbdClient *s = bs->opaque;
    int ret;

    s->other_context = schema_has(options, "x-dirty-bitmap");
    s->filename = make_filename(options);
    s->conn = make_connection(bs, options);
    ret = nbd_conn_open(s->conn, errp);
    if (ret == 0) {
        ret = check_offer(bs, s->conn, s->other_context, errp);
    }
    if (ret == 0) {
        find_limits(&s->conn->info, &bs->limits);
        s->cache = make_cache(s->conn, options, errp);
        ret = s->cache ? 0 : -EINVAL;
    }
    if (ret < 0) {
        nbd_client_close(bs);
        return ret;
    }
    nbd_conn_set_cache(s->conn, s->cache);
    /* There are no pages here to be read ahead. */
    status_reader_init(&s->reader, s->cache, -1, &bs->limits, true);
    return 0;
}

/* ---- reopen ------------------------------------------------------------- */

/* As in QEMU: only what all drivers have in common may change. */
static const char *const reopen_options[] = { NULL };

static int reopen_prepare(BdrvReopen *r, GError **errp)
{
    const NbdClient *s = r->bs->opaque;

    if (s->conn->info.read_only && !r->common.read_only &&
        !r->common.auto_read_only) {
        error_setg(errp, "Can't reopen read-only NBD mount as read/write");
        return -EACCES;
    }
    return 0;
}

static void reopen_commit(BdrvReopen *r)
{
    const NbdClient *s = r->bs->opaque;

    if (s->conn->info.read_only) {
        set_read_only(r->bs);
    }
}

/* ---- what it is --------------------------------------------------------- */

static int64_t nbd_client_getlength(BlockDriverState *bs)
{
    const NbdClient *s = bs->opaque;

    return s->conn->info.size;
}

/* As with a device: it has the size it has. */
static int nbd_client_truncate(BlockDriverState *bs, int64_t length,
                               GError **errp)
{
    if (length > nbd_client_getlength(bs)) {
        error_setg(errp, "Cannot grow NBD nodes");
        return -EINVAL;
    }
    return 0;
}

static void nbd_client_get_info(BlockDriverState *bs, JsonObject *image)
{
    const NbdClient *s = bs->opaque;

    if (s->filename) {
        json_object_set_string_member(image, "filename", s->filename);
    }
}

static JsonObject *nbd_client_get_specific_stats(BlockDriverState *bs)
{
    const NbdClient *s = bs->opaque;
    JsonObject *stats = json_object_new();

    json_object_set_string_member(stats, "driver", "nbd");
    json_object_set_object_member(stats, "status-cache",
                                  status_cache_to_json(s->cache, NULL));
    return stats;
}

static StatusCache *nbd_client_get_status_cache(BlockDriverState *bs)
{
    const NbdClient *s = bs->opaque;

    return status_cache_ref(s->cache);
}

static const SchemaType options_type = {
    .name = "BlockdevOptionsNbd",
    .kind = SCHEMA_OBJECT,
    .doc = "A disk that an NBD server has.",
    .members =
        (const SchemaMember[]){
            { "server", &socket_address_type,
              .doc = "Where the server listens; or with type \"fd\", a socket "
                     "that is connected to it, which can be had once." },
            { "export", &schema_str, .optional = true,
              .doc = "The export's name. Default: the empty name." },
            { "x-dirty-bitmap", &schema_str, .optional = true, .unstable = true,
              .doc =
                  "The name of a metadata context, such as "
                  "\"qemu:dirty-bitmap:NAME\", to be shown in place of block "
                  "status: not as data where its bit 0 is set." },
            { "reconnect-delay", &schema_uint, .optional = true,
              .doc = "How many seconds requests wait for another connection "
                     "when one is lost, before they fail. Default: 0." },
            { "open-timeout", &schema_uint, .optional = true,
              .doc = "For how many seconds to try again when the server cannot "
                     "be reached at first. Default: 0, which is one try." },
            { "status-cache", &status_cache_mode_type, .optional = true,
              .doc = "What to remember of block status. \"on\" says that "
                     "nobody else writes to the disk as long as the node is "
                     "there: zeroes that somebody else overwrites would still "
                     "be taken for zeroes. Default: \"data-only\"." },
            { "status-cache-size", &schema_size, .optional = true,
              .doc = "Bytes of memory that the cache may take, 0 for no "
                     "limit; default 64 MiB." },
            { NULL },
        },
};

const BlockDriver bdrv_nbd = {
    .format_name = "nbd",
    .kind = BLOCK_DRIVER_PROTOCOL,
    .instance_size = sizeof(NbdClient),
    .supported_write_flags = BDRV_REQ_FUA,
    .supported_zero_flags = BDRV_REQ_FUA,
    .options = &options_type,
    .open = nbd_client_open,
    .reopen_options = reopen_options,
    .reopen_prepare = reopen_prepare,
    .reopen_commit = reopen_commit,
    .close = nbd_client_close,
    .preadv = nbd_client_preadv,
    .pwritev = nbd_client_pwritev,
    .pwrite_zeroes = nbd_client_pwrite_zeroes,
    .pdiscard = nbd_client_pdiscard,
    .flush = nbd_client_flush,
    .getlength = nbd_client_getlength,
    .truncate = nbd_client_truncate,
    .block_status = nbd_client_block_status,
    .get_info = nbd_client_get_info,
    .get_specific_stats = nbd_client_get_specific_stats,
    .get_status_cache = nbd_client_get_status_cache,
};
