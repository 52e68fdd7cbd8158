"""The process that may die: loads a version and answers golden rows. ``python -m modelreg.probe DIR SCRATCH``

It reads ``SCRATCH/rows.npz`` (if there) and ``SCRATCH/limits.json``, and leaves ``SCRATCH/answers.npz`` and
``SCRATCH/report.json``. ``modelreg.isolation`` starts it and judges how it ended; nothing here is trusted.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelreg.metadata import Metadata

#: The largest file that the probe may write, in bytes.
MAX_ANSWER_BYTES = 512 << 20

ROWS_FILE = "rows.npz"
LIMITS_FILE = "limits.json"
ANSWERS_FILE = "answers.npz"
REPORT_FILE = "report.json"
STDERR_FILE = "stderr.txt"
ONNX_FILE = "model.onnx"

#: What is done with (directory, scratch, limits); returns the report.
Work = Callable[[Path, Path, dict[str, Any]], dict[str, Any]]


def main(arguments: list[str], work: Work | None = None) -> int:
    """Load, answer, report; the status is 0 for answers and 3 for a refusal with a message.

    ``work``: what to do instead of answering golden rows.
    """
    directory, scratch = Path(arguments[0]), Path(arguments[1])
    limits: dict[str, Any] = json.loads((scratch / LIMITS_FILE).read_bytes())
    _limit(limits)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("modelreg.loaders").setLevel(logging.DEBUG)
    from modelreg.errors import RegistryError

    try:
        report = (work or _answer)(directory, scratch, limits)
        status = 0
    except (RegistryError, MemoryError) as error:
        report, status = {"problem": str(error) or "out of memory"}, 3
    temporary = scratch / f"{REPORT_FILE}.tmp"
    temporary.write_text(json.dumps(report))
    temporary.replace(scratch / REPORT_FILE)
    return status


def _limit(limits: dict[str, Any]) -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_ANSWER_BYTES, MAX_ANSWER_BYTES))
    for what, wanted in (
        (resource.RLIMIT_AS, int(limits["memory_bytes"])),
        (resource.RLIMIT_CPU, int(limits["deadline_s"]) + 5),
    ):
        _, hard = resource.getrlimit(what)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(what, (limit, limit))


def _answer(directory: Path, scratch: Path, limits: dict[str, Any]) -> dict[str, Any]:
    # Imported under the limits: they hold for the libraries too.
    from modelreg import golden, loaders
    from modelreg.environment import library_versions
    from modelreg.errors import LoadError
    from modelreg.sealed import read_sealed

    sealed = read_sealed(directory, expect_digest=limits["digest"], max_bytes=int(limits["version_bytes"]))
    before = _resident_bytes()
    model = loaders.load(sealed)
    memory = max(0, _resident_bytes() - before)
    report: dict[str, Any] = {"memory_bytes": memory, "n_features": model.n_features}
    if (scratch / ROWS_FILE).exists():
        print("predicting golden rows", file=sys.stderr, flush=True)
        asked = golden.load((scratch / ROWS_FILE).read_bytes())
        if asked.rows.shape[1] != model.n_features:
            raise LoadError(
                f"golden rows have {asked.rows.shape[1]} values, the model {model.n_features} features"
            )
        outputs = dict(zip(model.outputs, model.predict(asked.rows), strict=True))
        libraries = library_versions(_libraries(sealed.metadata))
        (scratch / ANSWERS_FILE).write_bytes(golden.dump(golden.Golden(asked.rows, outputs, libraries)))
    return report


def _libraries(metadata: Metadata) -> tuple[str, ...]:
    """Whose versions the answers depend on."""
    used = {"onnx": ["onnxruntime"], "joblib": ["lightgbm", "scikit-learn"]}.get(
        metadata.format, ["lightgbm"]
    )
    if any(info.role == "scaler" for info in metadata.files.values()) and "scikit-learn" not in used:
        used.append("scikit-learn")
    return tuple(used)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
