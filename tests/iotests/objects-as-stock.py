#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects come and go as in QEMU's storage daemon, and secrets are shown
nowhere."""

import base64
import os
import unittest

import iotests
from iotests import DAEMON, STOCK_DAEMON, QMPError, path, run

SECRET = "correct-horse"


def outcome(daemon, command, **arguments):
    """What a command returns, or the class of its error"""
    try:
        return daemon.cmd(command, arguments)
    except QMPError as error:
        return error.error_class


def add(kind, object_id, **options):
    return {"qom-type": kind, "id": object_id, **options}


class Objects(unittest.TestCase):

    def both(self, *arguments):
        for program in DAEMON, STOCK_DAEMON:
            with iotests.Daemon(*arguments, program=program) as daemon:
                with self.subTest(program):
                    yield daemon

    def refused(self, daemon, command, arguments, saying,
                error_class="GenericError"):
        with self.assertRaises(QMPError, msg=arguments) as caught:
            daemon.cmd(command, arguments)
        self.assertEqual(caught.exception.error_class, error_class)
        self.assertIn(saying, caught.exception.desc)

    def test_come_and_go(self):
        for daemon in self.both():
            daemon.cmd("object-add", add("secret", "s0", data="x"))
            self.refused(daemon, "object-add", add("secret", "s0", data="y"),
                         "'s0'")
            self.refused(daemon, "object-add", add("secret", "0s", data="y"),
                         "'id' expects an identifier")
            self.refused(daemon, "object-add", add("nonsense", "s1"),
                         "'qom-type' does not accept value 'nonsense'")
            self.refused(daemon, "object-add", {"qom-type": "secret"},
                         "'id' is missing")
            self.refused(daemon, "object-add", {"id": "s1"},
                         "'qom-type' is missing")
            self.refused(daemon, "object-add", add("secret", "s1", size=1),
                         "")
            self.refused(daemon, "object-del", {"id": "s1"},
                         "object 's1' not found")
            daemon.cmd("object-del", id="s0")
            self.refused(daemon, "object-del", {"id": "s0"},
                         "object 's0' not found")
            daemon.cmd("object-add", add("secret", "s0", data="y"))

    def test_properties(self):
        for daemon in self.both("--object", "secret,id=s0,data=x"):
            for name in "s0", "/objects/s0":
                self.assertEqual(
                    daemon.cmd("qom-get", path=name, property="type"),
                    "secret")
                self.assertEqual(
                    daemon.cmd("qom-get", path=name, property="format"), "raw")
            self.refused(daemon, "qom-get",
                         {"path": "s1", "property": "type"}, "'s1' not found",
                         "DeviceNotFound")
            self.refused(daemon, "qom-get",
                         {"path": "s0", "property": "nonsense"},
                         "'secret.nonsense' not found")
            self.refused(daemon, "qom-set",
                         {"path": "s0", "property": "nonsense", "value": 1},
                         "'secret.nonsense' not found")

    def test_command_line(self):
        """In order, as keys or JSON"""
        key = path("key")
        with open(key, "wb") as file:
            file.write(b"\0\1")
        self.addCleanup(os.unlink, key)
        for daemon in self.both(
                "--object", "secret,id=a,data=x",
                "--object", "qom-type=secret,id=b,format=base64,data=eA==",
                "--object", '{"qom-type": "secret", "id": "c", "data": "x"}',
                "--object", f"secret,id=d,file={key}"):
            for name in "abcd":
                daemon.cmd("object-del", id=name)
        for program in DAEMON, STOCK_DAEMON:
            for options, saying in (
                    (["secret"], "'id' is missing"),
                    (["id=a,data=x"], "'qom-type' is missing"),
                    (["nonsense,id=a"], "nonsense"),
                    (["secret,id=a,data=x,nonsense=1"], "nonsense"),
                    (["secret,id=a"], "Either 'file' or 'data'"),
                    (["secret,id=a,data=x,file=y"], "mutually exclusive"),
                    (["secret,id=a,data=x,format=hex"], "hex"),
                    (["secret,id=a,file=/no/such/file"], "/no/such/file"),
                    (["secret,id=a,data=%,format=base64"], "ase64"),
                    (["secret,id=a,data=x"] * 2, "'a'")):
                with self.subTest(f"{program} {options}"):
                    words = [w for o in options for w in ("--object", o)]
                    self.assertIn(saying, run(program, *words, status=1).stderr)

    def test_help(self):
        for program in DAEMON, STOCK_DAEMON:
            text = run(program, "--object", "help").stdout
            self.assertIn("\n  secret\n", text)
            self.assertEqual(run(program, "--object", "?").stdout, text)
            self.assertIn("\n  throttle-group\n", text)
            text = run(program, "--object", "throttle-group,help").stdout
            self.assertIn("\n  limits=<ThrottleLimits>\n", text)
            self.assertIn("\n  x-iops-total-max=<int>\n", text)
            text = run(program, "--object", "secret,help").stdout
            self.assertIn("\n  file=<string>\n", text)


class Secrets(unittest.TestCase):

    def assert_hidden(self, text):
        for form in SECRET, base64.b64encode(SECRET.encode()).decode():
            self.assertNotIn(form, str(text))

    def test_in_no_reply(self):
        encoded = base64.b64encode(SECRET.encode()).decode()
        with iotests.Daemon("--object", f"secret,id=s0,data={SECRET}",
                            "--object", f"secret,id=s1,data={encoded},"
                                        f"format=base64") as daemon:
            for name in "s0", "s1":
                for option in "data", "file", "format", "type", "rawdata":
                    self.assert_hidden(outcome(daemon, "qom-get", path=name,
                                               property=option))
            self.assertEqual(
                outcome(daemon, "qom-get", path="s0", property="data"),
                "GenericError")
            for bad in ({"format": SECRET[:3]}, {"file": "x"},
                        {"format": "base64"}, {"id": "0s"}, {"id": "s0"}):
                arguments = {**add("secret", "s2", data=SECRET), **bad}
                with self.assertRaises(QMPError) as caught:
                    daemon.cmd("object-add", arguments)
                self.assert_hidden(caught.exception)

    def test_in_no_message(self):
        for options in (f"secret,id=0s,data={SECRET}",
                        f"secret,data={SECRET}",
                        f"secret,id=s,data={SECRET},nonsense=1",
                        f"secret,id=s,data={SECRET},format=base64",
                        f"secret,id=s,data=x,{SECRET}",
                        f"data={SECRET},qom-type=secret,id=0s",
                        f'{{"qom-type": "secret", "data": {SECRET}}}',
                        f'{{"data": "{SECRET}", "qom-type": "secret"}}'):
            for words in ["--object", options], ["--object=" + options]:
                with self.subTest(options):
                    stderr = run(DAEMON, *words, status=1).stderr
                    self.assertIn("--object", stderr)
                    self.assert_hidden(stderr)

    def test_encrypted_ones_are_refused(self):
        """By name, before anything takes ciphertext for a secret"""
        with iotests.Daemon() as daemon:
            for option in "keyid", "iv":
                with self.assertRaises(QMPError) as caught:
                    daemon.cmd("object-add",
                               add("secret", "s", data="x", **{option: "k"}))
                self.assertEqual(caught.exception.desc,
                                 f"Parameter '{option}' is unexpected")


iotests.main()
