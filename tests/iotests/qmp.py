# SPDX-License-Identifier: GPL-2.0-or-later
"""A client for QMP over a connected socket."""

import collections
import json
import socket
import time


class QMPError(Exception):
    """The daemon answered a command with an error."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error['class']}: {error['desc']}")
        self.error_class = error["class"]
        self.desc = error["desc"]


class QMPTimeout(Exception):
    """Nothing fitting was received in time."""


class QMP:
    """One monitor connection, to be used by one thread at a time

    Events that arrive between commands are kept in `events` until somebody
    asks for them.
    """

    def __init__(self, sock, timeout=30, negotiate=True):
        self.sock = sock
        self.timeout = timeout
        self.events = collections.deque()
        self._buffer = bytearray()
        self._next_id = 0
        self.greeting = self.receive()["QMP"]
        if negotiate:
            self.cmd("qmp_capabilities")

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send_raw(self, data):
        self.sock.sendall(data)

    def receive(self, timeout=None):
        """The next message, of whatever kind; None at end of file"""
        deadline = time.monotonic() + (timeout or self.timeout)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise QMPTimeout(f"no message, only {bytes(self._buffer)!r}")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                return None
            self._buffer += data
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        return json.loads(line)

    def cmd(self, command, arguments=None, /, fds=(), **more):
        """Run a command and return what it returns, or raise QMPError

        Arguments come as a dictionary, or as keywords with '_' for '-'; @fds
        are file descriptors that go with it.
        """
        arguments = dict(arguments or {})
        for name, value in more.items():
            arguments[name.replace("_", "-")] = value
        self._next_id += 1
        message = {"execute": command, "id": self._next_id}
        if arguments:
            message["arguments"] = arguments
        data = json.dumps(message).encode() + b"\n"
        sent = socket.send_fds(self.sock, [data], fds) if fds else 0
        self.send_raw(data[sent:])
        while True:
            reply = self.receive()
            if reply is None:
                raise EOFError(f"{command}: the daemon closed the connection")
            if "event" in reply:
                self.events.append(reply)
            elif reply.get("id") != self._next_id:
                raise AssertionError(f"{command}: unexpected {reply}")
            elif "error" in reply:
                raise QMPError(command, reply["error"])
            else:
                return reply["return"]

    def wait_event(self, name, timeout=None, **data):
        """The next event of that name whose data has these members

        Other events stay where they are. Members are given with '_' for '-'.
        """
        wanted = {key.replace("_", "-"): value for key, value in data.items()}

        def fits(event):
            have = event.get("data", {})
            return event["event"] == name and all(
                have.get(key) == value for key, value in wanted.items())

        for event in self.events:
            if fits(event):
                self.events.remove(event)
                return event
        deadline = time.monotonic() + (timeout or self.timeout)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise QMPTimeout(f"no event {name} with {wanted}; "
                                 f"had {list(self.events)}")
            try:
                event = self.receive(left)
            except QMPTimeout:
                continue
            if event is None:
                raise EOFError(f"no event {name}: connection closed")
            if "event" not in event:
                raise AssertionError(f"a reply nobody waits for: {event}")
            if fits(event):
                return event
            self.events.append(event)

    def wait_job(self, job_id, status, timeout=None):
        """Wait until the job has been seen in that state"""
        return self.wait_event("JOB_STATUS_CHANGE", timeout, id=job_id,
                               status=status)
