# SPDX-License-Identifier: GPL-2.0-or-later
"""A small Linux guest in a stock QEMU: Debian's cloud kernel, busybox and a
script, which is all that its initramfs holds. Runs without KVM."""

import os
import re
import select
import shutil
import subprocess

import iotests

# In the order they must be loaded; what is not a module is built in.
_MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev",
            "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")

_INIT = """#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
echo 1 > /proc/sys/kernel/printk
say() {{ echo "GUEST: $*"; }}
trap 'say failed; poweroff -f' EXIT
set -e
for module in {modules}; do insmod /modules/$module.ko; done
until [ -b /dev/vda ]; do :; done
{script}
trap - EXIT
say done
poweroff -f
"""


class Guest:
    """A running guest with the disk @image (a file name or URI) as /dev/vda

    @script is what it does: shell commands, in which `say TEXT` tells the test
    something (wait_for) and `read` waits for the test (send). Any command that
    fails ends it. @programs: files that are in its PATH, too. @words: of QEMU's
    command line, for disks other than @image.
    """

    BOOT_TIMEOUT = 180

    def __init__(self, image, script, programs=(), words=None):
        kernel = iotests.run(os.path.join(iotests.SOURCE_DIR, "scripts",
                                          "guest-kernel")).stdout.strip()
        self.console = ""
        self._at = 0
        self._process = subprocess.Popen(
            ["qemu-system-x86_64", "-nodefaults", "-no-user-config",
             "-accel", "tcg", "-cpu", "max", "-m", "256", "-display", "none",
             "-serial", "stdio", "-no-reboot",
             "-kernel", os.path.join(kernel, "vmlinuz"),
             "-initrd", self._initramfs(kernel, script, programs),
             "-append", "console=ttyS0 quiet panic=-1",
             *(words or ["-drive", f"file={image},format=raw,if=virtio,"
                         "cache=none,discard=unmap"])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)

    @staticmethod
    def _initramfs(kernel, script, programs):
        root = iotests.path("initramfs")
        for name in ("bin", "dev", "proc", "sys", "mnt", "modules"):
            os.makedirs(os.path.join(root, name))
        for program in ("/bin/busybox", *programs):
            shutil.copy(program, os.path.join(root, "bin"))
        os.symlink("busybox", os.path.join(root, "bin", "sh"))
        for folder, _, names in os.walk(os.path.join(kernel, "modules")):
            for name in names:
                if name.removesuffix(".ko") in _MODULES:
                    shutil.copy(os.path.join(folder, name),
                                os.path.join(root, "modules"))
        init = os.path.join(root, "init")
        with open(init, "w", encoding="ascii") as file:
            file.write(_INIT.format(modules=" ".join(_MODULES), script=script))
        os.chmod(init, 0o755)
        archive = iotests.path("initramfs.cpio")
        iotests.run("sh", "-c", f"cd {root} && find . | cpio -o -H newc "
                    f"--quiet > {archive}")
        shutil.rmtree(root)
        return archive

    @property
    def pid(self):
        """QEMU's"""
        return self._process.pid

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            print("".join(f"# {line}\n" for line in
                          self.console.splitlines()[-40:]), end="")
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def send(self, line):
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def wait_for(self, pattern):
        """Wait until the guest says this; the match of what it said"""
        expression = re.compile(f"GUEST: ({pattern})\\r?\\n")
        while True:
            match = expression.search(self.console, self._at)
            if match:
                self._at = match.end()
                return match
            text = self._receive(f"'{pattern}'")
            if "GUEST: failed" in self.console:
                raise AssertionError(f"the guest never said '{pattern}'")
            self.console += text

    def _receive(self, what):
        output = self._process.stdout
        ready, _, _ = select.select([output], [], [], self.BOOT_TIMEOUT)
        data = os.read(output.fileno(), 1 << 16) if ready else b""
        if not data:
            raise AssertionError(f"the guest never said {what}" if ready else
                                 f"the guest does not say {what}")
        return data.decode(errors="replace")

    def lines(self, last):
        """What the guest prints from here on, line by line, to the line that
        begins with the word @last"""
        text, self._at = self.console[self._at:], len(self.console)
        while True:
            *lines, text = text.split("\n")
            for i, line in enumerate(lines):
                yield line.rstrip("\r")
                if line.startswith(last):
                    self.console += "\n".join([*lines[i + 1:], text])
                    return
            text += self._receive(f"'{last}'")

    def wait(self):
        """The guest powers itself off"""
        self.wait_for("done")
        self._process.stdout.read()
        if self._process.wait(iotests.TIMEOUT):
            raise AssertionError(f"QEMU ended with {self._process.returncode}")
