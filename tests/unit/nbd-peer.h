/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The other end of an NBD connection, byte by byte: a client that can do wrong
 * what real ones never do. Every function asserts that the server does its
 * part.
 */
#ifndef TESTS_NBD_PEER_H
#define TESTS_NBD_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block/export/nbd-int.h"

/* A server with the writable export "rw" and the read-only export "ro" (ids e0
 * and e1) of a disk of @size bytes. Clients have all the time in the world. */
void peer_server_start(int64_t size);
/* Stops it, and asserts that nothing is left of it. */
void peer_server_stop(void);
/* block-export-add; asserts success unless @error is what is wrong */
void peer_export_add(const char *json, const char *error);

/* A connection from which nothing was read yet */
int peer_connect_raw(void);
/* A connection whose greeting was read */
int peer_connect(void);
/* Asserts that the server hangs up, having sent nothing more. */
void peer_expect_eof(int fd);
/* Reads whatever comes until the server hangs up. */
void peer_drain(int fd);

void peer_send(int fd, const void *buf, size_t bytes);
void peer_recv(int fd, void *buf, size_t bytes);

/* ---- handshake ---------------------------------------------------------- */

void peer_client_flags(int fd, uint32_t flags);
void peer_option(int fd, uint32_t option, const void *data, uint32_t bytes);
/* Its data, with a NUL behind; asserts option and type. (transfer full) */
char *peer_option_reply(int fd, uint32_t option, uint32_t type,
                        uint32_t *bytes);
/* An option whose only reply is an ACK, or this error */
void peer_simple_option(int fd, uint32_t option, const void *data,
                        uint32_t bytes, uint32_t reply);

/* "4 bytes length, text" for option data; appends */
void peer_put_u16(GByteArray *out, uint16_t value);
void peer_put_u32(GByteArray *out, uint32_t value);
void peer_put_string(GByteArray *out, const char *s);

/* GO, with no wishes; returns the transmission flags */
uint16_t peer_go(int fd, const char *name);
/* A connection in the transmission phase, base:allocation chosen if it is
 * structured */
int peer_open(const char *name, bool structured);
/* One that uses extended headers, base:allocation chosen */
int peer_open_extended(const char *name);

/* ---- transmission ------------------------------------------------------- */

void peer_request(int fd, uint16_t flags, uint16_t type, uint64_t cookie,
                  uint64_t offset, uint32_t length);
/* The cookie of a simple reply; asserts its error */
uint64_t peer_simple_reply(int fd, uint32_t error);
/* The header of a chunk; asserts cookie and type. @done may be NULL. Returns
 * the length of what follows. */
uint32_t peer_chunk(int fd, uint64_t cookie, uint16_t type, bool *done);
/* The same with extended headers */
void peer_request_extended(int fd, uint16_t flags, uint16_t type,
                           uint64_t cookie, uint64_t offset, uint64_t length);
uint64_t peer_chunk_extended(int fd, uint64_t cookie, uint64_t offset,
                             uint16_t type, bool *done);
/* What follows the head of a chunk of type ERROR */
void peer_error_fields(int fd, uint64_t length, uint32_t error);
/* An error chunk that ends the reply */
void peer_error_chunk(int fd, uint64_t cookie, uint32_t error);
/* The reply to a structured READ, of whatever chunks */
void peer_read_reply(int fd, uint64_t cookie, uint64_t offset, void *buf,
                     uint32_t length);

#endif
