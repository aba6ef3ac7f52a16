# SPDX-License-Identifier: GPL-2.0-or-later
"""What a disk may hold after a crash, sector by sector.

Every request is remembered with the moments when it was sent (`begin`) and when
its acknowledgement had been read (`end`, FOREVER if it never was or was an error).
A sector may hold what a write brought, zeroes of a zero-write or discard, or what
was there at first, but for what is certainly gone: the value of request A is gone
if another, B, had to change that sector (a write or zero-write; a discard need
not), was sent after A's end, and is certainly there. Certainly there means:

* B was acknowledged before the moment that is looked at, and
* if only what is on stable storage counts (`durable`): B was a FUA request, or a
  flush that was sent after B's end, by whichever client, was acknowledged before
  that moment.

SIGKILL leaves the page cache, so that all acknowledged writes to a raw disk must
be there. In a qcow2 image tables may still have been in the daemon's memory:
there, and after a power cut, `durable` is all that can be asked for. So it is
where a block device with a page cache was to be zeroed when the daemon was killed, or
was discarded: the kernel first drops the pages, those that were never written, too,
and then has the device do it (`drops`).

A sector is never a mixture: each is stamped as a whole with who wrote it, his
how-many-eth request that was, and which sector it is for. So data at the wrong
place and data of another disk show as well. One exception (`torn`): the kernel may
write a page to the disk while a client's write changes it, and if the power goes
before it does so again, a sector is a mixture of values that it may hold.
"""

import struct
import time

SECTOR = 512
FOREVER = 1 << 63
MAGIC = b"SKLS"
ZEROES = bytes(SECTOR)
_STAMP = struct.Struct(">4sIII")  # magic, client, request, sector

WRITE, ZERO, DISCARD, FLUSH = "write", "zero", "discard", "flush"
STRONG = (WRITE, ZERO)


class Wrong(AssertionError):
    """A promise was broken."""


def now():
    return time.monotonic_ns()


def stamped(client, request, first, count):
    """Data for @count sectors from sector @first on"""
    return b"".join(_STAMP.pack(MAGIC, client, request, sector) * 32
                    for sector in range(first, first + count))


class Request:
    """One request of a client, from sector @first on"""

    __slots__ = ("client", "number", "kind", "first", "count", "fua", "begin",
                 "end")

    def __init__(self, client, number, kind, first=0, count=0, fua=False):
        self.client, self.number, self.kind = client, number, kind
        self.first, self.count, self.fua = first, count, fua
        self.begin, self.end = now(), FOREVER

    def __str__(self):
        end = "never" if self.end == FOREVER else self.end
        return (f"{self.client}:{self.number} {self.kind}"
                f"{'+fua' if self.fua else ''} [{self.first}, "
                f"{self.first + self.count}) {self.begin}..{end}")


class Truth:
    """All requests that there were to a disk that held @initial at first"""

    def __init__(self, initial, requests):
        self.initial = initial
        self.flushes = [r for r in requests if r.kind == FLUSH]
        self.by_name = {(r.client, r.number): r for r in requests}
        self.sectors = {}
        for request in requests:
            for sector in range(request.first, request.first + request.count):
                self.sectors.setdefault(sector, []).append(request)

    def first_content(self, sector):
        return (self.initial[sector * SECTOR:(sector + 1) * SECTOR]
                .ljust(SECTOR, b"\0"))

    def check(self, what, data, after=FOREVER, before=FOREVER, durable=False,
              also=None, drops=False, torn=False):
        """@data is what the disk held at some moment between the times @after
        and @before; where @also is given, or that which @also holds there

        Raises Wrong. Returns how many sectors' values were certain.
        """
        flushed = max((f.begin for f in self.flushes if f.end < after),
                      default=-1)
        certain = 0
        for sector in range(len(data) // SECTOR):
            value = data[sector * SECTOR:(sector + 1) * SECTOR]
            requests = self.sectors.get(sector, ())
            gone = -1  # values whose end is before this
            stable = durable or drops and any(
                r.kind == DISCARD or r.kind == ZERO and r.end == FOREVER
                for r in requests)
            for r in requests:
                if (r.begin > gone and r.end < after and r.kind in STRONG and
                        (not stable or r.fua or r.end < flushed)):
                    gone = r.begin
            if not self._possible(value, sector, requests, gone, before) and (
                    also is None or
                    value != also[sector * SECTOR:(sector + 1) * SECTOR]) and \
                    not (torn and self._mixed(value, sector, requests, gone)):
                raise Wrong(self._sentence(what, value, sector, requests, gone,
                                           before, flushed))
            certain += gone >= 0
        return certain

    def _possible(self, value, sector, requests, gone, before):
        if gone < 0 and value == self.first_content(sector):
            return True
        if value == ZEROES:
            return any(r.kind != WRITE and r.end >= gone and r.begin < before
                       for r in requests)
        request = self._writer(value, sector)
        return (request is not None and request.end >= gone and
                request.begin < before)

    def _mixed(self, value, sector, requests, gone):
        """Each byte is of a value that may be there"""
        values = [stamped(r.client, r.number, sector, 1)
                  if r.kind == WRITE else ZEROES
                  for r in requests if r.end >= gone]
        if gone < 0:
            values.append(self.first_content(sector))
        return len(values) > 1 and all(
            byte in {v[i] for v in values} for i, byte in enumerate(value))

    def _writer(self, value, sector):
        """The write that brought this to the sector"""
        if value != value[:16] * 32:
            return None
        magic, client, number, place = _STAMP.unpack(value[:16])
        request = self.by_name.get((client, number))
        if (magic != MAGIC or place != sector or request is None or
                not request.first <= sector < request.first + request.count):
            return None
        return request

    def _sentence(self, what, value, sector, requests, gone, before, flushed):
        if value == ZEROES:
            have = "zeroes"
        elif value == self.first_content(sector):
            have = "what was there at first"
        else:
            kinds = sorted({value[i:i + 16]
                            for i in range(0, SECTOR, 16)})[:3]
            have = ", ".join(
                "stamp of client {}, request {}, sector {}".format(
                    *_STAMP.unpack(kind)[1:])
                if kind.startswith(MAGIC) else repr(kind) for kind in kinds)
        listed = "".join(f"\n    {r}" for r in requests)
        return (f"{what}: sector {sector} holds {have}; gone is what ended "
                f"before {gone}, not yet there what began after {before}, last "
                f"flush {flushed}; there were{listed or ' no requests'}")


def difference(one, other):
    """The first sector where two contents differ, the longer one's rest being
    zeroes; None if they are equal"""
    length = max(len(one), len(other))
    one, other = one.ljust(length, b"\0"), other.ljust(length, b"\0")
    if one == other:
        return None
    step = SECTOR
    return next(i // step for i in range(0, length, step)
                if one[i:i + step] != other[i:i + step])
