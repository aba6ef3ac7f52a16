#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual page has every option there is, and none that there is not."""

import os
import re
import unittest

import iotests

PAGE = os.path.join(iotests.SOURCE_DIR, "docs", "seekless-storage-daemon.1")


class Schema:
    """The types that query-qmp-schema tells about"""

    def __init__(self, entities):
        self.entities = {entity["name"]: entity for entity in entities}

    def members(self, name, prefix=""):
        """Dotted names of all scalar members of a type, its branches' too"""
        entity = self.entities[name]
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
        with open(PAGE, encoding="utf-8") as page:
            text = page.read().replace("\\-", "-")
        self.text = re.sub(r"\\f[PIBR]", "", text)

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


iotests.main()
