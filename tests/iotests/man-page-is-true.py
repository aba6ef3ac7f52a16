#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual page has every option there is, and none that there is not."""

import os
import re
import unittest

import iotests

DAEMON_PAGE, IMG_PAGE = (
    os.path.join(iotests.SOURCE_DIR, "docs", f"seekless-{name}.1")
    for name in ("storage-daemon", "img"))


def read_page(name):
    with open(name, encoding="utf-8") as page:
        return re.sub(r"\\f[PIBR]", "", page.read().replace("\\-", "-"))


class Schema:
    """The types that query-qmp-schema tells about"""

    def __init__(self, entities):
        self.entities = {entity["name"]: entity for entity in entities}

    def members(self, name, prefix=""):
        """Dotted names of all scalar members of a type, its branches' too"""
        entity = self.entities[name]
        if entity["meta-type"] == "array":
            return {f"{prefix}0"}
        if entity["meta-type"] != "object":
            return {prefix.rstrip(".")}
        found = set()
        for member in entity["members"]:
            found |= self.members(member["type"],
                                  f"{prefix}{member['name']}.")
        for variant in entity.get("variants", []):
            found |= self.members(variant["type"], prefix)
        return found

    def arguments(self, command):
        return self.members(self.entities[command]["arg-type"])


class ManPageIsTrue(unittest.TestCase):

    def setUp(self):
        self.text = read_page(DAEMON_PAGE)

    def section(self, title):
        """The text from a heading to the next one"""
        found = re.search(rf'^\.S[SH] "?{title}"?\n(.*?)(?=^\.S[SH])',
                          self.text, re.M | re.S)
        self.assertIsNotNone(found, title)
        return found[1]

    def tags(self, title):
        """Names before "=" of tagged paragraphs"""
        return set(re.findall(r"^\.(?:TP|TQ)\n\.\S+ ([a-z0-9.-]+)=",
                              self.section(title), re.M))

    def test_command_line(self):
        usage = iotests.run(iotests.DAEMON, "--help").stdout
        documented = set(re.findall(r"^\.(?:TP|TQ)\n\.\S+ .*?(--[a-z-]+)",
                                    self.section("OPTIONS"), re.M))
        self.assertEqual(documented, set(re.findall(r"--[a-z-]+", usage)))

    def test_block_nodes_and_exports(self):
        with iotests.Daemon() as daemon:
            schema = Schema(daemon.cmd("query-qmp-schema"))
        self.assertEqual(self.tags("Block nodes"),
                         schema.arguments("blockdev-add"))
        self.assertEqual(self.tags("NBD exports"),
                         schema.arguments("block-export-add") - {"type"})
        options = schema.arguments("object-add") - {"qom-type", "id"}
        # Unstable ones, for those who know them from QEMU
        self.assertEqual(self.tags("Objects"), {
            name for name in options if not name.startswith("x-")})


class ImgManPageIsTrue(unittest.TestCase):

    def setUp(self):
        self.text = read_page(IMG_PAGE)
        self.usage = iotests.run(iotests.IMG, "--help").stdout

    def section(self, title):
        return re.search(rf'^\.SS "?{title}"?\n(.*?)(?=^\.S[SH])', self.text,
                         re.M | re.S)[1]

    def options(self, text):
        tags = re.findall(r"^\.TP\n(\.\S+ .*)", text, re.M)
        return {word for tag in tags
                for word in re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*", tag)}

    def test_commands(self):
        """What is in a command's help is in its section, or the common one;
        and what is in its section is in its help."""
        common = self.options(self.section("Options of several commands"))
        commands = re.findall(r"^  (check|create|info|map) (.*?)(?=^  +[a-z])",
                              self.usage, re.M | re.S)
        self.assertEqual({name for name, _ in commands},
                         set(re.findall(r"^\.SS ([a-z]+)$", self.text, re.M)))
        for command in {name for name, _ in commands}:
            helped = set().union(*(
                re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*", text)
                for name, text in commands if name == command))
            own = self.options(self.section(command))
            self.assertEqual(helped - own - common, set(), command)
            # One name of each option in the help will do.
            self.assertEqual(own - helped - {"--repair", "-s", "-l"}, set(),
                             command)

    def test_formats(self):
        for name in ("raw", "qcow2"):
            listed = iotests.run(iotests.IMG, "create", "-f", name, "-o",
                                 "help", status=None)
            if listed.returncode:
                continue
            section = re.search(rf"^\.B {name}\nO?(.*?)^\.(?:TP|SH)",
                                self.text, re.M | re.S)[1]
            for option in re.findall(r"^  ([a-z0-9_]+)=", listed.stdout, re.M):
                self.assertRegex(section, rf"\.BR? {option}\b")


iotests.main()
