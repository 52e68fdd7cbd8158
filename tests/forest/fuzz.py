"""Corrupt plans and evaluate what passes the check: `python tests/forest/fuzz.py KERNEL SEED COUNT PLAN...`.

A process of its own, since it runs with AddressSanitizer's allocator: a read out of bounds ends it with a report. Each
section gets memory of its own, of exactly its size, so that a read from one section into the next is seen too.
Prints what happened as JSON.
"""

from __future__ import annotations

import ctypes
import json
import random
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np

from modeld.forest import format as form
from modeld.forest.errors import PlanRefused
from modeld.forest.kernel import Kernel
from modeld.forest.proof import ODD

#: An evaluation that takes longer than this hasn't ended. Seconds.
_TOO_LONG_S = 30
_SPECIAL = (0, 1, 2, 15, 16, 63, 64, 127, 128, 255, 256, 257, 0x7FFF, 0x8000, 0xFFFF, 1 << 31, (1 << 32) - 1)


class Apart(form.Checked):
    """A checked plan whose sections each lie in memory of their own."""

    __slots__ = ("kept",)

    def __init__(self, checked: form.Checked) -> None:
        self.kept = [ctypes.create_string_buffer(a.tobytes(), a.nbytes) if a.nbytes else None
                     for a in checked.sections.values()]  # fmt: skip
        super().__init__(checked.header, checked.sections, checked.nbytes)
        for name, memory in zip(checked.sections, self.kept, strict=True):
            # Nothing may be read of an empty section: at this address nothing can.
            setattr(self.struct, name, ctypes.addressof(memory) if memory is not None else 8)


def corrupt(plan: bytes, others: list[bytes], chance: random.Random) -> bytearray:
    """One to four changes: bits, bytes, words, whole runs, other plans' bytes, another length."""
    wrong = bytearray(plan)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        # Half of the changes go to the header and the columns: they decide where everything else is.
        at = chance.randrange(min(len(wrong), chance.choice((form.HEADER.size, 512, len(wrong), len(wrong)))))
        match chance.randrange(8):
            case 0:
                wrong[at] ^= 1 << chance.randrange(8)
            case 1:
                wrong[at] = chance.randrange(256)
            case 2 | 3:
                at &= ~3
                if at + 4 <= len(wrong):
                    value = struct.unpack_from("<I", wrong, at)[0]
                    value = chance.choice((*_SPECIAL, value + 1, value - 1, value * 2)) & 0xFFFFFFFF
                    struct.pack_into("<I", wrong, at, value)
            case 4:
                at &= ~1
                if at + 2 <= len(wrong):
                    struct.pack_into("<H", wrong, at, chance.choice(_SPECIAL) & 0xFFFF)
            case 5:
                size = chance.randrange(1, 65)
                wrong[at : at + size] = chance.randbytes(len(wrong[at : at + size]))
            case 6:
                other = chance.choice(others)
                size = chance.randrange(1, 2048)
                run = other[at : at + size]
                wrong[at : at + len(run)] = run
            case 7:
                size = chance.choice((0, 8, 64, len(wrong) // 2, len(wrong) - 64, len(wrong) + 64))
                wrong = (wrong + bytes(64))[:size] or bytearray(1)
                if chance.random() < 0.8 and len(wrong) >= 24:
                    struct.pack_into("<Q", wrong, 16, len(wrong))
    return wrong


def main() -> None:
    kernel = Kernel(Path(sys.argv[1]))
    chance = random.Random(int(sys.argv[2]))
    plans = [Path(name).read_bytes() for name in sys.argv[4:]]
    counts = {"refused": 0, "evaluated": 0, "slowest_ms": 0.0}
    signal.alarm(0)
    for _ in range(int(sys.argv[3])):
        wrong = corrupt(chance.choice(plans), plans, chance)
        signal.alarm(_TOO_LONG_S)
        try:
            checked = Apart(form.check(memoryview(np.frombuffer(bytes(wrong), np.uint8).copy())))
        except PlanRefused:
            counts["refused"] += 1
            continue
        header = checked.header
        n_rows = 1 if header.n_features > 4096 else chance.choice((1, 3, 9, 40, 80))
        if header.n_features * n_rows > 1 << 22:
            counts["refused"] += 1  # a front refuses it as well: the contract has fewer features
            continue
        values = np.array(chance.choices(ODD, k=64))
        rows = np.resize(values, n_rows * header.n_features)
        source = ctypes.create_string_buffer(rows.tobytes(), rows.nbytes)
        target = ctypes.create_string_buffer(n_rows * header.n_outputs * 8)
        start = time.perf_counter()
        kernel.predict(
            checked, ctypes.addressof(source), n_rows, ctypes.addressof(target), chance.randrange(3)
        )
        counts["slowest_ms"] = max(counts["slowest_ms"], (time.perf_counter() - start) * 1e3)
        counts["evaluated"] += 1
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
