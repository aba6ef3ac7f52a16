# SPDX-License-Identifier: GPL-2.0-or-later
"""An NBD client without dependencies, simple enough to misuse on purpose.

Speaks fixed newstyle negotiation and all kinds of reply: simple, structured, and
with extended headers, which allow 64 bits of length. A connection belongs to one
thread; several requests may be in flight (request() and reply()).
"""

import collections
import contextlib
import errno
import os
import socket
import struct

NBD_MAGIC = b"NBDMAGIC"
OPT_MAGIC = b"IHAVEOPT"
OPT_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
EXTENDED_REQUEST_MAGIC = 0x21E41C71
EXTENDED_REPLY_MAGIC = 0x6E8A278C

FLAG_C_FIXED_NEWSTYLE, FLAG_C_NO_ZEROES = 1, 2

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS = 1, 2, 3, 5
OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY = 6, 7, 8
OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_EXTENDED_HEADERS = 9, 10, 11

REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_FLAG_ERROR = 1 << 31
REP_ERR_UNSUP, REP_ERR_POLICY, REP_ERR_INVALID, REP_ERR_UNKNOWN = (
    REP_FLAG_ERROR + code for code in (1, 2, 3, 6))

INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

FLAG_HAS_FLAGS, FLAG_READ_ONLY, FLAG_SEND_FLUSH, FLAG_SEND_FUA = 1, 2, 4, 8
FLAG_SEND_TRIM, FLAG_SEND_WRITE_ZEROES, FLAG_SEND_DF = 32, 64, 128
FLAG_CAN_MULTI_CONN, FLAG_SEND_CACHE, FLAG_SEND_FAST_ZERO = 256, 1024, 2048

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE = range(6)
CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = 6, 7

CMD_FLAG_FUA, CMD_FLAG_NO_HOLE, CMD_FLAG_DF = 1, 2, 4
CMD_FLAG_REQ_ONE, CMD_FLAG_FAST_ZERO, CMD_FLAG_PAYLOAD_LEN = 8, 16, 32

CHUNK_DONE = 1
CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE = 0, 1, 2
CHUNK_BLOCK_STATUS, CHUNK_BLOCK_STATUS_EXT = 5, 6
CHUNK_ERROR, CHUNK_ERROR_OFFSET = 32769, 32770

STATE_HOLE, STATE_ZERO = 1, 2

# Numbers on the wire that are not this system's own
_ERRNO = {95: errno.EOPNOTSUPP, 75: errno.EOVERFLOW, 108: errno.ESHUTDOWN}

Extent = collections.namedtuple("Extent", "offset length flags")


class OptionError(Exception):
    """The server refused an option."""

    def __init__(self, option, code, message):
        super().__init__(f"option {option}: error {code:#x}: {message}")
        self.code = code


class ProtocolError(Exception):
    """The server sent what no server may send."""


class NBD:
    """One connection

    address: the path of a unix socket, or (host, port).
    contexts: metadata contexts to ask for, in order.
    extended: ask for extended headers, which are structured, too.
    negotiate: False leaves the connection right after the greeting.
    """

    def __init__(self, address, export="", structured=True,
                 contexts=("base:allocation",), timeout=60, negotiate=True,
                 extended=False):
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address, timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.size = self.flags = None
        self.block_sizes = None  # minimum, preferred, maximum
        self.description = None
        self.contexts = {}  # id -> name
        self._cookie = 0
        self._replies = {}  # cookie -> what has been received of it
        self._lengths = {}  # cookie -> bytes of data a simple reply brings
        self._unsent = None  # requests that go out together
        if self.receive(16) != NBD_MAGIC + OPT_MAGIC:
            raise ProtocolError("not a newstyle server")
        (self.handshake_flags,) = struct.unpack(">H", self.receive(2))
        self.structured = self.extended = False
        if not negotiate:
            return
        self.sock.sendall(struct.pack(
            ">I", FLAG_C_FIXED_NEWSTYLE | FLAG_C_NO_ZEROES))
        if extended:
            self.option(OPT_EXTENDED_HEADERS)
            self.structured = self.extended = True
        elif structured:
            self.option(OPT_STRUCTURED_REPLY)
            self.structured = True
        if self.structured and contexts:
            self.set_contexts(export, contexts)
        self.go(export)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Say good-bye and close"""
        try:
            self.send_request(CMD_DISC)
        except OSError:
            pass
        self.sock.close()

    def receive(self, length):
        """Exactly that many bytes; EOFError if the server hangs up"""
        data = bytearray(length)
        view = memoryview(data)
        while view:
            got = self.sock.recv_into(view)
            if got == 0:
                raise EOFError(f"{len(view)} of {length} bytes missing")
            view = view[got:]
        return bytes(data)

    # ---- negotiation ----------------------------------------------------

    def send_option(self, option, data=b""):
        self.sock.sendall(OPT_MAGIC + struct.pack(">II", option, len(data)) +
                          data)

    def receive_option_reply(self, option):
        """Type and data of one reply; raises OptionError for an error"""
        magic, about, kind, length = struct.unpack(">QIII", self.receive(20))
        data = self.receive(length)
        if magic != OPT_REPLY_MAGIC or about != option:
            raise ProtocolError(f"reply {magic:#x} to option {about}")
        if kind & REP_FLAG_ERROR:
            raise OptionError(option, kind, data.decode(errors="replace"))
        return kind, data

    def option(self, option, data=b""):
        """Send an option; the replies before the final acknowledgement"""
        self.send_option(option, data)
        replies = []
        while True:
            kind, data = self.receive_option_reply(option)
            if kind == REP_ACK:
                return replies
            replies.append((kind, data))

    def list_exports(self):
        names = []
        for _, data in self.option(OPT_LIST):
            (length,) = struct.unpack_from(">I", data)
            names.append(data[4:4 + length].decode())
        return names

    @staticmethod
    def _string(text):
        text = text.encode()
        return struct.pack(">I", len(text)) + text

    def meta_contexts(self, option, export, queries):
        """LIST or SET metadata contexts: {id: name}"""
        data = self._string(export) + struct.pack(">I", len(queries))
        data += b"".join(self._string(query) for query in queries)
        return {struct.unpack_from(">I", reply)[0]: reply[4:].decode()
                for _, reply in self.option(option, data)}

    def set_contexts(self, export, queries):
        self.contexts = self.meta_contexts(OPT_SET_META_CONTEXT, export,
                                           queries)

    def go(self, export, option=OPT_GO):
        """NBD_OPT_GO, or INFO: stores what the server says of the export"""
        infos = (INFO_BLOCK_SIZE, INFO_DESCRIPTION)
        data = self._string(export) + struct.pack(f">H{len(infos)}H",
                                                  len(infos), *infos)
        for _, reply in self.option(option, data):
            (kind,) = struct.unpack_from(">H", reply)
            if kind == INFO_EXPORT:
                self.size, self.flags = struct.unpack_from(">QH", reply, 2)
            elif kind == INFO_BLOCK_SIZE:
                self.block_sizes = struct.unpack_from(">III", reply, 2)
            elif kind == INFO_DESCRIPTION:
                self.description = reply[2:].decode()

    # ---- requests -------------------------------------------------------

    def send_request(self, command, offset=0, length=0, data=b"", flags=0):
        """Send one request, not waiting for the reply; returns its cookie"""
        self._cookie += 1
        self._lengths[self._cookie] = length if command == CMD_READ else 0
        magic, layout = REQUEST_MAGIC, ">IHHQQI"
        if self.extended:
            magic, layout = EXTENDED_REQUEST_MAGIC, ">IHHQQQ"
            if command == CMD_WRITE:
                flags |= CMD_FLAG_PAYLOAD_LEN
        header = struct.pack(layout, magic, flags, command, self._cookie,
                             offset, length)
        if self._unsent is None:
            self.sock.sendall(header + data)
        else:
            self._unsent += header + data
        return self._cookie

    @contextlib.contextmanager
    def together(self):
        """What is sent by send_request() meanwhile goes out in one piece."""
        self._unsent = bytearray()
        yield
        unsent, self._unsent = self._unsent, None
        self.sock.sendall(unsent)

    def reply(self, cookie):
        """Wait for the whole reply to that request

        Returns what it brought: data of a read, status by context name.
        Raises OSError if the server says that the request failed.
        """
        while cookie not in self._replies or not self._replies[cookie].done:
            self._receive_chunk()
        result = self._replies.pop(cookie)
        del self._lengths[cookie]
        if result.error:
            code, message = result.error
            code = _ERRNO.get(code, code)
            raise OSError(code, message or os.strerror(code))
        return result

    def replied(self, cookie):
        """Whether the whole reply has already been received"""
        return cookie in self._replies and self._replies[cookie].done

    def _receive_chunk(self):
        (magic,) = struct.unpack(">I", self.receive(4))
        if self.extended:
            if magic != EXTENDED_REPLY_MAGIC:
                raise ProtocolError(f"reply magic {magic:#x}")
            flags, kind, cookie, _, length = struct.unpack(">HHQQQ",
                                                           self.receive(28))
            result = self._result(cookie)
            result.done = bool(flags & CHUNK_DONE)
            self._take_chunk(result, kind, self.receive(length))
            return
        if magic == SIMPLE_REPLY_MAGIC:
            code, cookie = struct.unpack(">IQ", self.receive(12))
            result = self._result(cookie)
            result.done = True
            if code:
                result.error = (code, "")
            elif self._lengths[cookie]:
                if self.structured:
                    raise ProtocolError("a simple reply to a read")
                result.data += self.receive(self._lengths[cookie])
            return
        if magic != STRUCTURED_REPLY_MAGIC or not self.structured:
            raise ProtocolError(f"reply magic {magic:#x}")
        flags, kind, cookie, length = struct.unpack(">HHQI", self.receive(16))
        result = self._result(cookie)
        result.done = bool(flags & CHUNK_DONE)
        self._take_chunk(result, kind, self.receive(length))

    def _result(self, cookie):
        if cookie not in self._lengths:
            raise ProtocolError(f"reply to request {cookie}, never made")
        if cookie not in self._replies:
            self._replies[cookie] = _Result()
        return self._replies[cookie]

    def _take_chunk(self, result, kind, body):
        if kind == CHUNK_OFFSET_DATA:
            (offset,) = struct.unpack_from(">Q", body)
            result.pieces.append((offset, body[8:]))
        elif kind == CHUNK_OFFSET_HOLE:
            offset, length = struct.unpack(">QI", body)
            result.pieces.append((offset, bytes(length)))
            result.holes += length
        elif kind == CHUNK_BLOCK_STATUS_EXT and self.extended:
            context, count = struct.unpack_from(">II", body)
            extents = list(struct.iter_unpack(">QQ", body[8:]))
            if count != len(extents):
                raise ProtocolError(f"{len(extents)} extents, not {count}")
            result.status[self.contexts[context]] = extents
        elif kind == CHUNK_BLOCK_STATUS and not self.extended:
            (context,) = struct.unpack_from(">I", body)
            result.status[self.contexts[context]] = list(
                struct.iter_unpack(">II", body[4:]))
        elif kind in (CHUNK_ERROR, CHUNK_ERROR_OFFSET):
            code, length = struct.unpack_from(">IH", body)
            result.error = (code, body[6:6 + length].decode())
        elif kind != CHUNK_NONE:
            raise ProtocolError(f"chunk type {kind}")

    def request(self, command, offset=0, length=0, data=b"", flags=0):
        return self.reply(
            self.send_request(command, offset, length, data, flags))

    def pread(self, offset, length, flags=0):
        result = self.request(CMD_READ, offset, length, flags=flags)
        if not self.structured:
            return bytes(result.data)
        data = bytearray(length)
        covered = 0
        for start, piece in result.pieces:
            at = start - offset
            if at < 0 or at + len(piece) > length:
                raise ProtocolError("data outside of the request")
            data[at:at + len(piece)] = piece
            covered += len(piece)
        if covered != length:
            raise ProtocolError(f"{covered} bytes of {length}")
        return bytes(data)

    def pwrite(self, offset, data, flags=0):
        self.request(CMD_WRITE, offset, len(data), data, flags)

    def write_zeroes(self, offset, length, flags=0):
        self.request(CMD_WRITE_ZEROES, offset, length, flags=flags)

    def trim(self, offset, length, flags=0):
        self.request(CMD_TRIM, offset, length, flags=flags)

    def flush(self):
        self.request(CMD_FLUSH)

    def block_status(self, offset, length, flags=0,
                     context="base:allocation"):
        """Extents from @offset on, as far as the server told"""
        extents = []
        result = self.request(CMD_BLOCK_STATUS, offset, length, flags=flags)
        for size, state in result.status[context]:
            extents.append(Extent(offset, size, state))
            offset += size
        return extents

    def map(self, context="base:allocation", step=1 << 30):
        """The whole disk's extents, equal neighbours joined"""
        extents = []
        offset = 0
        while offset < self.size:
            for extent in self.block_status(
                    offset, min(step, self.size - offset), context=context):
                if extents and extents[-1].flags == extent.flags:
                    last = extents.pop()
                    extent = Extent(last.offset, last.length + extent.length,
                                    extent.flags)
                extents.append(extent)
            offset = extents[-1].offset + extents[-1].length
        return extents


class _Result:
    """What has been received of one reply"""

    def __init__(self):
        self.done = False
        self.error = None
        self.data = bytearray()
        self.pieces = []
        self.holes = 0  # bytes that came as nothing but their number
        self.status = {}
