"""The safe side of the probe: starts it, waits for it, and says in one sentence how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelreg import golden as goldens
from modelreg.errors import IntegrityError, LoadError, StoreUnavailableError
from modelreg.golden import Float64, Golden
from modelreg.probe import (
    ANSWERS_FILE,
    LIMITS_FILE,
    MAX_ANSWER_BYTES,
    ONNX_FILE,
    REPORT_FILE,
    ROWS_FILE,
    STDERR_FILE,
)
from modelreg.settings import Settings

#: How much of what the probe said before it died is looked at, in bytes.
STDERR_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """``golden``: the rows with the model's answers, None if no rows were given.

    ``memory_bytes``: growth on load.
    """

    golden: Golden | None
    memory_bytes: int | None


def probe(
    directory: Path, *, digest: str, rows: Float64 | None, outputs: list[str], settings: Settings, where: str
) -> ProbeResult:
    """Load a sealed directory in a process of its own and answer ``rows``; ``where`` names it in messages.

    Raises:
        LoadError: the process died, hung, or refused the model; says which file and how.
        StoreUnavailableError: no process could be started.
    """
    with _scratch(directory, digest, settings) as scratch:
        if rows is not None:
            (scratch / ROWS_FILE).write_bytes(goldens.dump(Golden(rows, {})))
        status = _run("modelreg.probe", directory, scratch, settings.probe.deadline_s)
        return _judge(where, scratch, status, rows, outputs, settings.probe.deadline_s)


def convert_to_onnx(directory: Path, *, digest: str, settings: Settings, where: str) -> bytes:
    """A sealed LightGBM version as one ONNX file, converted and compared in a process of its own.

    Raises:
        LoadError: it can't be converted, or answers otherwise than float32 explains.
        StoreUnavailableError: no process could be started.
    """
    with _scratch(directory, digest, settings) as scratch:
        status = _run("modelreg.onnxconvert", directory, scratch, settings.probe.deadline_s)
        _judge(where, scratch, status, None, [], settings.probe.deadline_s)
        return (scratch / ONNX_FILE).read_bytes()


@contextmanager
def _scratch(directory: Path, digest: str, settings: Settings) -> Iterator[Path]:
    """A directory for what the process is told and what it leaves; the limits are in it."""
    limits = {
        "digest": digest,
        "deadline_s": settings.probe.deadline_s,
        "memory_bytes": settings.probe.memory_bytes,
        "version_bytes": settings.limits.version_bytes,
    }
    try:
        with tempfile.TemporaryDirectory(prefix="modelreg-probe-") as name:
            (Path(name) / LIMITS_FILE).write_text(json.dumps(limits))
            yield Path(name)
    except OSError as error:
        if isinstance(error, StoreUnavailableError):
            raise
        raise StoreUnavailableError(f"can't run the probe for {directory}: {error}") from error


def _run(module: str, directory: Path, scratch: Path, deadline_s: float) -> int | None:
    """The exit status (negative: the signal), or None when the deadline passed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # -P: a directory `modelreg` where somebody happens to stand must not be run.
    command = [sys.executable, "-P", "-m", module, str(directory.absolute()), str(scratch)]
    with (scratch / STDERR_FILE).open("wb") as stderr:
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=environment,
                timeout=deadline_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def _judge(
    where: str,
    scratch: Path,
    status: int | None,
    rows: Float64 | None,
    outputs: list[str],
    deadline_s: float,
) -> ProbeResult:
    said = (scratch / STDERR_FILE).read_bytes()[-STDERR_TAIL_BYTES:].decode(errors="replace").splitlines()
    doing = next(
        (line for line in reversed(said) if line.startswith(("loading ", "predicting "))), "starting"
    )
    if status is None:
        raise LoadError(
            f"{where}: {doing}: not done within {deadline_s:g} s; the file is damaged or too large"
        )
    if status < 0:
        try:
            how = signal.Signals(-status).name
        except ValueError:
            how = f"signal {-status}"
        raise LoadError(f"{where}: {doing}: the process died of {how}; the file is damaged")
    try:
        report = json.loads((scratch / REPORT_FILE).read_bytes())
        problem, memory = report.get("problem"), report.get("memory_bytes")
    except (OSError, ValueError, AttributeError):
        problem, memory = (
            f"the process ended with status {status}: {said[-1] if said else 'it said nothing'}",
            None,
        )
    if status != 0 or problem is not None:
        raise LoadError(f"{where}: {problem}")
    if rows is None:
        return ProbeResult(None, memory)
    try:
        answers = (scratch / ANSWERS_FILE).read_bytes()
        if len(answers) > MAX_ANSWER_BYTES:
            raise LoadError(f"{where}: {doing}: the answers are larger than {MAX_ANSWER_BYTES} bytes")
        golden = goldens.load(answers)
    except (FileNotFoundError, IntegrityError) as error:
        raise LoadError(f"{where}: {doing}: no usable answers: {error}") from error
    if list(golden.outputs) != outputs or golden.rows.shape != rows.shape:
        raise LoadError(f"{where}: {doing}: answers for {list(golden.outputs)}, expected {outputs}")
    for output, answer in golden.outputs.items():
        if not bool((abs(answer) < float("inf")).all()):
            raise LoadError(f"{where}: output {output!r} isn't finite for each golden row")
    return ProbeResult(Golden(rows, golden.outputs, golden.libraries), memory)
