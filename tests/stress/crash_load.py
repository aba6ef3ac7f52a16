# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD clients that write, zero, discard and flush without end, overlapping each
other, with many requests in flight; and the account of it."""

import random
import threading

import nbd
from crash_truth import (DISCARD, FLUSH, SECTOR, WRITE, ZERO, Request, now,
                         stamped)
from iotests import TIMEOUT

_COMMANDS = {WRITE: nbd.CMD_WRITE, ZERO: nbd.CMD_WRITE_ZEROES,
             DISCARD: nbd.CMD_TRIM, FLUSH: nbd.CMD_FLUSH}


class Load:
    """Some clients of an export

    Not more than `limit` requests are answered before somebody raises that; with
    the one that makes it `mark`, `action` is called, by the client that got the
    answer.
    """

    def __init__(self, connect, plan, sectors):
        self.answered = 0
        self.limit = 0
        self.mark = None
        self.action = None
        self.changed = threading.Condition()
        self.errors = []
        self.errors_matter = True
        self.ending = False
        self.alive = plan.clients
        self.clients = [_Client(self, connect(), plan, number, sectors)
                        for number in range(1, plan.clients + 1)]
        for client in self.clients:
            client.start()

    def allow(self, more):
        """Let clients go on for so many more answers"""
        with self.changed:
            self.limit = self.answered + more
            self.changed.notify_all()

    def wait_for(self, more):
        """Allow so many more answers, and wait for them"""
        with self.changed:
            goal = self.limit = self.answered + more
            self.changed.notify_all()
            if not self.changed.wait_for(
                    lambda: self.answered >= goal or not self.alive, TIMEOUT):
                raise AssertionError(f"{self.answered} answers, not {goal}")
        self.raise_errors()

    def call_after(self, more, action):
        """Call @action at that many answers from now, or at once for 0"""
        if more:
            with self.changed:
                self.mark, self.action = self.answered + more, action
                self.limit = self.mark + 1000
                self.changed.notify_all()
        else:
            action()

    def wait_until_dead(self, more):
        """Wait for so many more answers, or for the end of all clients"""
        with self.changed:
            goal = self.answered + more
            self.limit = goal + 100
            self.changed.notify_all()
            self.changed.wait_for(
                lambda: self.answered >= goal or not self.alive, TIMEOUT)

    def count(self):
        with self.changed:
            self.answered += 1
            action = self.action if self.answered == self.mark else None
        if action:
            action()
        with self.changed:
            self.changed.notify_all()

    def may_go_on(self):
        """Wait for leave to send more; False if it is time to end"""
        with self.changed:
            self.changed.wait_for(
                lambda: self.answered < self.limit or self.ending)
            return not self.ending

    def left(self, error):
        with self.changed:
            self.alive -= 1
            if error:
                self.errors.append(error)
            self.changed.notify_all()

    def end(self):
        """The daemon is gone; returns all requests"""
        with self.changed:
            self.ending = True
            self.changed.notify_all()
        for client in self.clients:
            client.join()
        return [r for client in self.clients for r in client.requests]

    def raise_errors(self):
        if self.errors and self.errors_matter:
            raise self.errors[0]


class _Client(threading.Thread):
    def __init__(self, load, client, plan, number, sectors):
        super().__init__(daemon=True)
        self.load, self.client, self.number = load, client, number
        self.random = random.Random(f"{plan.seed}/{plan.number}/{number}")
        self.sectors = sectors
        self.depth = plan.depth
        self.hot = plan.hot
        self.requests = []
        self.in_flight = {}  # cookie -> request

    def run(self):
        error = None
        try:
            while self.load.may_go_on():
                self.send()
                while len(self.in_flight) >= self.depth:
                    self.take()
        except (EOFError, ConnectionError):
            pass  # killed
        except Exception as problem:
            error = problem
        self.client.sock.close()
        self.load.left(error)

    def place(self):
        """First sector and number of sectors of the next request"""
        rand = self.random
        unit = rand.choice((1, 8, 8, 8, 128))
        count = rand.choice((1, 1, 2, 5, 16, 32)) * unit
        count = min(count, 1024, self.sectors)
        # A part of the disk is written to all the time.
        end = min(self.sectors, 2048) if rand.random() < self.hot \
            else self.sectors
        first = rand.randrange(max(1, end - count + 1))
        first -= first % unit
        return first, min(count, self.sectors - first)

    def send(self):
        rand = self.random
        kind = rand.choices((WRITE, ZERO, DISCARD, FLUSH), (70, 12, 8, 10))[0]
        first, count = (0, 0) if kind == FLUSH else self.place()
        flags = 0
        if kind != FLUSH and rand.random() < 0.08:
            flags |= nbd.CMD_FLAG_FUA
        if kind == ZERO and rand.random() < 0.5:
            flags |= nbd.CMD_FLAG_NO_HOLE
        if kind == FLUSH and rand.random() < 0.5:
            while self.in_flight:
                self.take()
        number = len(self.requests) + 1
        data = stamped(self.number, number, first, count) \
            if kind == WRITE else b""
        request = Request(self.number, number, kind, first, count,
                          bool(flags & nbd.CMD_FLAG_FUA))
        self.requests.append(request)
        cookie = self.client.send_request(
            _COMMANDS[kind], first * SECTOR, count * SECTOR, data, flags)
        self.in_flight[cookie] = request

    def take(self):
        """Wait for the answer to the oldest request; take what else is there"""
        oldest = next(iter(self.in_flight))
        self.finish(oldest)
        for cookie in [c for c in self.in_flight if self.client.replied(c)]:
            self.finish(cookie)

    def finish(self, cookie):
        request = self.in_flight.pop(cookie)
        self.client.reply(cookie)
        request.end = now()
        self.load.count()


