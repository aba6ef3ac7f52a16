/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzes the driver nbd with what servers may answer. The input:
 *
 *   1     options of the node: how much it remembers, whether it is read-only
 *   2     size of the disk, in units of 512 bytes; 0xffff: the largest there is
 *   2     transmission flags
 *   1     block sizes that are told
 *   1     the number of steps, at most 15
 *   n x 4 steps: what, where, how long, how
 *   rest  the server's script (script-nbd.c)
 *
 * What must be true: a read that succeeds has what the server has sent for it, or
 * zeroes where it said that there are zeroes; block status says zero only there; and
 * no request succeeds to which every answer was an error.
 */
#include <unistd.h>

#include "block/block-int.h"
#include "block/nbd-client-int.h"
#include "script-nbd.h"
#include "util/json-text.h"

#define MAX_STEPS 15
#define MAX_BYTES (16 * 1024)

enum {
    OPTION_READ_ONLY = 0x1,
    OPTION_AUTO_READ_ONLY = 0x2,
    OPTION_BITMAP = 0x4, /* another metadata context */
    OPTION_CACHE = 0x18, /* on, data-only, off */
};

typedef struct Step {
    uint8_t what, where, length, how;
} Step;

typedef struct Client {
    BlockDriverState *bs;
    BlockBackend *blk;
    int64_t length;
    ScriptNbd *server;
    bool read_only;
    uint8_t stamp;
} Client;

static char *path;

static void at_exit(void)
{
    g_free(path);
}

static void start(void)
{
    fuzz_quiet();
    path = g_strdup_printf("/tmp/fuzz-nbd-client-%d", (int)getpid());
    atexit(at_exit);
    /* The server does not wait; so who does is not let down. */
    nbd_client_times.first_pause = nbd_client_times.last_pause = 1;
    nbd_client_times.goodbye = nbd_client_times.handshake = G_USEC_PER_SEC / 4;
}

/* ---- the node -------------------------------------------------------------- */

static bool open_node(Client *c, uint8_t options)
{
    static const char *const modes[] = { "on", "data-only", "off", "on" };
    g_autofree char *text = g_strdup_printf(
        "{\"driver\":\"nbd\",\"node-name\":\"n\",\"discard\":\"unmap\","
        "\"server\":{\"type\":\"unix\",\"path\":\"%s\"},\"read-only\":%s,"
        "\"auto-read-only\":%s,\"reconnect-delay\":60,%s"
        "\"status-cache\":\"%s\"}",
        path, options & OPTION_READ_ONLY ? "true" : "false",
        options & OPTION_AUTO_READ_ONLY ? "true" : "false",
        options & OPTION_BITMAP ? "\"x-dirty-bitmap\":\"qemu:dirty-bitmap:b\","
                                : "",
        modes[(options & OPTION_CACHE) >> 3]);
    g_autoptr(JsonNode) node = json_text_parse(text, strlen(text), NULL);

    bdrv_graph_lock();
    c->bs = bdrv_open(json_node_get_object(node), NULL);
    if (c->bs) {
        c->length = bdrv_getlength(c->bs);
        c->read_only = bdrv_is_read_only(c->bs);
        fuzz_assert(c->length >= 0 && c->length <= c->server->size);
        c->blk = blk_new("fuzzer", false,
                         BLK_PERM_CONSISTENT_READ |
                             (c->read_only ? 0 : BLK_PERM_WRITE),
                         BLK_PERM_ALL);
        if (!blk_attach(c->blk, c->bs, NULL)) {
            g_clear_pointer(&c->blk, blk_free);
        }
    }
    bdrv_graph_unlock();
    return c->blk != NULL;
}

static void close_node(Client *c)
{
    bdrv_graph_lock();
    g_clear_pointer(&c->blk, blk_free);
    if (c->bs) {
        fuzz_assert(bdrv_monitor_del("n", NULL));
    }
    bdrv_graph_unlock();
}

/* ---- steps ----------------------------------------------------------------- */

static int64_t offset_of(const Client *c, const Step *step)
{
    int64_t window = MIN(c->length, SCRIPT_WINDOW);
    int64_t offset = step->where < 250 ? window * step->where / 250
                                       : c->length / 8 * (step->where - 248);

    return step->how & 1 ? offset : offset - offset % 4096;
}

static int64_t bytes_of(const Client *c, const Step *step, int64_t offset)
{
    int64_t bytes =
        step->how & 2 ? (step->length + 1) * 37 : (step->length + 1) * 512;

    return MIN(MIN(bytes, MAX_BYTES), c->length - offset);
}

static void step_read(Client *c, const Step *step)
{
    static uint8_t buf[MAX_BYTES];
    int64_t offset = offset_of(c, step);
    int64_t bytes = bytes_of(c, step, offset), i;
    ScriptNbd *s = c->server;

    memset(buf, 0xa5, bytes);
    mutex_lock(&s->lock);
    memset(s->has_sent, 0, sizeof(s->has_sent));
    mutex_unlock(&s->lock);
    if (blk_pread(c->blk, offset, bytes, buf, 0) < 0) {
        return;
    }
    MUTEX_GUARD(&s->lock);
    for (i = 0; i < bytes && offset + i < SCRIPT_WINDOW; i++) {
        int64_t at = offset + i;

        fuzz_assert((s->has_sent[at] && s->sent[at] == buf[i]) ||
                        (s->zero[at] && buf[i] == 0),
                    "at %d: %#x, sent %#x (%d), zero %d", (int)at, buf[i],
                    s->sent[at], s->has_sent[at], s->zero[at]);
    }
}

static void check_success(Client *c, int ret)
{
    MUTEX_GUARD(&c->server->lock);
    fuzz_assert(ret < 0 || c->server->may_succeed);
}

static void step_write(Client *c, const Step *step)
{
    static uint8_t buf[MAX_BYTES];
    int64_t offset = offset_of(c, step);
    int64_t bytes = bytes_of(c, step, offset);
    int ret;

    memset(buf, ++c->stamp, bytes);
    ret = blk_pwrite(c->blk, offset, bytes, buf,
                     step->how & 8 ? BDRV_REQ_FUA : 0);
    if (bytes > 0) {
        check_success(c, ret);
    }
}

static void step_zero(Client *c, const Step *step)
{
    int64_t offset = offset_of(c, step);
    int64_t bytes = bytes_of(c, step, offset);
    int flags = (step->how & 4 ? BDRV_REQ_MAY_UNMAP : 0) |
                (step->how & 8 ? BDRV_REQ_FUA : 0) |
                (step->how & 16 ? BDRV_REQ_NO_FALLBACK : 0);
    int ret = blk_pwrite_zeroes(c->blk, offset, bytes, flags);

    if (bytes > 0) {
        check_success(c, ret);
    }
    if (ret == 0 && offset < SCRIPT_WINDOW) {
        MUTEX_GUARD(&c->server->lock);
        memset(c->server->zero + offset, 1, MIN(bytes, SCRIPT_WINDOW - offset));
    }
}

static void step_status(Client *c, const Step *step)
{
    static const unsigned wants[] = { BDRV_WANT_PRECISE, BDRV_WANT_ZERO,
                                      BDRV_WANT_PRECISE | BDRV_WANT_KNOWN,
                                      BDRV_WANT_READ };
    unsigned want = wants[step->how >> 4 & 3];
    int64_t offset = offset_of(c, step), end = c->length, i;
    unsigned rounds = 64;

    if (step->how & 4) {
        end = offset + bytes_of(c, step, offset);
    }
    while (offset < end && rounds-- > 0) {
        int64_t pnum = 0;
        int ret = blk_block_status(c->blk, offset, end - offset, want, &pnum);

        if (ret < 0) {
            return;
        }
        fuzz_assert(pnum > 0 && pnum <= end - offset);
        mutex_lock(&c->server->lock);
        for (i = 0;
             ret & BDRV_BLOCK_ZERO && i < pnum && offset + i < SCRIPT_WINDOW;
             i++) {
            fuzz_assert(c->server->zero[offset + i], "zero at %d",
                        (int)(offset + i));
        }
        mutex_unlock(&c->server->lock);
        offset += pnum;
    }
}

static void run_step(Client *c, const Step *step)
{
    int64_t offset = offset_of(c, step);

    switch (step->what % 8) {
    case 0:
    case 1:
        step_read(c, step);
        break;
    case 2:
        step_write(c, step);
        break;
    case 3:
        step_zero(c, step);
        break;
    case 4:
        blk_pdiscard(c->blk, offset, bytes_of(c, step, offset));
        break;
    case 5:
        blk_flush(c->blk);
        break;
    default:
        step_status(c, step);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ScriptNbd server;
    FuzzInput in = { data, size };
    Client client = { .server = &server };
    Step steps[MAX_STEPS];
    unsigned n_steps, i;
    uint8_t options, sizes;
    uint16_t sectors;

    if (!path) {
        start();
    }
    memset(&server, 0, sizeof(server));
    options = fuzz_u8(&in);
    sectors = fuzz_u16(&in);
    server.size = sectors == 0xffff ? BDRV_MAX_LENGTH : sectors * 512;
    server.flags = fuzz_u16(&in);
    sizes = fuzz_u8(&in);
    server.min_block = sizes & 0x80 ? 1 << (sizes & 15) : 0;
    server.max_block = sizes & 0x40 ? 65536 : UINT32_MAX;
    n_steps = fuzz_u8(&in) % (MAX_STEPS + 1);
    for (i = 0; i < n_steps; i++) {
        steps[i].what = fuzz_u8(&in);
        steps[i].where = fuzz_u8(&in);
        steps[i].length = fuzz_u8(&in);
        steps[i].how = fuzz_u8(&in);
    }
    server.script = in;
    server.path = path;
    script_nbd_start(&server);
    if (open_node(&client, options)) {
        for (i = 0; i < n_steps; i++) {
            run_step(&client, &steps[i]);
        }
    }
    close_node(&client);
    script_nbd_stop(&server);
    return 0;
}
