"""A checked plan and the kernel: what scores rows. This is all that the daemon's front needs; it can't read a model."""

from __future__ import annotations

import ctypes

from modeld.forest import kernel
from modeld.forest.format import Checked, check


class Scorer:
    """Scores float64 rows with one plan. Immutable; any number of threads may use it, the GIL is released meanwhile."""

    __slots__ = ("_kernel", "checked", "n_features", "n_outputs", "version")

    def __init__(self, plan: memoryview, *, version: int | None = None) -> None:
        """Check `plan`, memory that nobody changes any more. `version` caps the kernel's: see `Kernel`.

        Raises:
            PlanRefused: it is no plan that may be evaluated.
            KernelMissing: there is no kernel here.
        """
        self._kernel = kernel.load()
        self.checked: Checked = check(plan)
        self.n_features = self.checked.header.n_features
        self.n_outputs = self.checked.header.n_outputs
        self.version = version

    def score(self, rows: int, n: int, out: int) -> None:
        """`n` rows of `n_features` float64 at address `rows` to `n_outputs` float64 each at address `out`."""
        self._kernel.predict(self.checked, rows, n, out, self.version)

    def score_bytes(self, rows: bytes, n: int) -> bytes:
        """The same with bytes. Raises ValueError where they aren't `n` rows."""
        if len(rows) != n * self.n_features * 8:
            raise ValueError(f"{len(rows)} bytes aren't {n} rows of {self.n_features} float64")
        out = ctypes.create_string_buffer(n * self.n_outputs * 8)
        self._kernel.predict(self.checked, rows, n, ctypes.addressof(out), self.version)
        return out.raw
