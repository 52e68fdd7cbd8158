"""What LightGBM itself says of files that may kill whoever loads them: `python tests/campaigns/oracle.py ROWS.npy`.

Reads `MODEL OUT.npy` lines; forks for each, predicts the rows in the child, and prints how that ended: `ok`,
`refused` or `died`. This process has imported LightGBM but never loads a model: only such a one may fork.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import lightgbm
import numpy as np

_TIME_S, _MEMORY = 5, 4 << 30


def _predict(model: str, out: str, rows: np.ndarray) -> None:
    signal.alarm(_TIME_S)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    # By its text: from a file, the Python package also reads the parameters behind the trees, and may fail over them.
    booster = lightgbm.Booster(model_str=Path(model).read_bytes().decode())
    np.save(out, np.ascontiguousarray(booster.predict(rows, num_threads=1)))


def main() -> None:
    rows = np.load(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        model, out = line.split()
        child = os.fork()
        if not child:
            try:
                _predict(model, out, rows)
            except BaseException:  # noqa: BLE001 (whatever Python can catch counts as refused)
                os._exit(3)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print({0: "ok", 3: "refused"}.get(status, "died"), flush=True)


if __name__ == "__main__":
    main()
