"""What campaigns share: engines as processes, the front's vital signs, hand-sealed versions, a run's record."""

from __future__ import annotations

import datetime
import json
import os
import random
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tests.e2e.conftest import Daemon
from tests.registry.conftest import FEATURES

from modelreg import golden
from modelreg.environment import library_versions
from modelreg.metadata import METADATA_FILE, FileInfo, Metadata, encode, schema_fingerprint
from modelreg.sealed import CHECKSUM_FILE, checksum_bytes, digest_of

HERE = Path(__file__).parent

#: What may be under way when descriptors are counted: a trial, a prover, a version that drains. A leak over a
#: campaign is hundreds.
_MORE_FDS = 12


@dataclass
class Record:
    """One run: its seed, how many times as long as in CI, and its figures."""

    name: str
    seed: int
    campaign: int
    chance: random.Random
    figures: dict[str, Any] = field(default_factory=dict)

    def write(self, path: str | None) -> None:
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
        line = json.dumps(
            {"test": self.name, "date": date, "seed": self.seed, "campaign": self.campaign, **self.figures}
        )
        print(line)
        if path is not None:
            with open(path, "a") as file:
                file.write(line + "\n")


@dataclass(frozen=True)
class Good:
    """Good models: their files, and their predictions for `rows` (float64 [200, 4]); all in `directory` too."""

    directory: Path
    rows: np.ndarray
    files: list[Path]
    offline: list[np.ndarray]

    def of(self, version: str) -> np.ndarray:
        """What the version `1.0.N` predicts."""
        return self.offline[int(version.rpartition(".")[2]) % len(self.offline)]


class Engines:
    """Client processes; `reports` when they are over."""

    def __init__(
        self, daemon: Daemon, good: Good, directory: Path, count: int, seed: int, *, retry: bool = False
    ):
        self.reports: list[dict[str, Any]] = []
        self._paths = [directory / f"engine{number}.json" for number in range(count)]
        self._processes = []
        for number, path in enumerate(self._paths):
            task = {
                "endpoint": daemon.data,
                "rows": str(good.directory / "rows.npy"),
                "models": str(good.directory / "models.npz"),
                "report": str(path),
                "seed": seed + number,
                "retry": retry,
            }
            task_path = path.with_suffix(".task")
            task_path.write_text(json.dumps(task))
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, HERE / "client.py", task_path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )

    def __enter__(self) -> Engines:
        """Returns when each has had an answer."""
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"answered\n"
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.stdout.close()
        for process, path in zip(self._processes, self._paths, strict=True):
            try:
                ended = process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
                ended = process.wait()
            assert ended == 0, f"an engine ended with {ended}"
            self.reports.append(json.loads(path.read_text()))

    @property
    def replies(self) -> int:
        return sum(report["replies"] for report in self.reports)

    @property
    def errors(self) -> Counter[str]:
        """Error code → how often; `lost`: no reply at all."""
        return sum((Counter(report["errors"]) for report in self.reports), Counter())

    @property
    def others(self) -> dict[str, dict[int, bytes]]:
        """What versions that aren't `1.0.N` said: version → row → outputs."""
        found: dict[str, dict[int, bytes]] = {}
        for report in self.reports:
            for version, rows in report["others"].items():
                seen = found.setdefault(version, {})
                for row, outputs in rows.items():
                    assert seen.setdefault(int(row), bytes.fromhex(outputs)) == bytes.fromhex(outputs), (
                        f"{version} told two engines different things of row {row}"
                    )
        return found

    def latencies(self) -> tuple[np.ndarray, np.ndarray]:
        """When each answered request began (CLOCK_MONOTONIC, ns), and what it took (ms)."""
        both = np.concatenate([np.load(path.with_suffix(".npy")) for path in self._paths], axis=1)
        return both[0], both[1] / 1e6

    def check(self, *, errors: frozenset[str] = frozenset()) -> None:
        """One reply for each request, equal to the bit, no generation backwards, one version for each generation.

        `errors`: codes of explicit errors that may come in a reply's place.
        """
        generations: dict[str, str] = {}
        for report in self.reports:
            assert not report["wrong"], report["wrong"]
            assert not report["unasked"], f"{report['unasked']} replies that nobody had asked for"
            assert report["replies"] > 0
            for generation, version in report["generations"].items():
                assert generations.setdefault(generation, version) == version
        assert self.errors.keys() <= errors, self.errors


class Vitals:
    """The front's memory and descriptors while a campaign runs."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon, self.pid = daemon, daemon.pid
        self._process = psutil.Process(daemon.pid)
        self.rss_mb: list[float] = []
        self.fds: list[int] = []

    def sample(self) -> None:
        self.rss_mb.append(self._process.memory_info().rss / 1e6)
        self.fds.append(self._process.num_fds())

    def drift_mb(self) -> float:
        """RSS: the median of the last quarter above that of the second, the first being warm-up."""
        part = len(self.rss_mb) // 4
        return statistics.median(self.rss_mb[-part:]) - statistics.median(self.rss_mb[part : 2 * part])

    def figures(self) -> dict[str, Any]:
        return {
            "front_rss_mb": round(self.rss_mb[-1], 1),
            "front_drift_mb": round(self.drift_mb(), 2),
            "front_fds": self.fds[-1],
            "front_most_fds": max(self.fds),
        }

    def check(self, drift_mb: float, *, incidents: frozenset[str] = frozenset()) -> None:
        """Still the same process; memory and descriptors as after the warm-up; no incident but those."""
        assert not self._daemon.exited
        assert self._daemon.status()["pid"] == self.pid
        part = len(self.fds) // 4
        early, late = max(self.fds[part : 2 * part]), max(self.fds[-part:])
        assert late <= early + _MORE_FDS, f"descriptors grew from {early} to {late}"
        drift = self.drift_mb()
        assert drift <= drift_mb, f"the front grew by {drift:.1f} MB"
        assert not [line for line in self._daemon.logged("incident") if line["what"] not in incidents]


class Oracle:
    """LightGBM's own predictions for the good rows, of files that may kill it."""

    def __init__(self, good: Good, directory: Path) -> None:
        self._out = directory / "oracle.npy"
        self._process = subprocess.Popen(
            [sys.executable, HERE / "oracle.py", good.directory / "rows.npy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def predict(self, model: Path) -> np.ndarray | None:
        """None where LightGBM refuses the file or dies of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{model} {self._out}\n")
        self._process.stdin.flush()
        return np.load(self._out) if self._process.stdout.readline() == "ok\n" else None

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def sealed(
    version: str,
    model: Mapping[str, bytes],
    *,
    format: str = "lightgbm-text",
    features: tuple[str, ...] = FEATURES,
    answers: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[str, dict[str, bytes]]:
    """A version sealed as whoever may write any bytes would: digest and files. `answers`: golden rows and outputs."""
    files = dict(model)
    infos = {name: FileInfo("estimator", len(data), "predictions") for name, data in model.items()}
    if answers is not None:
        rows, outputs = answers
        libraries = library_versions(("lightgbm",))
        files[golden.GOLDEN_FILE] = golden.dump(golden.Golden(rows, {"predictions": outputs}, libraries))
        infos[golden.GOLDEN_FILE] = FileInfo("golden", len(files[golden.GOLDEN_FILE]))
    files[METADATA_FILE] = encode(
        Metadata(
            format=format,
            name="alpha",
            version=version,
            features=list(features),
            schema=schema_fingerprint(list(features)),
            outputs=["predictions"],
            files=infos,
        )
    )
    files[CHECKSUM_FILE] = checksum_bytes(files)
    return digest_of(files[CHECKSUM_FILE]), files


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    directory.mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def point(pointer: Path, target: str | Path) -> None:
    """Re-point a symlink by rename, as deployment tools do."""
    temporary = pointer.with_name(".next")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, pointer)


def quantiles(values: np.ndarray | list[float]) -> dict[str, float]:
    return {
        name: round(float(np.quantile(values, q)), 3)
        for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }
