#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD server and its exports are started, listed and stopped as by QEMU's
storage daemon: the same commands to both, and the same answers."""

import contextlib
import os
import stat
import subprocess
import unittest

import iotests
import nbd
from iotests import MiB, QMPError, path

NODES = ["--blockdev", f"null-co,node-name=n0,size={MiB}",
         "--blockdev", f"null-co,node-name=ro0,size={MiB},read-only=on"]


def address(name):
    return {"type": "unix", "data": {"path": path(name)}}


@contextlib.contextmanager
def both():
    """Our daemon and the stock one, with the same nodes"""
    with iotests.Daemon(*NODES) as ours:
        with iotests.Daemon(*NODES, program=iotests.STOCK_DAEMON) as stock:
            yield ours, stock


def outcome(daemon, command, arguments):
    """What a command returns, or how it fails, as one value"""
    try:
        result = daemon.cmd(command, arguments)
    except QMPError as error:
        return {"class": error.error_class, "desc": error.desc}
    if isinstance(result, list):
        result.sort(key=lambda row: row["id"])
    return result


def export(export_id, node_name="n0", **options):
    return ("block-export-add",
            {"type": "nbd", "id": export_id, "node-name": node_name,
             **{key.replace("_", "-"): value
                for key, value in options.items()}})


class ExportsAsStockManagesThem(unittest.TestCase):

    def run_both(self, commands):
        """Run commands, each with its arguments; an addr None is a socket, of
        another name for each daemon"""
        with both() as daemons:
            for command, arguments in commands:
                results = []
                for daemon, name in zip(daemons, ("ours", "stock")):
                    mine = dict(arguments)
                    if "addr" in mine and mine["addr"] is None:
                        mine["addr"] = address(name)
                    results.append(outcome(daemon, command, mine))
                with self.subTest(f"{command} {arguments}"):
                    self.assertEqual(*results)
            for daemon in daemons:
                outcome(daemon, "nbd-server-stop", {})

    def test_life_of_an_export(self):
        server = ("nbd-server-start", {"addr": None})
        self.run_both([
            ("query-block-exports", {}),
            export("e0"),
            ("nbd-server-stop", {}),
            server,
            server,
            export("e0"),
            export("e0"),
            export("e1"),
            export("e1", name="other"),
            ("query-block-exports", {}),
            ("block-export-del", {"id": "e0"}),
            ("block-export-del", {"id": "e0"}),
            export("e0", writable=True, writethrough=True,
                   description="a disk"),
            ("block-export-del", {"id": "e1", "mode": "hard"}),
            ("block-export-del", {"id": "e0", "mode": "soft"}),
            ("query-block-exports", {}),
            ("nbd-server-stop", {}),
            ("query-block-exports", {}),
            ("blockdev-del", {"node-name": "n0"}),
            server,
            ("nbd-server-stop", {}),
            ("nbd-server-stop", {})])

    def test_refusals(self):
        """What is wrong with a command is said in the same words."""
        self.run_both([
            ("nbd-server-start", {}),
            ("nbd-server-start", {"addr": {"type": "unix"}}),
            ("nbd-server-start", {"addr": {"type": "unix", "data": {}}}),
            ("nbd-server-start", {"addr": {"type": "inet", "data": {
                "host": "nowhere.invalid", "port": "1"}}}),
            ("nbd-server-start", {"addr": {"type": "unix", "data": {
                "path": "/no/such/folder/socket"}}}),
            ("nbd-server-start", {"addr": {"type": "unix", "data": {
                "path": "/" + "x" * 200}}}),
            ("nbd-server-start", {"addr": {"type": "inet", "data": {
                "host": "127.0.0.1", "port": 1}}}),
            ("nbd-server-start", {"addr": None, "nonsense": 1}),
            ("nbd-server-start", {"addr": None}),
            ("block-export-add", {}),
            ("block-export-add", {"type": "nbd"}),
            ("block-export-add", {"type": "nbd", "id": "e0"}),
            ("block-export-add", {"type": "nope", "id": "e0",
                                  "node-name": "n0"}),
            export("e0", "nope"),
            export("e0", nonsense=1),
            export("e0", name=5),
            ("block-export-del", {}),
            ("block-export-del", {"id": "nope"})])

    def test_clients_in_the_way(self):
        outcomes = []
        for program in iotests.DAEMON, iotests.STOCK_DAEMON:
            with iotests.Daemon(*NODES, program=program) as daemon:
                daemon.cmd("nbd-server-start", addr=address("nbd"))
                daemon.cmd(*export("e0"))
                client = nbd.NBD(path("nbd"), "n0")
                seen = [outcome(daemon, "block-export-del", {"id": "e0"})]
                seen.append(outcome(daemon, "block-export-del",
                                    {"id": "e0", "mode": "hard"}))
                event = daemon.qmp.wait_event("BLOCK_EXPORT_DELETED")
                seen.append(event["data"])
                with self.assertRaises((EOFError, OSError)):
                    client.pread(0, 512)
                client.close()
                daemon.cmd("nbd-server-stop")
                outcomes.append(seen)
        self.assertEqual(*outcomes)

    def test_stop_with_clients(self):
        """Exports are gone, and that was told, when the command returns."""
        with iotests.Daemon(*NODES) as daemon:
            daemon.cmd("nbd-server-start", addr=address("nbd"))
            daemon.cmd(*export("e0"))
            daemon.cmd(*export("e1", name="other"))
            clients = [nbd.NBD(path("nbd"), "other") for _ in range(3)]
            early = nbd.NBD(path("nbd"), negotiate=False)
            daemon.cmd("nbd-server-stop")
            deleted = {event["data"]["id"] for event in daemon.qmp.events
                       if event["event"] == "BLOCK_EXPORT_DELETED"}
            self.assertEqual(deleted, {"e0", "e1"})
            self.assertFalse(os.path.exists(path("nbd")))
            for client in clients + [early]:
                with self.assertRaises((EOFError, OSError)):
                    client.receive(1)
                client.close()

    def test_what_is_shown_to_clients(self):
        """Sizes and flags are those of the stock server, but for what only one
        of them offers."""
        shown = []
        for program in iotests.DAEMON, iotests.STOCK_DAEMON:
            with iotests.Daemon(*NODES, program=program) as daemon:
                daemon.cmd("nbd-server-start", addr=address("nbd"))
                daemon.cmd(*export("e0", writable=True, description="disk 0"))
                daemon.cmd(*export("e1", "ro0", name="other",
                                   allocation_depth=True))
                seen = []
                for name in "n0", "other":
                    with nbd.NBD(path("nbd"), name) as client:
                        seen.append((
                            client.size, client.block_sizes,
                            client.description,
                            client.flags & ~nbd.FLAG_SEND_CACHE))
                client = nbd.NBD(path("nbd"), negotiate=False)
                client.sock.sendall(b"\0\0\0\3")
                seen.append(sorted(client.list_exports()))
                client.option(nbd.OPT_STRUCTURED_REPLY)
                for name in "n0", "other":
                    seen.append(sorted(client.meta_contexts(
                        nbd.OPT_LIST_META_CONTEXT, name, []).values()))
                client.option(nbd.OPT_ABORT)
                client.sock.close()
                daemon.cmd("nbd-server-stop")
                shown.append(seen)
        self.assertEqual(*shown)

    def test_socket_file(self):
        """Permissions come from the umask; a left-over file is replaced."""
        name = path("nbd")
        outcomes = []
        for program in iotests.DAEMON, iotests.STOCK_DAEMON:
            daemon = iotests.Daemon(*NODES, program=program, umask=0o027)
            daemon.cmd("nbd-server-start", addr=address("nbd"))
            seen = [stat.S_IMODE(os.stat(name).st_mode)]
            daemon.kill()
            seen.append(os.path.exists(name))
            with iotests.Daemon(*NODES, program=program) as daemon:
                daemon.cmd("nbd-server-start", addr=address("nbd"))
                daemon.cmd(*export("e0"))
                with nbd.NBD(name, "n0"):
                    pass
            outcomes.append(seen)
            # QEMU's daemon leaves it behind, ours does not.
            if program == iotests.STOCK_DAEMON:
                os.unlink(name)
            self.assertFalse(os.path.exists(name))
        self.assertEqual(*outcomes)
        self.assertEqual(outcomes[0], [0o750, True])

    def test_other_files_stay(self):
        name = path("precious")
        with open(name, "w", encoding="ascii") as file:
            file.write("mine")
        with iotests.Daemon(*NODES) as daemon:
            with self.assertRaisesRegex(QMPError, "no socket"):
                daemon.cmd("nbd-server-start", addr=address("precious"))
        with open(name, encoding="ascii") as file:
            self.assertEqual(file.read(), "mine")
        os.unlink(name)

    def test_node_in_use(self):
        with iotests.Daemon(*NODES) as daemon:
            daemon.cmd("nbd-server-start", addr=address("nbd"))
            daemon.cmd(*export("e0"))
            with self.assertRaisesRegex(QMPError, "Node n0 is in use"):
                daemon.cmd("blockdev-del", node_name="n0")
            daemon.cmd("block-export-del", id="e0")
            daemon.cmd("blockdev-del", node_name="n0")

    def test_read_only_node(self):
        with iotests.Daemon(*NODES) as daemon:
            daemon.cmd("nbd-server-start", addr=address("nbd"))
            with self.assertRaisesRegex(QMPError, "'ro0' is read-only"):
                daemon.cmd(*export("e0", "ro0", writable=True))
            daemon.cmd(*export("e0", "ro0"))

    def test_unsupported_options(self):
        """What we do not offer is refused by its name."""
        with iotests.Daemon(*NODES) as daemon:
            for name, value in (("tls-creds", "x"), ("tls-authz", "x")):
                with self.assertRaisesRegex(QMPError, name):
                    daemon.cmd("nbd-server-start",
                               {"addr": address("nbd"), name: value})
            daemon.cmd("nbd-server-start", addr=address("nbd"))
            for name, value in (("iothread", "t0"), ("fixed-iothread", True)):
                with self.assertRaisesRegex(QMPError, name):
                    daemon.cmd(*export("e0", **{name: value}))

    def test_command_line(self):
        """--nbd-server and --export, in both spellings"""
        with iotests.Daemon(
                *NODES, "--nbd-server",
                f"addr.type=unix,addr.path={path('nbd')},max-connections=2",
                "--export", "nbd,id=e0,node-name=n0,writable=on",
                "--export", '{"type": "nbd", "id": "e1", "node-name": "n0",'
                            ' "name": "other"}') as daemon:
            self.assertEqual(
                [row["id"] for row in daemon.cmd("query-block-exports")],
                ["e0", "e1"])
            with nbd.NBD(path("nbd"), "n0") as client:
                self.assertFalse(client.flags & nbd.FLAG_READ_ONLY)
            with nbd.NBD(path("nbd"), "other") as client:
                self.assertTrue(client.flags & nbd.FLAG_READ_ONLY)
        for words, message in (
                (["--export", "nbd,id=e0,node-name=n0"],
                 "NBD server not running"),
                (["--nbd-server", "addr.type=unix"], "addr.path"),
                (["--nbd-server", "addr.type=unix,addr.path=/x,tls-creds=y"],
                 "tls-creds")):
            result = iotests.run(iotests.DAEMON, *NODES, *words, status=1)
            self.assertIn(message, result.stderr)
        result = subprocess.run(
            [iotests.DAEMON, *NODES, "--nbd-server",
             f"addr.type=unix,addr.path={path('nbd')}", "--export",
             b"nbd,id=e0,node-name=n0,name=\xff"], capture_output=True,
            check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"UTF-8", result.stderr)


iotests.main()
