#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""query-qmp-schema shows all there is, and nothing that QEMU's clients would
stumble over."""

import unittest

import iotests
from iotests import Daemon


class Schema:
    """The answer of one daemon's query-qmp-schema"""

    def __init__(self, infos):
        self.types, self.commands, self.events = {}, {}, {}
        for info in infos:
            kinds = {"command": self.commands, "event": self.events}
            table = kinds.get(info["meta-type"], self.types)
            if info["name"] in table:
                raise AssertionError(f"'{info['name']}' is described twice")
            table[info["name"]] = info

    def members(self, name, tag_value=None):
        """Member descriptions by name; those of a branch, too, if given"""
        info = self.types[name]
        members = {member["name"]: member for member in info["members"]}
        for variant in info.get("variants", []):
            if variant["case"] == tag_value:
                members.update(self.members(variant["type"]))
        return members

    def branches(self, name):
        """Branch types by tag value"""
        return {variant["case"]: variant["type"]
                for variant in self.types[name].get("variants", [])}


class Comparison:
    """What clients of another daemon would stumble over

    Ours may have more of everything, and fewer optional arguments.
    """

    def __init__(self, ours, theirs):
        self.ours, self.theirs = ours, theirs
        self.problems = []
        self._seen = set()

    def arguments(self, command):
        self._types(self.ours.commands[command]["arg-type"],
                    self.theirs.commands[command]["arg-type"], command, True)

    def returned(self, command):
        self._types(self.ours.commands[command]["ret-type"],
                    self.theirs.commands[command]["ret-type"],
                    command + "()", False)

    def event(self, event):
        self._types(self.ours.events[event]["arg-type"],
                    self.theirs.events[event]["arg-type"], event, False)

    def _problem(self, where, what):
        self.problems.append(f"{where}: {what}")

    def _types(self, our_name, their_name, where, sent):
        """@sent: by the client, else by the daemon"""
        if (our_name, their_name, sent) in self._seen:
            return
        self._seen.add((our_name, their_name, sent))
        our, their = self.ours.types[our_name], self.theirs.types[their_name]
        if our.get("json-type") == "value" and not sent:
            return  # nothing is promised
        if our["meta-type"] != their["meta-type"]:
            self._mixed(our, their, where, sent)
            return
        compare = getattr(self, "_compare_" + our["meta-type"])
        compare(our, their, where, sent)

    def _mixed(self, our, their, where, sent):
        """One may hold the other all the same"""
        if (not sent and our["meta-type"] == "enum" and
                their.get("json-type") == "string"):
            return
        if our["meta-type"] == "alternate" and sent:
            names = [(member["type"], their["name"])
                     for member in our["members"]]
        elif their["meta-type"] == "alternate":
            names = [(our["name"], member["type"])
                     for member in their["members"]]
        else:
            names = []
        for pair in names:
            if (self.ours.types[pair[0]]["meta-type"] ==
                    self.theirs.types[pair[1]]["meta-type"]):
                self._types(*pair, where, sent)
                return
        self._problem(where, f"{our['meta-type']} instead of "
                             f"{their['meta-type']}")

    def _compare_builtin(self, our, their, where, _sent):
        if our["json-type"] != their["json-type"]:
            self._problem(where, f"{our['json-type']} instead of "
                                 f"{their['json-type']}")

    def _compare_enum(self, our, their, where, sent):
        # What clients are told may be news to them.
        if sent and not set(our["values"]) & set(their["values"]):
            self._problem(where, f"none of {our['values']} is among "
                                 f"{their['values']}")

    def _compare_array(self, our, their, where, sent):
        self._types(our["element-type"], their["element-type"], where + "[]",
                    sent)

    def _compare_alternate(self, our, their, where, sent):
        for member in our["members"]:
            kind = self._kind(self.ours, member["type"])
            for other in their["members"]:
                if self._kind(self.theirs, other["type"]) == kind:
                    self._types(member["type"], other["type"], where, sent)

    @staticmethod
    def _kind(schema, name):
        info = schema.types[name]
        return info.get("json-type", info["meta-type"])

    def _compare_object(self, our, their, where, sent):
        if our.get("tag") != their.get("tag") and our.get("tag"):
            self._problem(where, f"tag is {our.get('tag')} instead of "
                                 f"{their.get('tag')}")
        self._compare_members(self.ours.members(our["name"]),
                              self.theirs.members(their["name"]), where, sent)
        others = self.theirs.branches(their["name"])
        for case, name in self.ours.branches(our["name"]).items():
            if case in others:
                self._types(name, others[case], f"{where}<{case}>", sent)

    def _compare_members(self, our, their, where, sent):
        for name in our.keys() & their.keys():
            self._types(our[name]["type"], their[name]["type"],
                        f"{where}.{name}", sent)
        for name in self._required(their):
            # Clients send it, or look for it.
            if name not in our:
                self._problem(where, f"'{name}' is missing")
            elif not sent and "default" in our[name]:
                self._problem(where, f"'{name}' is optional")
        for name in self._required(our) if sent else []:
            # Clients may not send it.
            if name not in self._required(their):
                self._problem(where, f"'{name}' is mandatory")

    @staticmethod
    def _required(members):
        return {name for name, member in members.items()
                if "default" not in member}


def schema_of(daemon):
    return Schema(daemon.cmd("query-qmp-schema"))


class Stock(unittest.TestCase):
    """What qemu-storage-daemon has, too, is used in the same way"""

    @classmethod
    def setUpClass(cls):
        with Daemon() as daemon:
            cls.ours = schema_of(daemon)
        with Daemon(program=iotests.STOCK_DAEMON) as daemon:
            cls.stock = schema_of(daemon)

    def compare(self, method, names):
        self.assertTrue(names)
        comparison = Comparison(self.ours, self.stock)
        for name in sorted(names):
            getattr(comparison, method)(name)
        self.assertEqual(comparison.problems, [])

    def test_arguments(self):
        self.compare("arguments",
                     self.ours.commands.keys() & self.stock.commands.keys())

    def test_return_values(self):
        self.compare("returned",
                     self.ours.commands.keys() & self.stock.commands.keys())

    def test_events(self):
        self.compare("event", self.ours.events.keys() & self.stock.events.keys())


class Complete(unittest.TestCase):
    """The schema has everything once"""

    def test_commands_are_listed(self):
        with Daemon() as daemon:
            names = [entry["name"] for entry in daemon.cmd("query-commands")]
            self.assertEqual(len(names), len(set(names)))
            self.assertEqual(set(names), schema_of(daemon).commands.keys())

    def test_types_are_described(self):
        """Every type that is used is there, and every one there is used"""
        with Daemon() as daemon:
            schema = schema_of(daemon)
        used, new = set(), set()
        for table in schema.commands, schema.events:
            for info in table.values():
                new |= {info[key] for key in ("arg-type", "ret-type")
                        if key in info}
        while new:
            used |= new
            found = set()
            for name in new:
                info = schema.types[name]
                found |= {entry["type"] for key in ("members", "variants")
                          for entry in info.get(key, []) if "type" in entry}
                found |= {info["element-type"]} & set(info.values()) \
                    if "element-type" in info else set()
            new = found - used
        self.assertEqual(used, schema.types.keys())


if __name__ == "__main__":
    iotests.main()
