#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The pictures of seekless-img show what its lists say."""

import os
import pty
import re
import subprocess
import unittest
import xml.etree.ElementTree as ElementTree

import disk
import iotests
from iotests import KiB, MiB, path

SVG = "{http://www.w3.org/2000/svg}"


def img(*words, status=0, **options):
    return iotests.run(iotests.IMG, *words, status=status, **options)


def text_totals(text):
    """State names and bytes of a legend"""
    return {name.strip(): int(count) for name, count in
            re.findall(r"^\S? ?\s*([a-z][a-z0-9, ]+?) +(\d+) bytes  ", text,
                       re.M)}


class ImgDrawsPictures(unittest.TestCase):
    def half(self, name="half", size=2 * MiB):
        return disk.alternating(path(name), size)

    def svg(self, *words):
        output = path("map.svg")
        self.assertEqual(img("map", *words, f"--picture={output}").stdout, "")
        try:
            return ElementTree.parse(output).getroot()
        finally:
            os.unlink(output)

    def words_of(self, root):
        return [text.text for text in root.iter(SVG + "text")]

    def areas(self, root):
        """How high the parts of each state are together, without the
        legend's: pixels"""
        found = {}
        for part in root.find(SVG + "g").iter(SVG + "path"):
            heights = re.findall(r"h10v([0-9.]+)h-10z", part.get("d"))
            found[part.get("class")] = round(sum(map(float, heights)), 1)
        return found

    def test_svg(self):
        root = self.svg(self.half())
        words = self.words_of(root)
        self.assertEqual(words[0], f"{path('half')}: 2 MiB (2097152 bytes)")
        self.assertEqual(root.find(SVG + "title").text, words[0])
        self.assertEqual(words[1], "Bytes 0 to 2097151; a cell is 1.33 KiB, "
                         "from left to right and top to bottom")
        self.assertIn("data", words)
        self.assertIn("zero", words)
        self.assertEqual(words.count("1048576 bytes"), 2)
        self.assertEqual(words.count("50.0 %"), 2)
        areas = self.areas(root)
        self.assertEqual(areas["d0"], areas["z0"])
        self.assertEqual(sum(areas.values()), 64 * 24 * 10)

    def test_svg_part(self):
        root = self.svg("-s", "64k", "-l", "64k", self.half())
        self.assertIn("Bytes 65536 to 131071; a cell is 42.7 bytes, ",
                      self.words_of(root)[1])
        self.assertEqual(self.areas(root), {"z0": 64 * 24 * 10})

    def test_svg_of_nothing(self):
        name = disk.sparse(path("empty"), 0)
        self.assertIn("no bytes", self.words_of(self.svg(name)))

    def test_names_are_escaped(self):
        name = path("<svg onload='x'>&amp;\x1b[2J")
        self.half(name)
        root = self.svg(name)
        self.assertIn("<svg onload='x'>&amp;?[2J", self.words_of(root)[0])
        shown = img("map", "--picture=-", name).stdout
        self.assertNotIn("\x1b", shown)
        os.unlink(name)

    def test_svg_beside_a_list(self):
        name, output = self.half(), path("map.svg")
        shown = img("map", "--output=json", "--picture", output, name).stdout
        self.assertEqual(shown, iotests.qemu_img("map", "--output=json", name))
        os.unlink(output)

    def test_text(self):
        name = self.half(size=64 * 64 * KiB)
        shown = img("map", "--picture=-", name).stdout
        lines = shown.splitlines()
        self.assertEqual(lines[0], f"{name}: 4 MiB (4194304 bytes)")
        self.assertIn("Bytes 0 to 4194303; a cell is 5.33 KiB; ", lines[-1])
        # 768 cells: twelve of them are data, and twelve not
        self.assertTrue(lines[1].startswith("|" + "\u2588" * 12), lines[1])
        self.assertIn("\u00b7" * 11, lines[1])
        self.assertEqual([len(line) for line in lines[1:13]], [66] * 12)
        self.assertEqual(text_totals(shown),
                         {"data": 2 * MiB, "zero": 2 * MiB})

    def test_chain(self):
        """Data by depth, zeroes, and what no image has"""
        for name, base, commands in (
                ("a", None, ("write 0 1M", "write -z 1M 1M")),
                ("b", "a", ("write 0 512k",)),
                ("c", "b", ("write 0 64k", "write -z 64k 64k"))):
            backing = ("-b", path(base), "-F", "qcow2") if base else ()
            iotests.qemu_img("create", "-q", "-f", "qcow2", *backing,
                             path(name), "4M")
            for command in commands:
                iotests.run("qemu-io", "-f", "qcow2", "-c", command,
                            path(name))
        shown = img("map", "--picture=-", path("c")).stdout
        self.assertEqual(text_totals(shown), {
            "data": 64 * KiB, "data, 1 below": 384 * KiB,
            "data, 2 or more below": 512 * KiB, "zero": 64 * KiB,
            "zero, 2 or more below": MiB, "hole": 2 * MiB})
        self.assertEqual(set(self.areas(self.svg(path("c")))),
                         {"d0", "d1", "d2", "z0", "z2", "h"})

    def on_terminal(self, *words, **environment):
        """What a terminal gets to see"""
        ours, theirs = pty.openpty()
        with subprocess.Popen([iotests.IMG, *words], stdout=theirs,
                              stdin=subprocess.DEVNULL,
                              env={**os.environ, "TERM": "xterm-256color",
                                   **environment}) as process:
            os.close(theirs)
            shown = b""
            try:
                while data := os.read(ours, 1 << 16):
                    shown += data
            except OSError:  # nobody has the other end any more
                pass
            os.close(ours)
        self.assertEqual(process.returncode, 0)
        return shown.decode()

    def test_terminal(self):
        name = self.half()
        shown = self.on_terminal("map", name)
        self.assertIn("Mapped to", shown)
        self.assertIn("\x1b[38;5;", shown)
        # Colours are told when they change, and no other shows beside data.
        self.assertIn("\x1b[38;5;25;48;5;25m" + "\u2588" * 20, shown)
        self.assertEqual(text_totals(re.sub(r"\x1b\[[0-9;]*m", "", shown)),
                         {"data": MiB, "zero": MiB})
        for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            shown = self.on_terminal("map", name, **variables)
            self.assertNotIn("\x1b", shown)
            self.assertIn("\u2588", shown)
        for output in ("human", "json"):
            self.assertNotIn("\u2588", self.on_terminal(
                "map", f"--output={output}", name))

    def test_refused(self):
        name = self.half()
        for words, reason in (
                (("--picture=/nosuch/a.svg",), "/nosuch/a.svg"),
                (("--picture=",), "--picture needs"),
                (("--picture=-", "--output=json"), "standard output")):
            self.assertIn(reason, img("map", *words, name, status=1).stderr)


iotests.main()
