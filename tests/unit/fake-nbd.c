/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fake-nbd.h"

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CONTEXT_ID 7
#define PATIENCE_MS 20000

/* ---- bytes -------------------------------------------------------------- */

static void wait_readable(int fd)
{
    struct pollfd p = { fd, POLLIN, 0 };

    ck_assert_msg(poll(&p, 1, PATIENCE_MS) == 1, "nothing comes");
}

static void get(int fd, void *buf, size_t bytes)
{
    size_t done = 0;

    while (done < bytes) {
        ssize_t n;

        wait_readable(fd);
        n = read(fd, (char *)buf + done, bytes - done);
        ck_assert_msg(n > 0, "the client has hung up");
        done += n;
    }
}

static void put(int fd, const void *buf, size_t bytes)
{
    ck_assert_int_eq(send(fd, buf, bytes, MSG_NOSIGNAL), bytes);
}

static void put_u32(int fd, uint32_t value)
{
    value = GUINT32_TO_BE(value);
    put(fd, &value, sizeof(value));
}

/* ---- handshake ---------------------------------------------------------- */

static void put_option_reply(int fd, uint32_t option, uint32_t type,
                             const void *data, uint32_t bytes)
{
    NbdOptionReply reply = {
        .magic = GUINT64_TO_BE(NBD_REP_MAGIC),
        .option = GUINT32_TO_BE(option),
        .type = GUINT32_TO_BE(type),
        .length = GUINT32_TO_BE(bytes),
    };

    put(fd, &reply, sizeof(reply));
    put(fd, data, bytes);
}

static void answer_go(FakeNbd *s)
{
    NbdInfoExport info = {
        .type = GUINT16_TO_BE(NBD_INFO_EXPORT),
        .size = GUINT64_TO_BE(s->size),
        .flags = GUINT16_TO_BE(s->flags),
    };
    NbdInfoBlockSize sizes = {
        .type = GUINT16_TO_BE(NBD_INFO_BLOCK_SIZE),
        .minimum = GUINT32_TO_BE(1),
        .preferred = GUINT32_TO_BE(4096),
        .maximum = GUINT32_TO_BE(s->max_block),
    };

    put_option_reply(s->fd, NBD_OPT_GO, NBD_REP_INFO, &info, sizeof(info));
    if (s->max_block) {
        put_option_reply(s->fd, NBD_OPT_GO, NBD_REP_INFO, &sizes,
                         sizeof(sizes));
    }
    put_option_reply(s->fd, NBD_OPT_GO, NBD_REP_ACK, "", 0);
}

static void answer_context(FakeNbd *s)
{
    static const char name[] = "base:allocation";
    char data[4 + sizeof(name) - 1] = { 0, 0, 0, CONTEXT_ID };

    memcpy(data + 4, name, sizeof(name) - 1);
    put_option_reply(s->fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT,
                     data, sizeof(data));
    put_option_reply(s->fd, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, "", 0);
}

static bool answer_option(FakeNbd *s)
{
    g_autofree char *data = NULL;
    NbdOption option;
    uint32_t code;

    get(s->fd, &option, sizeof(option));
    data = g_malloc(GUINT32_FROM_BE(option.length) + 1);
    get(s->fd, data, GUINT32_FROM_BE(option.length));
    code = GUINT32_FROM_BE(option.option);
    switch (code) {
    case NBD_OPT_GO:
        answer_go(s);
        return false;
    case NBD_OPT_SET_META_CONTEXT:
        answer_context(s);
        return true;
    case NBD_OPT_STRUCTURED_REPLY:
        put_option_reply(s->fd, code, NBD_REP_ACK, "", 0);
        return true;
    default:
        put_option_reply(s->fd, code, NBD_REP_ERR_UNSUP, "", 0);
        return true;
    }
}

static void *host(void *opaque)
{
    FakeNbd *s = opaque;
    NbdGreeting greeting = {
        .init_magic = GUINT64_TO_BE(NBD_INIT_MAGIC),
        .option_magic = GUINT64_TO_BE(NBD_OPTION_MAGIC),
        .flags = GUINT16_TO_BE(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
    };
    uint32_t flags;

    wait_readable(s->listener);
    s->fd = accept(s->listener, NULL, NULL);
    ck_assert_int_ge(s->fd, 0);
    put(s->fd, &greeting, sizeof(greeting));
    get(s->fd, &flags, sizeof(flags));
    while (answer_option(s)) {
    }
    return NULL;
}

void fake_nbd_expect(FakeNbd *s)
{
    ck_assert_int_eq(pthread_create(&s->host, NULL, host, s), 0);
}

void fake_nbd_connected(FakeNbd *s)
{
    ck_assert_int_eq(pthread_join(s->host, NULL), 0);
}

void fake_nbd_hang_up(FakeNbd *s)
{
    close(s->fd);
    s->fd = -1;
}

void fake_nbd_start(FakeNbd *s, uint64_t size)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };

    *s = (FakeNbd){
        .size = size,
        .flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                 NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
                 NBD_FLAG_SEND_FAST_ZERO,
        .folder = g_dir_make_tmp("fake-nbd-XXXXXX", NULL),
        .listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
        .fd = -1,
    };
    s->path = g_build_filename(s->folder, "socket", NULL);
    g_strlcpy(un.sun_path, s->path, sizeof(un.sun_path));
    ck_assert_int_eq(bind(s->listener, (struct sockaddr *)&un, sizeof(un)), 0);
    ck_assert_int_eq(listen(s->listener, 5), 0);
}

void fake_nbd_stop(FakeNbd *s)
{
    if (s->fd >= 0) {
        close(s->fd);
    }
    close(s->listener);
    unlink(s->path);
    rmdir(s->folder);
    g_free(s->path);
    g_free(s->folder);
}

/* ---- requests ----------------------------------------------------------- */

FakeRequest fake_nbd_request(FakeNbd *s)
{
    NbdRequestHeader r;
    FakeRequest req;

    get(s->fd, &r, sizeof(r));
    ck_assert_uint_eq(GUINT32_FROM_BE(r.magic), NBD_REQUEST_MAGIC);
    req = (FakeRequest){
        .flags = GUINT16_FROM_BE(r.flags),
        .type = GUINT16_FROM_BE(r.type),
        .cookie = GUINT64_FROM_BE(r.cookie),
        .offset = GUINT64_FROM_BE(r.offset),
        .length = GUINT32_FROM_BE(r.length),
    };
    if (req.type == NBD_CMD_WRITE) {
        g_autofree uint8_t *data = g_malloc(req.length);

        get(s->fd, data, req.length);
        req.byte = data[0];
    }
    return req;
}

FakeRequest fake_nbd_expect_request(FakeNbd *s, uint16_t type, uint64_t offset,
                                    uint32_t length)
{
    FakeRequest req = fake_nbd_request(s);

    ck_assert_uint_eq(req.type, type);
    ck_assert_uint_eq(req.offset, offset);
    ck_assert_uint_eq(req.length, length);
    return req;
}

bool fake_nbd_is_idle(FakeNbd *s)
{
    struct pollfd p = { s->fd, POLLIN, 0 };

    return poll(&p, 1, 200) == 0;
}

void fake_nbd_reply(FakeNbd *s, uint64_t cookie, uint32_t error)
{
    cookie = GUINT64_TO_BE(cookie);
    put_u32(s->fd, NBD_SIMPLE_REPLY_MAGIC);
    put_u32(s->fd, error);
    put(s->fd, &cookie, sizeof(cookie));
}

static void put_one_chunk(FakeNbd *s, bool done, uint16_t type, uint64_t cookie,
                          uint32_t bytes)
{
    uint16_t flags = GUINT16_TO_BE(done ? NBD_REPLY_FLAG_DONE : 0);

    type = GUINT16_TO_BE(type);
    cookie = GUINT64_TO_BE(cookie);
    put_u32(s->fd, NBD_STRUCTURED_REPLY_MAGIC);
    put(s->fd, &flags, sizeof(flags));
    put(s->fd, &type, sizeof(type));
    put(s->fd, &cookie, sizeof(cookie));
    put_u32(s->fd, bytes);
}

static void put_chunk(FakeNbd *s, uint16_t type, uint64_t cookie,
                      uint32_t bytes)
{
    put_one_chunk(s, true, type, cookie, bytes);
}

void fake_nbd_reply_data(FakeNbd *s, const FakeRequest *req, uint8_t byte)
{
    fake_nbd_reply_part(s, req, byte, 0, req->length, true);
}

void fake_nbd_reply_part(FakeNbd *s, const FakeRequest *req, uint8_t byte,
                         uint32_t from, uint32_t bytes, bool last)
{
    g_autofree uint8_t *data = g_malloc(bytes);
    uint64_t offset = GUINT64_TO_BE(req->offset + from);

    memset(data, byte, bytes);
    put_one_chunk(s, last, NBD_REPLY_TYPE_OFFSET_DATA, req->cookie,
                  sizeof(offset) + bytes);
    put(s->fd, &offset, sizeof(offset));
    put(s->fd, data, bytes);
}

void fake_nbd_reply_status(FakeNbd *s, uint64_t cookie, const uint32_t *extents,
                           size_t n)
{
    size_t i;

    put_chunk(s, NBD_REPLY_TYPE_BLOCK_STATUS, cookie, 4 + 8 * n);
    put_u32(s->fd, CONTEXT_ID);
    for (i = 0; i < 2 * n; i++) {
        put_u32(s->fd, extents[i]);
    }
}

/* ---- the client --------------------------------------------------------- */

static BlockDriverState *open_node(FakeNbd *s, const char *options)
{
    g_autofree char *text =
        g_strdup_printf("{'driver':'nbd','node-name':'n','discard':'unmap',"
                        "'server':{'type':'unix','path':'%s'}%s%s}",
                        s->path, *options ? "," : "", options);
    g_autoptr(JsonNode) node = NULL;
    g_autoptr(GError) err = NULL;
    BlockDriverState *bs;

    g_strdelimit(text, "'", '"');
    node = json_from_string(text, NULL);
    ck_assert(node != NULL);
    ck_assert(schema_check(&blockdev_options_type, node, "", false, NULL));
    bs = bdrv_open(json_node_get_object(node), &err);
    ck_assert_msg(bs != NULL, "%s", err ? err->message : "no error");
    return bs;
}

BlockBackend *fake_nbd_open(FakeNbd *s, const char *options)
{
    BlockBackend *blk = blk_new(
        "test", false, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL);

    fake_nbd_expect(s);
    bdrv_graph_lock();
    ck_assert(blk_attach(blk, open_node(s, options), NULL));
    bdrv_graph_unlock();
    fake_nbd_connected(s);
    return blk;
}

static void *close_client(void *opaque)
{
    bdrv_graph_lock();
    blk_free(opaque);
    bdrv_graph_unlock();
    bdrv_close_all();
    return NULL;
}

void fake_nbd_close(FakeNbd *s, BlockBackend *blk)
{
    pthread_t thread;

    ck_assert_int_eq(pthread_create(&thread, NULL, close_client, blk), 0);
    if (s->fd >= 0) {
        FakeRequest req = fake_nbd_request(s);

        if (req.type == NBD_CMD_FLUSH) {
            fake_nbd_reply(s, req.cookie, 0);
            req = fake_nbd_request(s);
        }
        ck_assert_uint_eq(req.type, NBD_CMD_DISC);
        fake_nbd_hang_up(s);
    }
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
