# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD clients that write all the time, and know what has to be there then."""

import random
import threading

from iotests import KiB

BLOCK = 4 * KiB


class Writer(threading.Thread):
    """Writes a growing number to blocks of its own, and remembers what was
    acknowledged; with @interval seconds between two requests"""

    def __init__(self, client, size, number, of, interval=0):
        super().__init__()
        self.client = client
        self.blocks = range(number, size // BLOCK, of)
        self.random = random.Random(number)
        self.content = {}
        self.interval = interval
        self.ending = threading.Event()
        self.error = None

    def run(self):
        try:
            count = 0
            while not self.ending.wait(self.interval):
                count += 1
                self.step(self.random.choice(self.blocks), count)
            self.client.flush()
            self.client.close()
        except Exception as error:
            self.error = error

    def step(self, block, count):
        kind = self.random.randrange(10)
        if kind == 0:
            self.client.write_zeroes(block * BLOCK, BLOCK)
            self.content[block] = bytes(BLOCK)
        elif kind == 1 and block in self.content:
            data = self.client.pread(block * BLOCK, BLOCK)
            if data != self.content[block]:
                raise AssertionError(f"block {block} reads differently")
        else:
            data = b"%015d " % count * (BLOCK // 16)
            self.client.pwrite(block * BLOCK, data)
            self.content[block] = data

    def end(self):
        self.ending.set()
        self.join()
        if self.error:
            raise self.error

    def check(self, file):
        """Is all that was acknowledged in the raw image?"""
        for block, data in self.content.items():
            file.seek(block * BLOCK)
            if file.read(BLOCK) != data:
                raise AssertionError(f"block {block} of {file.name}")


def writing(connect, size, count=4, interval=0):
    """So many writers, each with a connection, that share a disk of @size"""
    writers = [Writer(connect(), size, i, count, interval)
               for i in range(count)]
    for writer in writers:
        writer.start()
    return writers
