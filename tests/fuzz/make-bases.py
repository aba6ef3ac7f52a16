#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The images in tests/fuzz/base, made by stock qemu-img and qemu-io (7.2).

usage: make-bases.py

Inputs of fuzz-qcow2 and fuzz-bitmaps are changes of these: who makes them anew
makes other images of all inputs that are there.
"""

import os
import subprocess

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "base")

# Name, options of qemu-img create, size, and what qemu-io and qemu-img do then
IMAGES = [
    ("plain", "cluster_size=512", "64k", ["write -P 1 0 3000", "write -z 8k 4k"]),
    ("version-2", "cluster_size=512,compat=0.10", "64k", ["write -P 1 100 3000"]),
    ("refcounts-1", "cluster_size=512,refcount_bits=1", "64k",
     ["write -P 1 0 3000"]),
    ("refcounts-64", "cluster_size=512,refcount_bits=64", "64k",
     ["write -P 1 0 3000"]),
    ("preallocated", "cluster_size=1k,preallocation=metadata", "12k",
     ["write -P 1 4k 3000"]),
    ("zlib", "cluster_size=1k", "64k",
     ["write -c -P 1 0 1k", "write -c -P 2 1k 1k", "write -P 3 4k 1k"]),
    ("zstd", "cluster_size=1k,compression_type=zstd", "64k",
     ["write -c -P 1 0 1k", "write -c -P 2 2k 1k", "write -P 3 4k 1k"]),
    ("discarded", "cluster_size=2k", "64k",
     ["write -P 1 0 8k", "discard 2k 4k", "write -z 6k 1k"]),
    ("snapshot", "cluster_size=512", "64k",
     ["write -P 1 0 3000", "snapshot -c one", "write -P 9 0 1k"]),
    ("snapshots-v2", "cluster_size=512,compat=0.10", "40k",
     ["write -P 1 0 2000", "snapshot -c one", "write -P 9 512 1k",
      "snapshot -c two"]),
    ("snapshot-zlib", "cluster_size=1k", "64k",
     ["write -c -P 1 0 1k", "write -c -P 2 1k 1k", "snapshot -c one",
      "write -P 4 1k 1k"]),
    ("odd-length", "cluster_size=512", "33k", ["write -P 1 32k 1000"]),
    ("lazy", "cluster_size=1k,lazy_refcounts=on", "64k", ["write -P 1 0 3000"]),
    ("backing", "cluster_size=512,backing_fmt=raw", "64k", ["write -P 1 0 700"]),
    # 4 MiB: two clusters of bits
    ("bitmap", "cluster_size=512", "4M",
     ["bitmap --add -g 512 one", "write 1k 3k"]),
    ("bitmaps", "cluster_size=512", "4M",
     ["bitmap --add -g 512 one", "write 1k 3k", "bitmap --add -g 64k two",
      "write 2M 1k", "bitmap --add --disable -g 1k three", "write 8k 1k",
      "bitmap --remove one"]),
    ("bitmap-ones", "cluster_size=512", "2M",
     ["bitmap --add -g 512 one", "write -z 0 2M"]),
    ("bitmaps-1k", "cluster_size=1k", "16k",
     ["bitmap --add -g 512 one", "bitmap --add -g 1k a-name-that-is-longer",
      "write 1k 3k", "bitmap --disable one", "write 5k 1k"]),
    ("bitmap-snapshot", "cluster_size=512", "64k",
     ["write -P 1 0 1000", "bitmap --add -g 512 one", "write 1k 3k",
      "snapshot -c snap", "write 8k 1k"]),
]


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def make(name, options, size, steps):
    path = os.path.join(FOLDER, name)
    backing = ["-u", "-b", "below"] if name == "backing" else []
    if backing:
        run("qemu-img", "create", "-f", "qcow2", "-F", "raw", *backing, "-o",
            options.replace(",backing_fmt=raw", ""), path, size)
        # It is opened without, as the fuzzer does.
        name = "json:{\"driver\": \"qcow2\", \"backing\": null, \"file\":" \
            f" {{\"driver\": \"file\", \"filename\": \"{path}\"}}}}"
        for step in steps:
            run("qemu-io", "-d", "unmap", "-c", step, name)
        return
    run("qemu-img", "create", "-f", "qcow2", "-o", options, path, size)
    for step in steps:
        words = step.split()
        if words[0] == "snapshot":
            run("qemu-img", *words, path)
        elif words[0] == "bitmap":
            run("qemu-img", *words[:-1], path, words[-1])
        else:
            run("qemu-io", "-f", "qcow2", "-d", "unmap", "-c", step, path)


def main():
    os.makedirs(FOLDER, exist_ok=True)
    for image in IMAGES:
        make(*image)


if __name__ == "__main__":
    main()
