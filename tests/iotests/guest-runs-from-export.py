#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest in a stock QEMU lives on an NBD export, before, during and
after a mirror with a pivot."""

import os
import unittest

import disk
import guest
import iotests
from iotests import MiB, path

SIZE = 256 * MiB


class GuestRunsFromExport(unittest.TestCase):
    def make_image(self):
        image = disk.sparse(path("image"), SIZE)
        iotests.run("mkfs.ext4", "-q", "-F", image)
        return image

    def check_file_system(self, image):
        iotests.run("e2fsck", "-f", "-n", image)

    def test_read_write_discard(self):
        image = self.make_image()
        with disk.DiskDaemon(image) as daemon:
            with guest.Guest(daemon.uri, """
                    mount -o discard /dev/vda /mnt
                    dd if=/dev/urandom of=/mnt/data bs=1M count=32 2>/dev/null
                    md5sum /mnt/data > /mnt/sum
                    sync
                    umount /mnt
                    echo 3 > /proc/sys/vm/drop_caches
                    mount -o discard /dev/vda /mnt
                    md5sum -c /mnt/sum
                    say written
                    read go
                    rm /mnt/data
                    sync
                    fstrim /mnt
                    umount /mnt
                    """) as vm:
                vm.wait_for("written")
                full = os.stat(image).st_blocks * 512
                self.assertGreater(full, 32 * MiB)
                vm.send("go")
                vm.wait()
            self.assertLess(os.stat(image).st_blocks * 512, full - 30 * MiB)
        self.check_file_system(image)

    def test_moves_to_the_copy(self):
        image = self.make_image()
        with disk.DiskDaemon(image) as daemon:
            with guest.Guest(daemon.uri, """
                    mount /dev/vda /mnt
                    dd if=/dev/urandom of=/mnt/before bs=1M count=8 2>/dev/null
                    sync
                    say ready
                    i=0
                    while [ $i -lt 20 ]; do
                        i=$((i + 1))
                        dd if=/dev/urandom of=/mnt/during bs=64k count=4 \\
                            2>/dev/null
                        sync
                    done
                    say worked
                    read go
                    echo 3 > /proc/sys/vm/drop_caches
                    md5sum /mnt/before /mnt/during > /mnt/sums
                    umount /mnt
                    mount /dev/vda /mnt
                    md5sum -c /mnt/sums
                    umount /mnt
                    """) as vm:
                vm.wait_for("ready")
                daemon.start_mirror(path("copy"))
                daemon.wait_ready()
                daemon.complete()
                daemon.cmd("blockdev-del", node_name="disk")
                left = iotests.run("sha256sum", image).stdout
                vm.wait_for("worked")
                vm.send("go")
                vm.wait()
            self.assertEqual(iotests.run("sha256sum", image).stdout, left)
        self.check_file_system(path("copy"))


if __name__ == "__main__":
    iotests.main()
