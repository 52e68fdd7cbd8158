"""The proof that a version gets before it serves: verify, load, validate, in the worker that will serve it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from modeld.work import ipc, live, plan
from modeld.work.datasets import CurrentDatasets, DriftError
from modeld.work.engine import Engine, Matrix
from modelreg import golden as golden_rows
from modelreg import loaders
from modelreg.disk import DISK
from modelreg.environment import library_versions
from modelreg.errors import IntegrityError, NotFoundError, RegistryError, StoreUnavailableError, UsageError
from modelreg.goldenrows import synthesise
from modelreg.lgbtext import parse_header
from modelreg.loaders import LoadedModel
from modelreg.metadata import schema_fingerprint
from modelreg.sealed import CHECKSUM_FILE, Sealed, checksum_bytes, digest_of, read_sealed
from modelreg.signing import check_any

#: Rows made up for the proof where a version has no golden rows, and the share of NaN in them.
_STAND_IN_ROWS, _NAN_FRACTION = 256, 0.02
#: A time over the budget is taken again, in case the machine was busy: so often in all, but not where it is so many
#: times over it.
_TIMED, _FAR_OVER = 3, 20


class TrialFailed(Exception):
    """The version can't be served; the message says why."""

    def __init__(self, stage: str, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.stage = stage
        #: The files can't be had now: no fault of the version's.
        self.again = again


def prove(
    trial: ipc.Trial, live_fd: int, stage: Callable[[str], None], current: CurrentDatasets | None = None
) -> tuple[Engine, ipc.Ready]:
    """Verify, load and validate `trial`; report each stage as it begins. `live_fd` has what `trial.live` describes.

    Raises:
        TrialFailed: with the stage and the reason. A model that kills its loader kills this process instead.
    """
    timings: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        stage(name)
        start = time.perf_counter()
        try:
            yield
        except (NotFoundError, StoreUnavailableError) as e:
            raise TrialFailed(name, str(e), again=True) from e
        except (RegistryError, DriftError, OSError) as e:
            raise TrialFailed(name, str(e)) from e
        except MemoryError as e:
            raise TrialFailed(name, f"out of memory: trial.memory_limit_mb is {trial.memory_limit_mb}") from e
        timings[name] = round((time.perf_counter() - start) * 1e3, 3)

    with timed("verifying"):
        sealed = _read(trial)
        if trial.keys:
            _check_signature(sealed, trial)
        _check_code(sealed, allowed=trial.allow_code)
        warnings = [] if current is None else current.check(sealed.metadata.dataset_version_ids or [])
    with timed("loading"):
        model = loaders.load(sealed)
    with timed("validating"):
        data = sealed.files.get("golden.npz")
        golden = golden_rows.load(data) if data is not None else None
        features = list(sealed.metadata.features)
        if model.n_features != len(features):
            raise TrialFailed(
                "validating",
                f"the model takes {model.n_features} features, metadata.json lists {len(features)}",
            )
        _check_names(model, features)
        rows = _rows(sealed, golden)
        if rows.shape[1] != len(features):
            raise TrialFailed(
                "validating", f"golden rows have {rows.shape[1]} columns for {len(features)} features"
            )
        start = time.perf_counter()
        outputs = [np.ascontiguousarray(out, np.float64) for out in model.predict(rows)]
        row_us = (time.perf_counter() - start) / len(rows) * 1e6
        _check_shapes(model.outputs, outputs, len(rows))
        _check_time(model, rows, row_us, trial.max_row_us)
        if golden is not None:
            answers = dict(zip(model.outputs, outputs, strict=True))
            libraries = library_versions(tuple(golden.libraries))
            if difference := golden_rows.first_difference(golden, answers, libraries, trial.golden_rtol):
                raise TrialFailed("validating", f"golden rows: {difference}")
        engine = Engine(model, [1 if out.ndim == 1 else out.shape[1] for out in outputs])
        fast = engine.prove_fast_path(rows, outputs)
        differences = _compare_live(trial.live, live_fd, model, features)
    ready = ipc.Ready(
        features=features,
        schema=sealed.metadata.schema or "",
        outputs=[
            (name, 0 if out.ndim == 1 else out.shape[1])
            for name, out in zip(model.outputs, outputs, strict=True)
        ],
        nan_allowed=True,
        platform=sealed.metadata.format if isinstance(sealed.metadata.format, str) else "lightgbm",
        golden_rows=len(rows) if golden is not None else 0,
        row_us=round(row_us, 2),
        fast_path=fast,
        row_independent=engine.row_independent,
        stages_ms=timings,
        live=differences,
        warnings=warnings,
        unplanned_why=plan.why_none(sealed, model),
    )
    return engine, ready


def plans(trial: ipc.Trial) -> tuple[list[bytearray], str]:
    """A proved plan for each output of a version that has passed its trial; or none, and why not.

    Raises:
        RegistryError, OSError, MemoryError: it can't be read or loaded here and now.
    """
    sealed = _read(trial)
    _check_code(sealed, allowed=trial.allow_code)
    model = loaders.load(sealed)
    data = sealed.files.get("golden.npz")
    rows = _rows(sealed, golden_rows.load(data) if data is not None else None)
    outputs = [np.ascontiguousarray(out, np.float64) for out in model.predict(rows)]
    return plan.make(sealed, model, rows, outputs)


def _rows(sealed: Sealed, golden: golden_rows.Golden | None) -> Matrix:
    """The rows that a proof asks the version for."""
    return golden.rows if golden is not None else _stand_in_rows(sealed)


def _read(trial: ipc.Trial) -> Sealed:
    """The version's files, from the first directory that has them whole; if none has, the first one's trouble."""
    trouble: RegistryError | None = None
    for directory in trial.directories:
        try:
            return read_sealed(Path(directory), expect_digest=trial.digest, max_bytes=trial.max_bytes)
        except RegistryError as e:
            trouble = trouble or e
    assert trouble is not None
    raise trouble


def _check_signature(sealed: Sealed, trial: ipc.Trial) -> None:
    """What was read is what must be signed: the files on disk may be others by now."""
    checksum = checksum_bytes(sealed.files)
    if digest_of(checksum) != sealed.digest:
        raise IntegrityError(
            f"{trial.version}: its {CHECKSUM_FILE} is sealed in another form: register it anew"
        )
    try:
        check_any([Path(p) for p in trial.signatures], checksum, [Path(p) for p in trial.keys], DISK)
    except UsageError as e:  # an operator's key, not the version's fault
        raise TrialFailed("verifying", f"trial.require_signature: {e}", again=True) from e


def _stand_in_rows(sealed: Sealed) -> Matrix:
    """Rows spread over the ranges that the model's text names, or over [-1, 1] where it names none."""
    infos: list[list[str]] = [[] for _ in sealed.metadata.features]
    if sealed.metadata.format == "lightgbm-text":
        for file in loaders.estimators(sealed).values():
            for column, info in zip(infos, parse_header(sealed.files[file], where=file).infos, strict=False):
                column.append(info)
    seed = sealed.digest.encode()
    return synthesise(infos, rows=_STAND_IN_ROWS, nan_fraction=_NAN_FRACTION, seed=seed)


def _check_code(sealed: Sealed, *, allowed: bool) -> None:
    """A pickle is code that runs where it is loaded: only a digest that an operator has named gets that far."""
    pickled = [name for name in sealed.files if name.endswith((".joblib", ".pkl", ".pickle"))]
    if pickled and not allowed:
        raise TrialFailed(
            "verifying",
            f"{pickled[0]} is a pickle, and so code: allow this version with trial.allow_joblib: [{sealed.digest}]",
        )


def _check_names(model: LoadedModel, features: list[str]) -> None:
    """The contract's order must be the model's own where the model knows its features by the same names."""
    for output, booster in model.boosters.items():
        own = booster.feature_name()
        if own != features and sorted(own) == sorted(features):
            raise TrialFailed(
                "validating", f"output {output!r} takes its features in another order than metadata.json"
            )


def _check_shapes(names: tuple[str, ...], outputs: list[Matrix], rows: int, kind: str = "test row") -> None:
    for name, out in zip(names, outputs, strict=True):
        if out.ndim not in (1, 2) or len(out) != rows:
            raise TrialFailed("validating", f"output {name!r} has shape {list(out.shape)} for {rows} rows")
        if not np.isfinite(out).all():
            row = int(np.argmin(np.isfinite(out).reshape(rows, -1).all(axis=1)))
            raise TrialFailed("validating", f"output {name!r} isn't finite for {kind} {row}")


def _check_time(model: LoadedModel, rows: Matrix, known_us: float, max_row_us: float) -> None:
    """A row alone, and a row of a matrix of which the time is known, within the budget."""
    for what, matrix, took_us in (("alone", rows[:1], math.inf), (f"of {len(rows)}", rows, known_us)):
        best_us = took_us
        for _ in range(_TIMED):
            if best_us <= max_row_us or max_row_us * _FAR_OVER < best_us < math.inf:
                break
            start = time.perf_counter()
            model.predict(matrix)
            best_us = min(best_us, (time.perf_counter() - start) / len(matrix) * 1e6)
        if best_us > max_row_us:
            raise TrialFailed(
                "validating", f"a row {what} takes {best_us:,.0f} µs; trial.max_row_us is {max_row_us:g}"
            )


def _compare_live(
    described: ipc.Live | None, fd: int, model: LoadedModel, features: list[str]
) -> list[ipc.LiveDifference]:
    """How the answers to live rows change, where the features are the same."""
    if described is None:
        return []
    rows, theirs = live.read(described, fd)
    if described.fingerprint != schema_fingerprint(features):
        return []
    outputs = [np.ascontiguousarray(out, np.float64) for out in model.predict(rows)]
    _check_shapes(model.outputs, outputs, len(rows), "live row")
    differences = live.compare(theirs, dict(zip(model.outputs, outputs, strict=True)))
    if (why := live.objection(described, differences)) is not None:
        raise TrialFailed("validating", why)
    return differences
