/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The numbers of the NBD protocol, and its messages as they are on the wire.
 * All integers are big-endian there.
 */
#ifndef BLOCK_EXPORT_NBD_PROTOCOL_H
#define BLOCK_EXPORT_NBD_PROTOCOL_H

#include <glib.h>
#include <stdint.h>

#define NBD_PACKED __attribute__((packed))

/* ---- handshake ---------------------------------------------------------- */

#define NBD_INIT_MAGIC UINT64_C(0x4e42444d41474943)   /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REP_MAGIC UINT64_C(0x0003e889045565a9)

/* Longest string the protocol allows: export names, descriptions, queries */
#define NBD_MAX_STRING 4096

enum { /* handshake flags, server and client alike */
    NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
    NBD_FLAG_NO_ZEROES = 1 << 1,
};

enum { /* transmission flags */
    NBD_FLAG_HAS_FLAGS = 1 << 0,
    NBD_FLAG_READ_ONLY = 1 << 1,
    NBD_FLAG_SEND_FLUSH = 1 << 2,
    NBD_FLAG_SEND_FUA = 1 << 3,
    NBD_FLAG_SEND_TRIM = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
    NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
    NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

enum { /* options */
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11,
};

/* replies to options */
#define NBD_REP_ACK UINT32_C(1)
#define NBD_REP_SERVER UINT32_C(2)
#define NBD_REP_INFO UINT32_C(3)
#define NBD_REP_META_CONTEXT UINT32_C(4)
#define NBD_REP_ERR_UNSUP UINT32_C(0x80000001)
#define NBD_REP_ERR_INVALID UINT32_C(0x80000003)
#define NBD_REP_ERR_UNKNOWN UINT32_C(0x80000006)
#define NBD_REP_ERR_TOO_BIG UINT32_C(0x80000009)
#define NBD_REP_ERR_EXT_HEADER_REQD UINT32_C(0x8000000a)

enum { /* information an NBD_REP_INFO carries */
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
};

typedef struct NBD_PACKED NbdGreeting {
    uint64_t init_magic;
    uint64_t option_magic;
    uint16_t flags;
} NbdGreeting;

typedef struct NBD_PACKED NbdOption {
    uint64_t magic;
    uint32_t option;
    uint32_t length;
} NbdOption;

typedef struct NBD_PACKED NbdOptionReply {
    uint64_t magic;
    uint32_t option;
    uint32_t type;
    uint32_t length;
} NbdOptionReply;

typedef struct NBD_PACKED NbdExportNameReply {
    uint64_t size;
    uint16_t flags;
    uint8_t zeroes[124];
} NbdExportNameReply;

typedef struct NBD_PACKED NbdInfoExport {
    uint16_t type;
    uint64_t size;
    uint16_t flags;
} NbdInfoExport;

typedef struct NBD_PACKED NbdInfoBlockSize {
    uint16_t type;
    uint32_t minimum;
    uint32_t preferred;
    uint32_t maximum;
} NbdInfoBlockSize;

/* ---- transmission ------------------------------------------------------- */

#define NBD_REQUEST_MAGIC UINT32_C(0x25609513)
#define NBD_EXTENDED_REQUEST_MAGIC UINT32_C(0x21e41c71)
#define NBD_SIMPLE_REPLY_MAGIC UINT32_C(0x67446698)
#define NBD_STRUCTURED_REPLY_MAGIC UINT32_C(0x668e33ef)
#define NBD_EXTENDED_REPLY_MAGIC UINT32_C(0x6e8a278c)

enum { /* requests */
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

enum { /* flags of requests */
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
    NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5, /* the length is that of data to come */
};

enum { /* structured and extended replies */
    NBD_REPLY_FLAG_DONE = 1 << 0,

    NBD_REPLY_TYPE_NONE = 0,
    NBD_REPLY_TYPE_OFFSET_DATA = 1,
    NBD_REPLY_TYPE_OFFSET_HOLE = 2,
    NBD_REPLY_TYPE_BLOCK_STATUS = 5,
    NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
    NBD_REPLY_TYPE_ERROR = 0x8001,
};

enum { /* base:allocation */
    NBD_STATE_HOLE = 1 << 0,
    NBD_STATE_ZERO = 1 << 1,
};

enum { /* qemu:dirty-bitmap:NAME */
    NBD_STATE_DIRTY = 1 << 0,
};

enum { /* error values */
    NBD_SUCCESS = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

typedef struct NBD_PACKED NbdRequestHeader {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t cookie; /* the client's, sent back as it came */
    uint64_t offset;
    uint32_t length;
} NbdRequestHeader;

/* With extended headers */
typedef struct NBD_PACKED NbdExtendedRequestHeader {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset;
    uint64_t length;
} NbdExtendedRequestHeader;

typedef struct NBD_PACKED NbdSimpleReply {
    uint32_t magic;
    uint32_t error;
    uint64_t cookie;
} NbdSimpleReply;

/* The head of a structured reply's chunk */
typedef struct NBD_PACKED NbdChunk {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint32_t length; /* of what follows */
} NbdChunk;

/* The same with extended headers */
typedef struct NBD_PACKED NbdExtendedChunk {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset; /* the request's */
    uint64_t length; /* of what follows */
} NbdExtendedChunk;

/* What follows the head, before the data */
typedef struct NBD_PACKED NbdDataFields {
    uint64_t offset;
} NbdDataFields;

typedef struct NBD_PACKED NbdHoleFields {
    uint64_t offset;
    uint32_t length; /* of the hole */
} NbdHoleFields;

typedef struct NBD_PACKED NbdErrorFields {
    uint32_t error;
    uint16_t message_length;
} NbdErrorFields;

typedef struct NBD_PACKED NbdStatusFields {
    uint32_t context;
} NbdStatusFields;

typedef struct NBD_PACKED NbdExtent {
    uint32_t length;
    uint32_t flags;
} NbdExtent;

typedef struct NBD_PACKED NbdExtendedStatusFields {
    uint32_t context;
    uint32_t count; /* of extents */
} NbdExtendedStatusFields;

typedef struct NBD_PACKED NbdExtendedExtent {
    uint64_t length;
    uint64_t flags;
} NbdExtendedExtent;

/* What comes with a BLOCK_STATUS that has PAYLOAD_LEN; then ids of contexts */
typedef struct NBD_PACKED NbdStatusPayload {
    uint64_t length;
} NbdStatusPayload;

G_STATIC_ASSERT(sizeof(NbdExportNameReply) == 134);
G_STATIC_ASSERT(sizeof(NbdRequestHeader) == 28);
G_STATIC_ASSERT(sizeof(NbdExtendedRequestHeader) == 32);
G_STATIC_ASSERT(sizeof(NbdChunk) == 20);
G_STATIC_ASSERT(sizeof(NbdExtendedChunk) == 32);

#endif
