#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes are opened, shown and closed as by QEMU's storage daemon: the same
commands to both, and the same answers."""

import contextlib
import json
import os
import unittest

import iotests
from iotests import MiB, QMPError, path


@contextlib.contextmanager
def both(*arguments):
    """Our daemon and the stock one, with the same options"""
    with iotests.Daemon(*arguments) as ours:
        with iotests.Daemon(*arguments,
                            program=iotests.STOCK_DAEMON) as stock:
            yield ours, stock


def outcome(daemon, command, arguments):
    """What a command returns, or how it fails, as one value"""
    try:
        return daemon.cmd(command, arguments)
    except QMPError as error:
        return {"class": error.error_class, "desc": error.desc}


def cpu_seconds(pid):
    """What all threads of the process have used so far"""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        words = file.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def job_states(daemon, job_id, last):
    """The states a job went through, up to @last"""
    states = []
    while not states or states[-1] != last:
        event = daemon.qmp.wait_event("JOB_STATUS_CHANGE", id=job_id)
        states.append(event["data"]["status"])
    return states


class NodesAsStockShowsThem(unittest.TestCase):

    def setUp(self):
        self.image = path("image")
        with open(self.image, "wb") as file:
            file.truncate(MiB)
            file.write(b"x" * 8192)

    def tearDown(self):
        os.unlink(self.image)

    def node_options(self):
        return ["--object", "throttle-group,id=group0,limits.iops-total=10000",
                "--blockdev",
                f"driver=file,node-name=file0,filename={self.image},"
                f"cache.direct=on",
                "--blockdev", "raw,node-name=raw0,file=file0,cache.direct=on",
                "--blockdev", "null-co,node-name=null0,size=1048576,read-only=on",
                "--blockdev", "null-co,node-name=null1,discard=unmap,"
                              "detect-zeroes=unmap",
                "--blockdev", "raw,node-name=raw2,detect-zeroes=on,file=null1",
                "--blockdev", "throttle,node-name=throttle0,file=raw0,"
                              "throttle-group=group0",
                "--blockdev", "throttle,node-name=throttle1,file=throttle0,"
                              "throttle-group=group0"]

    def assert_row(self, ours, stock, where, ignored=()):
        """All that stock shows is shown, with the same values; more may be"""
        for name, value in stock.items():
            with self.subTest(f"{where}.{name}"):
                if name in ignored:
                    continue
                self.assertIn(name, ours)
                if isinstance(value, dict):
                    self.assert_row(ours[name], value, f"{where}.{name}",
                                    ignored)
                elif str(value).startswith("json:"):
                    self.assertEqual(json.loads(ours[name][5:]),
                                     json.loads(value[5:]))
                else:
                    self.assertEqual(ours[name], value)
                    self.assertIs(type(ours[name]), type(value))

    def rows(self, daemon, command, **arguments):
        return {row["node-name"]: row
                for row in daemon.cmd(command, arguments)}

    def test_query_named_block_nodes(self):
        with both(*self.node_options()) as (ours, stock):
            for arguments in {}, {"flat": True}:
                mine = self.rows(ours, "query-named-block-nodes", **arguments)
                theirs = self.rows(stock, "query-named-block-nodes",
                                   **arguments)
                self.assertEqual(list(mine), list(theirs))
                for node in mine:
                    # An artefact of QEMU: images without such a flag have one.
                    ignored = ["dirty-flag"]
                    self.assert_row(mine[node], theirs[node], node, ignored)

    def qcow2(self, name, size, backing=None, fmt="raw"):
        options = ["-b", backing, "-F", fmt] if backing else []
        iotests.qemu_img("create", "-q", "-f", "qcow2", *options, path(name),
                         str(size))
        self.addCleanup(os.unlink, path(name))
        return path(name)

    def test_chains(self):
        """Backing files that headers name, or options, or nobody"""
        self.qcow2("mid", 2 * MiB, "image")
        top = self.qcow2("top", 3 * MiB, "mid", "qcow2")
        other = self.qcow2("other", 3 * MiB)
        for what, names, nodes in (
            ("by the header", ["top"],
             [f"qcow2,node-name=top,file.driver=file,file.filename={top}"]),
            ("by an option", ["top", "other"],
             [f"qcow2,node-name=top,file.driver=file,file.filename={top},"
              f"backing.driver=qcow2,backing.node-name=other,"
              f"backing.file.driver=file,backing.file.filename={other}"]),
            ("by an option, the same", ["top", "m"],
             [f"qcow2,node-name=m,read-only=on,file.driver=file,"
              f"file.filename={path('mid')}",
              f"qcow2,node-name=top,file.driver=file,file.filename={top},"
              f"backing=m"]),
            ("below a filter", ["top", "t", "r"],
             [f"qcow2,node-name=top,file.driver=file,file.filename={other},"
              f"backing.driver=raw,backing.file.driver=file,"
              f"backing.file.filename={self.image}",
              "throttle,node-name=t,throttle-group=g,file=top",
              "raw,node-name=r,file=t"]),
        ):
            with self.subTest(what):
                blockdevs = [option for node in nodes
                             for option in ("--blockdev", node)]
                options = ["--object", "throttle-group,id=g", *blockdevs]
                # One after the other: each takes the locks.
                rows = []
                for program in iotests.DAEMON, iotests.STOCK_DAEMON:
                    with iotests.Daemon(*options, program=program) as daemon:
                        rows.append([
                            self.rows(daemon, "query-named-block-nodes",
                                      **arguments)
                            for arguments in ({}, {"flat": True})])
                for mine, theirs in zip(*rows):
                    self.assertEqual(len(mine), len(theirs))
                    for node in names:
                        self.assert_row(mine[node], theirs[node], node,
                                        ["dirty-flag"])
                        for member in "backing_file", "backing-image":
                            self.assertEqual(
                                member in mine[node], member in theirs[node])

    def test_filename_of_a_window(self):
        options = ["--blockdev", f"file,node-name=file0,filename={self.image}",
                   "--blockdev", "raw,node-name=raw0,file=file0,offset=4096"]
        with both(*options) as (ours, stock):
            for daemon in ours, stock:
                row = self.rows(daemon, "query-named-block-nodes")["raw0"]
                self.assertEqual(row["image"]["virtual-size"], MiB - 4096)
                self.assertEqual(row["file"], row["image"]["filename"])
                kind, _, options = row["file"].partition(":")
                self.assertEqual(kind, "json")
                self.assertEqual(json.loads(options),
                                 {"driver": "raw", "offset": 4096,
                                  "file": {"driver": "file",
                                           "filename": self.image}})

    def add_chain(self, daemon, nodes, **options):
        daemon.cmd("blockdev-add", {"driver": "null-co", "node-name": "n1",
                                    "size": MiB})
        for i in range(2, nodes + 1):
            daemon.cmd("blockdev-add", {"driver": "raw", "node-name": f"n{i}",
                                        "file": f"n{i - 1}", **options})

    def test_filenames_of_a_chain(self):
        """Options in options, cut off where there are too many"""
        with both() as (ours, stock):
            names = []
            for daemon in ours, stock:
                self.add_chain(daemon, 155)
                rows = self.rows(daemon, "query-named-block-nodes")
                names.append({node: (row["file"], row["image"]["filename"])
                              for node, row in rows.items()})
            self.assertEqual(*names)
            self.assertTrue(names[0]["n155"][0].endswith("..."))

    def test_longest_chain(self):
        """Its end is refused, and what is said of it takes no long time"""
        with iotests.Daemon() as daemon:
            self.add_chain(daemon, 200, offset=0, size=MiB)
            with self.assertRaisesRegex(QMPError, "chain of 201 nodes, 200 is"):
                daemon.cmd("blockdev-add", {"driver": "raw", "file": "n200",
                                            "node-name": "n201"})
            before = cpu_seconds(daemon.process.pid)
            for _ in range(3):
                rows = daemon.cmd("query-named-block-nodes")
                self.assertEqual(len(rows), 200)
            # 0.1 s; 6 s if it were cubic in the length of the chain
            self.assertLess(cpu_seconds(daemon.process.pid) - before, 2)
            for i in range(200, 0, -1):
                daemon.cmd("blockdev-del", {"node-name": f"n{i}"})

    def test_query_blockstats(self):
        with both(*self.node_options()) as (ours, stock):
            mine = self.rows(ours, "query-blockstats", **{"query-nodes": True})
            theirs = self.rows(stock, "query-blockstats",
                               **{"query-nodes": True})
            self.assertEqual(list(mine), list(theirs))
            for node in mine:
                # We count the time of failed requests, too.
                self.assert_row(mine[node], theirs[node], node,
                                ["account_failed"])
            self.assertEqual(ours.cmd("query-blockstats"), [])
            self.assertEqual(stock.cmd("query-blockstats"), [])

    def test_counters(self):
        uri = f"nbd+unix:///disk?socket={path('nbd')}"
        with iotests.Daemon(
                "--blockdev", f"file,node-name=file0,filename={self.image}",
                "--blockdev", "raw,node-name=raw0,file=file0",
                "--nbd-server", f"addr.type=unix,addr.path={path('nbd')}",
                "--export", "nbd,id=e0,node-name=raw0,name=disk,writable=on"
                ) as daemon:
            iotests.qemu_io(uri, "read 0 4k", "write -P 1 64k 8k",
                            "write -z 128k 4k")
            (row,) = daemon.cmd("query-blockstats")
            self.assertEqual(row["node-name"], "raw0")
            self.assertEqual(row["parent"]["node-name"], "file0")
            rows = self.rows(daemon, "query-blockstats", **{"query-nodes": True})
            self.assertEqual(rows["raw0"], row)
            self.assertEqual(rows["file0"], row["parent"])
            self.assertEqual(
                row["parent"]["driver-specific"]["status-cache"]
                ["learned-writes"], 8192)

    def test_refusals(self):
        """What is wrong with a command is said in the same words."""
        file2 = {"driver": "file", "node-name": "file2"}
        with both(*self.node_options()) as (ours, stock):
            for command, arguments in [
                    ("blockdev-add", {}),
                    ("blockdev-add", {"driver": "file"}),
                    ("blockdev-add", {"driver": "nope", "node-name": "x"}),
                    ("blockdev-add", {"driver": 1, "node-name": "x"}),
                    ("blockdev-add", file2),
                    ("blockdev-add", {**file2, "filename": 5}),
                    ("blockdev-add", {**file2, "filename": "/no/such/file"}),
                    ("blockdev-add", {**file2, "filename": self.image,
                                      "nonsense": True}),
                    ("blockdev-add", {**file2, "filename": self.image,
                                      "cache": {"direct": "on"}}),
                    ("blockdev-add", {"driver": "file",
                                      "filename": self.image}),
                    ("blockdev-add", {"driver": "null-co",
                                      "node-name": "file0"}),
                    ("blockdev-add", {"driver": "null-co", "node-name": "0a"}),
                    ("blockdev-add", {"driver": "raw", "node-name": "raw1"}),
                    ("blockdev-add", {"driver": "raw", "node-name": "raw1",
                                      "file": "nope"}),
                    ("blockdev-del", {}),
                    ("blockdev-del", {"node-name": "nope"}),
                    ("blockdev-del", {"node-name": "null0"}),
                    ("blockdev-del", {"node-name": "null0"}),
                    ("blockdev-create", {"job-id": "j0"}),
                    ("blockdev-create", {"job-id": "0j", "options": {
                        "driver": "file", "filename": path("new"),
                        "size": MiB}}),
                    ("query-version", {"nonsense": 1}),
                    ("query-blockstats", {"query-nodes": "yes"}),
                    ("query-named-block-nodes", {"flat": 1}),
                    ("no-such-command", {})]:
                with self.subTest(f"{command} {arguments}"):
                    self.assertEqual(outcome(ours, command, arguments),
                                     outcome(stock, command, arguments))

    def create(self, daemon, **options):
        return outcome(daemon, "blockdev-create",
                       {"job-id": "j0", "options": options})

    def test_blockdev_create(self):
        """The job stays until it is dismissed, failed or not."""
        new = path("new")
        for options in (
                {"driver": "file", "filename": new, "size": MiB},
                {"driver": "file", "filename": new, "size": MiB,
                 "preallocation": "falloc"},
                {"driver": "file", "filename": new, "size": MiB,
                 "preallocation": "full"},
                {"driver": "file", "filename": "/no/such/folder/new",
                 "size": MiB}):
            seen = []
            for program in iotests.DAEMON, iotests.STOCK_DAEMON:
                with iotests.Daemon(program=program) as daemon:
                    result = [self.create(daemon, **options)]
                    result.append(job_states(daemon, "j0", "concluded"))
                    result.append(daemon.cmd("query-jobs"))
                    result.append(self.create(daemon, **options))
                    daemon.cmd("job-dismiss", id="j0")
                    result.append(job_states(daemon, "j0", "null"))
                    result.append(daemon.cmd("query-jobs"))
                if os.path.exists(new):
                    status = os.stat(new)
                    # QEMU writes the first block of all that it creates.
                    result += [status.st_size, status.st_blocks // 16]
                    os.unlink(new)
                seen.append(result)
            with self.subTest(str(options)):
                self.assertEqual(seen[0], seen[1])


iotests.main()
