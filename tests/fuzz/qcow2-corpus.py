#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A corpus for fuzz-qcow2: small images made by stock qemu-img.

usage: qcow2-corpus.py DIRECTORY
"""

import os
import subprocess
import sys
import tempfile

# Options of qemu-img create, and what qemu-io then does
IMAGES = [
    ("cluster_size=512", ["write -P 1 0 3000", "write -z 8k 4k"]),
    ("cluster_size=512,compat=0.10", ["write -P 1 100 3000"]),
    ("cluster_size=512,refcount_bits=1", ["write -P 1 0 3000"]),
    ("cluster_size=512,refcount_bits=64", ["write -P 1 0 3000"]),
    ("cluster_size=1k,preallocation=metadata", ["write -P 1 16k 3000"]),
    ("cluster_size=1k", ["write -c -P 1 0 1k", "write -c -P 2 1k 1k",
                         "write -P 3 4k 1k"]),
    ("cluster_size=1k,compression_type=zstd", ["write -c -P 1 0 1k"]),
    ("cluster_size=2k", ["write -P 1 0 8k", "discard 2k 4k", "write -z 6k 1k"]),
]


# What qemu-img bitmap and qemu-io do to images of 64 KiB in clusters of 512 bytes
BITMAPS = [
    [("--add", "-g", "512", "one")],
    [("--add", "-g", "512", "one"), ("--add", "-g", "64k", "two"),
     ("--add", "--disable", "-g", "1k", "three"), ("--remove", "one")],
]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    os.makedirs(sys.argv[1], exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        image = os.path.join(folder, "image")

        def qemu(*words):
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

        for number, (options, steps) in enumerate(IMAGES):
            for snapshot in (False, True):
                qemu("qemu-img", "create", "-f", "qcow2", "-o", options, image,
                     "64k")
                for step in steps:
                    qemu("qemu-io", "-f", "qcow2", "-d", "unmap", "-c", step,
                         image)
                if snapshot and "refcount_bits=1" not in options:
                    qemu("qemu-img", "snapshot", "-c", "one", image)
                    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 1k",
                         image)
                with open(image, "rb") as file:
                    data = file.read()
                for what in (0x10, 0x1f, 0x7f):
                    name = f"{number}-{int(snapshot)}-{what:x}"
                    with open(os.path.join(sys.argv[1], name), "wb") as file:
                        file.write(data + bytes([what]))
                os.unlink(image)

        for number, steps in enumerate(BITMAPS):
            # 4 MiB: two clusters of bits
            qemu("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=512",
                 image, "4M")
            for step in steps:
                name = step[-1]
                qemu("qemu-img", "bitmap", *step[:-1], image, name)
                qemu("qemu-io", "-f", "qcow2", "-c", "write 1k 3k", image)
            with open(image, "rb") as file:
                data = file.read()
            for what in (0x10, 0x1f, 0x7f):
                path = os.path.join(sys.argv[1], f"bitmap-{number}-{what:x}")
                with open(path, "wb") as file:
                    file.write(data + bytes([what]))
            os.unlink(image)


if __name__ == "__main__":
    main()
