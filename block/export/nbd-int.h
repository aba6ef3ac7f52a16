/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NBD server's parts among themselves.
 *
 *   nbd-server.c     listens and accepts, on the main thread
 *   nbd-export.c     exports by name
 *   nbd-bitmaps.c    the dirty bitmaps that an export shows
 *   nbd-conn.c       connections, and what they share
 *   nbd-crew.c       the threads that serve a connection
 *   nbd-io.c         bytes in and out of a connection
 *   nbd-out.c        replies on their way out
 *   nbd-buffer.c     request memory
 *   nbd-negotiate.c  the handshake
 *   nbd-request.c    requests: taken off the socket, and done
 *   nbd-ring.c       requests that the kernel carries out by itself
 *   nbd-read.c       READ
 *   nbd-status.c     BLOCK_STATUS
 *   nbd-reply.c      replies, in the three forms there are
 *
 * Locks, in this order: the server's, nbd_lock, then one of exports.lock, a
 * connection's lock, and its send_lock. send_lock is held while replies go
 * into the socket, and of a simple reply to a READ that does not fit into the
 * buffer, also while its further pieces are read from the disk: they follow
 * their header without a gap. The others are never held over I/O: who has one
 * of them only tries send_lock.
 */
#ifndef BLOCK_EXPORT_NBD_INT_H
#define BLOCK_EXPORT_NBD_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "block/dirty-bitmap.h"
#include "block/export/export-int.h"
#include "block/export/nbd-protocol.h"
#include "block/wait.h"
#include "util/thread.h"

/* The longest READ or WRITE, as in QEMU */
#define NBD_MAX_REQUEST (UINT32_C(32) << 20)
/* The longest data of an option; enough for any that makes sense */
#define NBD_MAX_OPTION (UINT32_C(64) << 10)

/*
 * What the whole daemon spends on NBD clients. A thread is either the one that
 * each connection always has, or a helper. A thread's buffer of the first size
 * is always granted; beyond it, buffers grow only as long as all of them
 * together stay within the limit, and requests are done in pieces otherwise.
 */
typedef struct NbdLimits {
    unsigned connections;
    unsigned helpers;
    unsigned crew;        /* threads, and so requests in flight, a connection */
    size_t small_buffer;  /* bytes, whole pages; at least 64 KiB */
    size_t kept_buffer;   /* longer ones are given back after the request */
    size_t memory;        /* bytes of all buffers together */
    int64_t handshake_us; /* how long a client may take to choose an export,
                             unless handshake-max-seconds says otherwise */
    int64_t hurry_us;     /* the same, when others wait for its place */
    int64_t idle_us;      /* how long a helper stays without work */
    int64_t patience_us;  /* after so long, a slow request loses the turn */
} NbdLimits;
extern NbdLimits nbd_limits; /* changed by nobody but tests */

/* Metadata contexts, by id: the bitmaps have those behind the others. */
enum {
    NBD_CONTEXT_ALLOCATION,
    NBD_CONTEXT_DEPTH,
    NBD_CONTEXT_BITMAPS,
    NBD_CONTEXTS = 64,
    NBD_MAX_BITMAPS = NBD_CONTEXTS - NBD_CONTEXT_BITMAPS,
};
typedef uint64_t NbdContexts; /* bit n: the context of id n */
#define NBD_CONTEXT_BIT(id) (UINT64_C(1) << (id))

/* A dirty bitmap that is shown; it is busy, and its node stays (a reference) */
typedef struct NbdBitmap {
    BdrvDirtyBitmap *bitmap;
    BlockDriverState *bs;
} NbdBitmap;

typedef struct NbdExport {
    BlockExport common;
    char *name;
    char *description;       /* or NULL */
    uint16_t flags;          /* of transmission */
    uint32_t preferred_size; /* best size of requests */
    bool allocation_depth;   /* offers that context */
    NbdBitmap *bitmaps;      /* offers theirs, in this order */
    unsigned n_bitmaps;
} NbdExport;

typedef struct NbdThread NbdThread;
typedef struct NbdRing NbdRing;

enum {
    NBD_IN_BYTES = 64 * 1024,  /* received at once, a connection */
    NBD_OUT_BYTES = 64 * 1024, /* sent at once; longer replies go alone */
    NBD_OUT_HEADS = 2048,
    NBD_OUT_PARTS = 64,
};

/*
 * Replies that are to be sent together (nbd-out.c). Their heads are copied;
 * data stays where it is, in a thread's buffer.
 */
typedef struct NbdOut {
    struct iovec parts[NBD_OUT_PARTS];
    int first, end; /* of parts: what is not sent yet */
    uint8_t heads[NBD_OUT_HEADS];
    size_t heads_used;
    size_t bytes;  /* all parts together */
    unsigned held; /* so many replies and chunks */
    unsigned sent; /* atomic: so often was all of it sent, or given up */
    bool waits; /* atomic: there are some, and nobody is about to send them */
} NbdOut;

typedef struct NbdConn {
    int fd;
    /* Fired: no further request is read, and the crew goes home. */
    BdrvCancel *cancel;
    int64_t begun;    /* monotonic */
    int64_t deadline; /* of the handshake, monotonic; afterwards 0 */
    int hung_up;      /* atomic: the socket was shut down */

    /* What was negotiated; constant in the transmission phase */
    NbdExport *exp;
    uint64_t size;
    uint16_t flags;
    bool structured;      /* replies are in chunks */
    bool extended;        /* and so are 64 bits of length; implies structured */
    NbdContexts contexts; /* that were chosen */

    /* Bytes received but not used yet; belong to whoever has the turn */
    uint8_t in[NBD_IN_BYTES];
    size_t in_start, in_end;
    /* The same: so many requests go the plain way before nbd-ring.c is asked again, and
     * so many did the last time */
    unsigned ring_pause, ring_miss;

    Mutex lock;
    bool turn_taken;    /* lock: a thread reads from the socket */
    bool called;        /* lock: an idle thread was woken to take the turn */
    NbdThread *idle;    /* lock: those that wait for the turn, latest first */
    NbdThread *keeper;  /* lock: has the turn, and does a request; or NULL */
    unsigned kept;      /* atomic: counts its beginnings and ends: odd while
                          there is one */
    unsigned last_kept; /* nbd_lock: the watch's last look at it */
    /* nbd_lock: when the watch tries to send what waits (INT64_MAX: there is
     * no need), and how much later again, monotonic */
    int64_t send_at, send_again;
    int score; /* atomic: are requests done at once? */

    Mutex send_lock; /* a reply goes out in one piece; may be held over I/O */
    NbdOut out;      /* send_lock */

    size_t large; /* atomic: what its buffers have of large_limit() */

    int threads;       /* nbd_lock; read without it as a hint */
    int wants_helper;  /* nbd_lock; read without it as a hint */
    NbdExport *inside; /* nbd_lock: @exp, as long as it is held */
    GList link;        /* nbd_lock: in the list of connections */
    GList wait_link;   /* nbd_lock: in the list of those that want a helper */
} NbdConn;

typedef struct NbdRequest {
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset;
    uint64_t length;
    uint64_t written;     /* WRITE: so much was done while the rest came in */
    NbdContexts contexts; /* BLOCK_STATUS: those that are asked for */
    int error;            /* 0, or what is wrong with it, a negative errno */
    const char *message;  /* for humans, if there is an error */
} NbdRequest;

struct NbdThread {
    NbdConn *conn;
    NbdThread *next_idle; /* conn->lock */
    bool is_idle;         /* conn->lock: it is on that list */
    bool woken;           /* conn->lock: it was called */
    Cond cond;
    NbdRequest req;
    bool keeps; /* the turn, for what it does; unless it was taken away */
    unsigned
        may_hold;    /* atomic: so many replies may wait to be sent together */
    uint8_t *buffer; /* page-aligned */
    size_t capacity; /* of the buffer, bytes */
    uint8_t *data;   /* the part of it that this request has; page-aligned */
    /* So much of it, whole pages from its start, is data of replies in
     * conn->out, as long as out.sent is held_since. */
    size_t held;
    unsigned held_since;
    NbdRing *ring; /* NULL until it needs one */
};

extern Mutex nbd_lock; /* names, connections, the share-out of helpers */

/* ---- nbd-server.c ------------------------------------------------------- */

/* A connection has ended: there may be room for the next. */
void nbd_server_conn_ended(void);

/* ---- nbd-export.c ------------------------------------------------------- */

/* What a client is told of an export */
typedef struct NbdExportInfo {
    char *name;
    char *description; /* or NULL */
    uint64_t size;
    uint16_t flags;
    uint32_t preferred_size;
    bool allocation_depth;
    char **bitmaps; /* their names; NULL-terminated */
} NbdExportInfo;

void nbd_export_info_free(NbdExportInfo *info);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NbdExportInfo, nbd_export_info_free)

/*
 * The export of that name, or NULL. If @conn is not NULL it becomes a client of
 * the export.
 */
NbdExportInfo *nbd_export_lookup(const char *name, NbdConn *conn);
GPtrArray *nbd_export_list(void); /* of NbdExportInfo */

/* ---- nbd-bitmaps.c ------------------------------------------------------ */

/* Those that @options name, of @exp's node. Graph mutex held */
bool nbd_bitmaps_create(NbdExport *exp, JsonObject *options, GError **errp);
void nbd_bitmaps_destroy(NbdExport *exp);
/* (transfer full) */
char **nbd_bitmaps_names(const NbdExport *exp);

/* ---- nbd-conn.c --------------------------------------------------------- */

/* Serve the client behind @fd, which is the connection's from now on; it may
 * take so long to choose an export (INT64_MAX: for ever). */
bool nbd_conn_start(int fd, int64_t handshake_us, GError **errp);
/* Hang up on the client. */
void nbd_conn_abort(NbdConn *conn);
/* That was done: what takes long need not go on. */
static inline bool nbd_conn_hung_up(NbdConn *conn)
{
    return __atomic_load_n(&conn->hung_up, __ATOMIC_RELAXED);
}
unsigned nbd_conn_count(void);
/*
 * There is no room for others. When does the time end (monotonic microseconds)
 * in which the next of those who have not chosen an export must not be disturbed?
 * With @hang_up, on those whose time has ended. INT64_MAX: there are none.
 */
int64_t nbd_conn_hurry(bool hang_up);
/* Hang up on all clients of @exp, or on all there are (NULL). */
void nbd_conn_abort_all(NbdExport *exp);
/* Wait until all connections have ended; false if they have not in time. */
bool nbd_conn_wait_all(int64_t deadline_us);

/* For a thread of the crew, which holds no lock: */
/* The turn was given away, and there is nobody to take it. */
void nbd_conn_want_helper(NbdConn *conn);
/* Between requests: does another crew need a thread more? Cheap if not. */
bool nbd_conn_should_yield(NbdConn *conn);
/* Then, or if there was nothing to do for a while, without a buffer, for nobody
 * waits for those who have left. True: the caller has left its crew. */
bool nbd_conn_yield(NbdConn *conn);
bool nbd_conn_leave_idle(NbdConn *conn);
/* The connection ends. The last one clears up. */
void nbd_conn_leave(NbdConn *conn);
/* conn->keeper was set, and conn->kept changed after that. */
void nbd_conn_wake_watch(void);

/* ---- nbd-crew.c --------------------------------------------------------- */

void nbd_crew_init(NbdConn *conn);
/* The life of a thread: @opaque is its connection, which counts it already. */
void *nbd_crew_main(void *opaque);
/* For a thread in a request: it will have to wait for the disk. Others need not
 * wait for the turn, nor clients for the replies to what is done. */
void nbd_crew_will_wait(NbdThread *thread);
/* For the watch: a request has kept the turn for too long. True: now somebody
 * else is needed to take it. */
bool nbd_crew_take_turn_away(NbdConn *conn);

/* The turn is another's. Waits for nothing */
void nbd_crew_pass_turn(NbdConn *conn);

/* ---- nbd-ring.c --------------------------------------------------------- */

/* For who has the turn: may the next requests be for nbd_ring_serve()? */
bool nbd_ring_is_for(NbdThread *t);
/*
 * Receive requests and do them, as long as they can be submitted. Nothing waits in
 * @t's buffer to be sent. True: @t still has the turn, and the next request goes the
 * plain way; false: it has given it away. What was begun has ended, either way.
 */
bool nbd_ring_serve(NbdThread *t);
void nbd_ring_free(NbdThread *t);

/* ---- nbd-io.c ----------------------------------------------------------- */

/* Exactly @bytes, or a negative errno (-EPIPE at the end). */
int nbd_conn_recv(NbdConn *conn, void *buf, size_t bytes);
/*
 * Send *@iov on, and leave there what is still to be sent: nothing, or after a
 * negative errno the rest. -EAGAIN: no more can be sent without waiting
 * (@flags: MSG_DONTWAIT); after any other the connection is broken. The caller
 * holds send_lock, or is the only thread.
 */
int nbd_conn_send_on(NbdConn *conn, struct iovec **iov, int *niov, int flags);
/* All of it, or a negative errno. Changes @iov. */
int nbd_conn_send(NbdConn *conn, struct iovec *iov, int niov);

/* ---- nbd-out.c ---------------------------------------------------------- */

/*
 * A reply, or a chunk of one: @head and @fields, then @data, which is in the
 * thread's t->data, or there for ever. It is sent, with all that waits, or waits
 * itself if t->may_hold so many. False if the connection is broken.
 */
bool nbd_out_add(NbdThread *t, const void *head, size_t head_size,
                 const void *fields, size_t fields_size, const void *data,
                 size_t data_size);
/* Send what waits. False if the connection is broken. */
bool nbd_out_send(NbdConn *conn);
/* The same for the watch, which waits for nothing. False: something is left. */
bool nbd_out_try_send(NbdConn *conn);
/*
 * The same, and now the caller alone may send, by nbd_conn_send(); 0 or a
 * negative errno. Then nbd_out_end(), with whether that went well, the same way.
 */
int nbd_out_begin(NbdConn *conn);
/* As nbd_out_begin(), but waits for nothing: -EAGAIN, and it is not so. */
int nbd_out_try_begin(NbdConn *conn);
void nbd_out_end(NbdConn *conn, int ret);
/* Does anything wait to be sent? Without a lock: no, if all that the caller
 * knows of was sent. */
bool nbd_out_waits(NbdConn *conn);
/* How much of @t's buffer, from its start, is data that waits to be sent? */
size_t nbd_out_held(NbdThread *t);

/* ---- nbd-buffer.c ------------------------------------------------------- */

/*
 * t->data for @bytes of data: its capacity is at least that, or if memory is
 * short, at least nbd_limits.small_buffer. Returns the smaller of @bytes and
 * what there is behind data that waits to be sent. Its old contents are lost, but what waits to be sent is not.
 */
size_t nbd_buffer_want(NbdThread *t, size_t bytes);
/* Would that much be had without sending anything before? */
bool nbd_buffer_has_room(NbdThread *t, size_t bytes);
/* A request was done: does its memory stay with the thread? */
void nbd_buffer_relax(NbdThread *t);
/* What waits to be sent is sent before. */
void nbd_buffer_free(NbdThread *t);
size_t nbd_buffer_total(void); /* bytes of all buffers, for tests */

/* ---- nbd-negotiate.c ---------------------------------------------------- */

/* The handshake: true when the transmission phase begins. */
bool nbd_negotiate(NbdConn *conn);

/* ---- nbd-request.c ------------------------------------------------------ */

/* Was the next request received already, as a whole? For who has the turn */
bool nbd_request_is_here(NbdConn *conn);
/* Can it ever be received as a whole? */
bool nbd_request_fits(NbdConn *conn);
/* If it is here: the request, checked, and how long its head is. It stays there. */
bool nbd_request_peek(NbdConn *conn, NbdRequest *req, size_t *head);
/* How many more were, about, if they are like @req? For who has the turn */
unsigned nbd_request_more(NbdConn *conn, const NbdRequest *req);
/*
 * Read the next request into @thread->req, and a WRITE's data. The caller has
 * the turn. False when there is none: the client has left, or is out of step.
 */
bool nbd_request_receive(NbdThread *thread);
/* Do it, and reply. */
void nbd_request_run(NbdThread *thread);

/* ---- nbd-read.c, nbd-status.c ------------------------------------------- */

/* Do the READ, or the BLOCK_STATUS, and reply. */
void nbd_read_run(NbdThread *thread);
void nbd_status_run(NbdThread *thread);

/* ---- nbd-reply.c -------------------------------------------------------- */

/*
 * Replies to @thread->req. If one cannot be sent, the connection is broken, and
 * is hung up.
 */

/* It is done, and there is nothing to say. */
void nbd_reply_ok(NbdThread *thread);
/* It failed with -@ret; NULL @message: what that number means. */
void nbd_reply_error(NbdThread *thread, int ret, const char *message);
/*
 * One chunk, of a client that takes chunks: @fields, then @data. @done: it is
 * the last of them. False if it could not be sent.
 */
bool nbd_reply_chunk(NbdThread *thread, uint16_t type, bool done,
                     const void *fields, size_t fields_size, const void *data,
                     size_t data_size);
/*
 * The same for who sends by himself: replies as bytes, and data that stays where it
 * is. data, hole: of what comes after the first @done bytes of a READ; it is the end of
 * the reply if it is the end of the READ. A hole, only to a client that takes chunks;
 * only they get less than all data at once.
 */
typedef struct NbdReply {
    uint8_t head[64];
    size_t head_size;
    const void *data;
    size_t data_size;
} NbdReply;
void nbd_reply_make_ok(NbdReply *reply, const NbdConn *conn,
                       const NbdRequest *req);
void nbd_reply_make_error(NbdReply *reply, const NbdConn *conn,
                          const NbdRequest *req, int ret, const char *message);
void nbd_reply_make_data(NbdReply *reply, const NbdConn *conn,
                         const NbdRequest *req, uint32_t done, const void *data,
                         uint32_t bytes);
void nbd_reply_make_hole(NbdReply *reply, const NbdConn *conn,
                         const NbdRequest *req, uint32_t done, uint32_t bytes);
bool nbd_reply_send(NbdThread *thread, const NbdReply *reply);
/* The head of a simple reply, for whoever sends data behind it */
NbdSimpleReply nbd_simple_reply(const NbdRequest *req, uint32_t error);

#endif
