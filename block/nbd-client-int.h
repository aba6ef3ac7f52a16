/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The driver "nbd" is several files: nbd-client.c has its options, opens and
 * closes; nbd-client-rw.c and nbd-client-status.c make requests of what is asked of
 * a node; nbd-client-request.c sends them and waits for them,
 * nbd-client-engine.c is the thread that has the connection, and nbd-client-parts.c
 * looks if reads are answered in full. This is what they
 * share.
 *
 * The protocol itself is libnbd's. Only the engine calls libnbd, so that nothing
 * of it waits for a lock that is held over a system call.
 */
#ifndef BLOCK_NBD_CLIENT_INT_H
#define BLOCK_NBD_CLIENT_INT_H

#include <libnbd.h>

#include "block/block-int.h"
#include "block/status-read.h"

/* As in QEMU: requests in flight, and bytes of one */
#define NBD_CLIENT_REQUESTS 16
#define NBD_CLIENT_MAX_BYTES (INT64_C(32) << 20)

/* Extents that are taken from one reply */
#define NBD_CLIENT_EXTENTS 8192

/* Of time, microseconds; only tests change them */
typedef struct NbdClientTimes {
    int64_t connect; /* to be connected, without resolving a name, */
    int64_t handshake;
    /* Between two tries to connect: at first, and in the end */
    int64_t first_pause, last_pause;
    /* That a server has for what it was sent, after who waits gave up */
    int64_t grace;
    int64_t goodbye;  /* to hang up after it was told the end */
    int64_t patience; /* for requests that nobody can give up */
} NbdClientTimes;
extern NbdClientTimes nbd_client_times;

/* What a server has told of an export */
typedef struct NbdExportInfo {
    int64_t size;
    uint32_t min_block, opt_block, max_block; /* bytes; 0: not told */
    bool read_only;
    bool flush, fua, trim, zero, fast_zero;
    bool status; /* it has the metadata context */
} NbdExportInfo;

typedef enum NbdCommand {
    NBD_COMMAND_READ,
    NBD_COMMAND_WRITE,
    NBD_COMMAND_ZERO,
    NBD_COMMAND_TRIM,
    NBD_COMMAND_FLUSH,
    NBD_COMMAND_STATUS,
} NbdCommand;

typedef enum NbdRequestState {
    NBD_REQUEST_QUEUED, /* to be sent, maybe once more */
    NBD_REQUEST_SENT,   /* libnbd has it, and its buffer */
    NBD_REQUEST_DONE,
} NbdRequestState;

/* One request. Who makes it fills in the first part, and waits until it is done. */
typedef struct NbdRequest NbdRequest;
typedef struct NbdConn NbdConn;
struct NbdRequest {
    NbdCommand command;
    int64_t offset, bytes;
    void *buf;          /* READ, WRITE: of @bytes bytes */
    uint32_t flags;     /* LIBNBD_CMD_FLAG_ */
    uint32_t *extents;  /* STATUS: pairs of length and flags, */
    size_t max_extents; /* of so many there is room for, */
    size_t n_extents;   /* and so many have come */
    GArray *parts;      /* READ: what has come (nbd-client-parts.c), */
    bool parts_wrong;   /* and some of it twice */

    NbdConn *conn;
    NbdRequest *next, *prev; /* conn->lock, as all that follows */
    NbdRequestState state;
    Cond changed;
    int ret;        /* DONE */
    int64_t end_us; /* after a loss: when to fail if it is not sent again */
    int given_up;   /* SENT: what to return for it, instead of sending again */
    int64_t abort_us; /* SENT and given up: when the connection is broken off */
    int slot;         /* SENT */
};

/*
 * A connection to an export, which is made anew when it is lost. The node's and
 * the engine's, whoever is the last.
 */
struct NbdConn {
    /* Constant */
    JsonObject *address; /* the engine's */
    char *export;
    char *context;      /* metadata context */
    int64_t delay_us;   /* reconnect-delay */
    int64_t opening_us; /* when open gives up: the latest time to begin a try */
    int close_fd;       /* an eventfd: readable when the node closes */
    int kick_fd;        /* the same, for the engine to look at the queue */
    char *node_name;    /* for messages */

    Mutex lock;
    int refs;
    Cond opened, ended;
    bool is_open,
        is_ended;       /* the first connection was made; the engine ended */
    GError *error;      /* why not */
    NbdExportInfo info; /* constant from is_open on */
    StatusCache *cache; /* forgets when the connection is lost; or NULL */
    bool closing;
    bool broken; /* no server can be had that has the same disk */
    bool up;     /* requests are sent */
    bool kicked;
    bool lost_writes;      /* the server may have some, and not have answered */
    int64_t wait_until_us; /* not up: requests wait so long */
    NbdRequest *first, *last;
    NbdRequest *sent[NBD_CLIENT_REQUESTS];
    int in_flight;
};

/* nbd-client-engine.c */

/*
 * Connect, until conn->opening_us: 0, or -errno and @errp. Then conn->info is
 * there, and requests may be sent.
 */
int nbd_conn_open(NbdConn *conn, GError **errp);
/*
 * What it knows is forgotten when the connection is lost. @cache: a reference is
 * taken.
 */
void nbd_conn_set_cache(NbdConn *conn, StatusCache *cache);
/* Says goodbye to the server and lets go of @conn. All requests have ended. Takes
 * nbd_client_times.goodbye and a little more at most. */
void nbd_conn_close(NbdConn *conn);

/* nbd-client-request.c */
NbdConn *nbd_conn_new(void);
void nbd_conn_unref(NbdConn *conn);
/* Have the engine look; conn->lock held. */
void nbd_conn_kick(NbdConn *conn);
/*
 * Send @req and wait for the reply: 0 or -errno. While there is no connection it
 * waits for one, as long as reconnect-delay says, then -EIO. -ECANCELED if the
 * request that this thread is in is given up; then libnbd has let go of the buffer,
 * too.
 */
int nbd_conn_run(NbdConn *conn, NbdRequest *req);
/* The engine's; conn->lock held. The connection is lost now. */
void nbd_conn_lost(NbdConn *conn);
/* The request is done; it must not be touched any more. */
void nbd_request_done(NbdRequest *req, int ret);
/* It was sent, and no reply is to come: it is sent again or it fails. */
void nbd_request_lost(NbdRequest *req);
/* The next to be sent, which is so then; or NULL. */
NbdRequest *nbd_conn_next(NbdConn *conn);
/* All that are not sent fail. */
void nbd_conn_fail_queue(NbdConn *conn, int ret);

/* nbd-client-parts.c: of a READ that is SENT; the engine's, but free() */
void nbd_parts_begin(NbdRequest *req);
void nbd_parts_add(NbdRequest *req, int64_t start, int64_t bytes);
/* Did each byte come, and once? */
bool nbd_parts_are_whole(NbdRequest *req);
void nbd_parts_free(NbdRequest *req);

/* nbd-client-rw.c */
typedef struct NbdClient {
    NbdConn *conn;
    char *filename; /* for image information; or NULL */
    StatusCache *cache;
    StatusReader reader;
    bool other_context; /* x-dirty-bitmap: it is no block status */
    uint64_t writes;    /* atomic: so many have ended, */
    uint64_t flushed;   /* and so many of them the last flush has seen */
} NbdClient;

int nbd_client_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes,
                      const struct iovec *iov, int niov, int flags);
int nbd_client_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes,
                       const struct iovec *iov, int niov, int flags);
int nbd_client_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                             int64_t bytes, int flags);
int nbd_client_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes);
int nbd_client_flush(BlockDriverState *bs);

/* nbd-client-status.c */
int nbd_client_block_status(BlockDriverState *bs, unsigned want, int64_t offset,
                            int64_t bytes, int64_t *pnum, int64_t *map,
                            BlockDriverState **file);

#endif
