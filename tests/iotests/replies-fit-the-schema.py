#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands return and events carry is what query-qmp-schema says of it:
no member is missing or of another type, and none is there that it does not
mention."""

import os
import unittest

import iotests
from iotests import MiB, path

JSON_TYPES = {"string": str, "int": int, "number": (int, float),
              "boolean": bool, "null": type(None), "object": dict,
              "array": list}


class Schema:

    def __init__(self, entities):
        self.entities = {entity["name"]: entity for entity in entities}

    def check(self, name, value, where):
        entity = self.entities[name]
        getattr(self, "check_" + entity["meta-type"])(entity, value, where)

    def check_builtin(self, entity, value, where):
        kind = entity["json-type"]
        if kind == "value":
            return
        fits = isinstance(value, JSON_TYPES[kind])
        if kind in ("int", "number") and isinstance(value, bool):
            fits = False
        assert fits, f"{where} is no {kind}: {value!r}"

    def check_enum(self, entity, value, where):
        values = entity.get("values") or [member["name"]
                                          for member in entity["members"]]
        assert value in values, f"{where}: {value!r} is none of {values}"

    def check_array(self, entity, value, where):
        assert isinstance(value, list), f"{where} is no array: {value!r}"
        for i, element in enumerate(value):
            self.check(entity["element-type"], element, f"{where}[{i}]")

    def members(self, entity, value, where):
        members = {member["name"]: member for member in entity["members"]}
        if "tag" in entity:
            for variant in entity["variants"]:
                if variant["case"] == value[entity["tag"]]:
                    members.update(self.members(
                        self.entities[variant["type"]], value, where))
        return members

    def check_object(self, entity, value, where):
        assert isinstance(value, dict), f"{where} is no object: {value!r}"
        members = self.members(entity, value, where)
        for name in value:
            assert name in members, f"{where}.{name} is not in the schema"
        for name, member in members.items():
            if name in value:
                self.check(member["type"], value[name], f"{where}.{name}")
            else:
                assert "default" in member, f"{where}.{name} is missing"

    def check_alternate(self, entity, value, where):
        for member in entity["members"]:
            try:
                self.check(member["type"], value, where)
                return
            except AssertionError:
                pass
        raise AssertionError(f"{where}: {value!r} fits no alternative")


class RepliesFitTheSchema(unittest.TestCase):

    def check(self, command, **arguments):
        value = self.daemon.cmd(command, **arguments)
        self.schema.check(self.schema.entities[command]["ret-type"], value,
                          command)
        self.asked.add(command)
        return value

    def check_event(self, name):
        self.daemon.qmp.events.appendleft(self.daemon.qmp.wait_event(name))

    def check_events(self):
        while self.daemon.qmp.events:
            event = self.daemon.qmp.events.popleft()
            name = event["event"]
            self.schema.check(self.schema.entities[name]["arg-type"],
                              event.get("data", {}), name)

    def test_all_queries(self):
        self.asked = set()
        image, new = path("image"), path("new")
        with open(image, "wb") as file:
            file.truncate(MiB)
            file.write(b"x" * 8192)
        with iotests.Daemon(
                "--blockdev", f"file,node-name=file0,filename={image}",
                "--blockdev", "raw,node-name=raw0,file=file0",
                "--nbd-server", f"addr.type=unix,addr.path={path('nbd')}",
                "--export", "nbd,id=e0,node-name=raw0") as daemon:
            self.daemon = daemon
            self.schema = Schema(daemon.cmd("query-qmp-schema"))
            self.check("blockdev-create", job_id="j0", options={
                "driver": "file", "filename": new, "size": MiB})
            daemon.qmp.wait_job("j0", "concluded")
            self.check("query-jobs")
            self.check("job-dismiss", id="j0")
            self.check("blockdev-add", driver="file", node_name="copy0",
                       filename=new)
            self.check("blockdev-mirror", job_id="m0", device="raw0",
                       target="copy0", sync="full", auto_dismiss=False)
            daemon.qmp.wait_event("BLOCK_JOB_READY")
            for command, entity in self.schema.entities.items():
                if entity["meta-type"] == "command" and command.startswith(
                        "query-"):
                    with self.subTest(command):
                        self.check(command)
            self.check("query-blockstats", query_nodes=True)
            self.check("x-query-block-map", node_name="raw0")
            with open(image, "r+b") as file:
                os.pwrite(file.fileno(), b"x", 65536)
            self.check("block-status-cache-verify", job_id="v0",
                       node_name="raw0")
            self.check_event("BLOCK_STATUS_CACHE_MISMATCH")
            daemon.qmp.wait_job("v0", "null")
            self.check("block-status-cache-flush", node_name="raw0")
            self.check("block-job-cancel", device="m0")
            daemon.qmp.wait_job("m0", "concluded")
            self.check("job-dismiss", id="m0")
            daemon.cmd("block-export-del", id="e0")
            daemon.qmp.events.append(
                daemon.qmp.wait_event("BLOCK_EXPORT_DELETED"))
            self.check_events()
        os.unlink(image)
        os.unlink(new)


iotests.main()
