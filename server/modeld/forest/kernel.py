"""The compiled kernel, if the install had a C compiler. Calls release the GIL; any number of threads may call."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

from modeld.forest.errors import KernelMissing
from modeld.forest.format import Checked, PlanStruct

#: Set to anything but an empty string, this hides the kernel: for tests, and to rule it out when something is odd.
ENV_HIDE = "MODELD_NO_KERNEL"
_FILE = Path(__file__).with_name("_kernel.so")


class Kernel:
    """The kernel's functions. `version` is the best that this processor runs: 0 plain, 1 AVX2, 2 AVX-512."""

    def __init__(self, file: Path) -> None:
        library = ctypes.CDLL(str(file))
        library.modeld_plan_size.restype = ctypes.c_size_t
        if library.modeld_plan_size() != ctypes.sizeof(PlanStruct):
            raise KernelMissing(f"{file} was compiled from other sources; install modeld again")
        self.version: int = library.modeld_best_version()
        self._call = library.modeld_predict
        self._call.argtypes = [
            ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p,
        ]  # fmt: skip

    def predict(self, plan: Checked, rows: int | bytes, n: int, out: int, version: int | None = None) -> None:
        """Score `n` rows at address `rows`, or in these bytes, into address `out`; both are the caller's to size."""
        version = self.version if version is None else min(version, self.version)
        if self._call(ctypes.addressof(plan.struct), version, rows, n, out):
            raise MemoryError("no memory for the ranks of eight rows")


@cache
def _load() -> Kernel | str:
    try:
        return Kernel(_FILE)
    except (OSError, KernelMissing) as error:
        return str(error) if _FILE.exists() else "the kernel wasn't built: there was no C compiler"


def why_missing() -> str | None:
    """Why there is no kernel here; None where there is one."""
    if os.environ.get(ENV_HIDE):
        return f"{ENV_HIDE} is set"
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def load() -> Kernel:
    """The kernel. Raises KernelMissing."""
    if (why := why_missing()) is not None:
        raise KernelMissing(why)
    loaded = _load()
    assert isinstance(loaded, Kernel)
    return loaded
