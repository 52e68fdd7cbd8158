"""Campaign 3: a pointer that never rests, and leads to everything that a pointer can lead to."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.campaigns.parts import Engines, Good, Record, Vitals, point, quantiles, sealed, write
from tests.e2e.conftest import Daemon
from tests.support import wait_until

#: Seconds: twenty seconds on a quiet machine.
pytestmark = pytest.mark.timeout(300)

#: Renames; --campaign N makes N times as many.
_SHORT = 500
#: Renames between two troubles.
_BURST = 25
_POLL_S = 0.1
_DRIFT_MB = 4.0


class Chaos:
    """`production/latest`, as a symlink to one of three sealed versions, and what can happen to it."""

    def __init__(self, directory: Path, good: Good, record: Record) -> None:
        self.directory, self._good, self._chance = directory, good, record.chance
        self.production, self.models = directory / "production", directory / "models"
        self.pointer = self.production / "latest"
        self.production.mkdir()
        for number, file in enumerate(good.files):
            write(self.models / f"v{number}", sealed(f"1.0.{number}", {"model.txt": file.read_bytes()})[1])
        (self.models / "bare").mkdir()
        os.mkfifo(self.models / "fifo")
        (self.models / "loop").symlink_to("loop")
        self.good_one()

    def good_one(self) -> None:
        """Point at a good version, written in one of several ways."""
        name = f"v{self._chance.randrange(len(self._good.files))}"
        point(
            self.pointer,
            self._chance.choice(
                (f"../models/{name}", f"../models/../models/./{name}", str(self.models / name))
            ),
        )

    def burst(self) -> int:
        count = self._chance.randrange(1, 2 * _BURST)
        for _ in range(count):
            self.good_one()
        return count

    # -- troubles: each leads nowhere good until the next good_one

    def dangling(self) -> None:
        point(self.pointer, "../models/nowhere")

    def fifo(self) -> None:
        point(self.pointer, "../models/fifo")

    def device(self) -> None:
        point(self.pointer, self._chance.choice(("/dev/zero", "/dev/null")))

    def loop(self) -> None:
        point(self.pointer, "../models/loop")

    def above(self) -> None:
        point(self.pointer, self._chance.choice(("..", "../..", "../../../../../../../..")))

    def no_pointer(self) -> None:
        self.pointer.unlink()

    def models_away(self) -> None:
        """The models renamed away, and another directory made in their place."""
        away = self.directory / "away"
        self.models.rename(away)
        self.models.mkdir()
        self._wait_trouble()
        shutil.copytree(away, self.models, symlinks=True, dirs_exist_ok=True, ignore=_no_fifo)
        os.mkfifo(self.models / "fifo")
        shutil.rmtree(away)

    def production_away(self) -> None:
        """The pointer's own directory renamed away and made again: another inode."""
        away = self.directory / "gone"
        self.production.rename(away)
        self._wait_trouble()
        self.production.mkdir()
        shutil.rmtree(away)

    def in_place(self) -> None:
        """A bare file behind the pointer, rewritten in place piece by piece."""
        file = self.models / "bare/model.txt"
        file.write_bytes(self._good.files[0].read_bytes())
        point(self.pointer, "../models/bare")
        for _ in range(2):
            data = self._chance.choice(self._good.files).read_bytes()
            with file.open("wb", buffering=0) as stream:
                for at in range(0, len(data), 8192):
                    stream.write(data[at : at + 8192])
                    time.sleep(0.003)  # a slow writer is the point

    def _wait_trouble(self) -> None:
        time.sleep(self._chance.uniform(0, 2 * _POLL_S))  # at any phase of the poll

    def trouble(self) -> str:
        made = self._chance.choice(
            (
                self.dangling,
                self.fifo,
                self.device,
                self.loop,
                self.above,
                self.no_pointer,
                self.models_away,
                self.production_away,
                self.in_place,
            )
        )
        made()
        self._wait_trouble()
        return made.__name__

    def named(self) -> str | None:
        """The version that the pointer leads to now."""
        name = self.pointer.resolve().name
        return f"1.0.{name[1]}" if name.startswith("v") else None


def _no_fifo(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "fifo"]


def test_pointer_chaos(
    make_daemon: Callable[..., Daemon], good: Good, record: Record, tmp_path: Path, campaign: int
) -> None:
    """Whatever it led to meanwhile: the last good pointer is followed, and the engines never notice the rest."""
    chaos = Chaos(tmp_path, good, record)
    daemon = make_daemon(chaos.pointer, source={"kind": "path", "models": ["alpha"]},
                         watch={"poll_interval_s": _POLL_S}, probation={"requests": 5}).start()  # fmt: skip
    vitals, renames, troubles, took_ms, moved = Vitals(daemon), 0, Counter[str](), [], 0
    with Engines(daemon, good, tmp_path, 2, record.seed) as engines:
        while renames < _SHORT * campaign:
            renames += chaos.burst()
            troubles[chaos.trouble()] += 1
            renames += chaos.burst()
            chaos.good_one()
            meant, start = chaos.named(), time.monotonic()
            # A bare file caught half-written is rejected, and the daemon may point back after the last rename.
            wait_until(
                lambda: (named := chaos.named()) is not None and daemon.model()["version"] == named, 10
            )
            took_ms.append((time.monotonic() - start) * 1e3)
            moved += chaos.named() != meant
            vitals.sample()
        wait_until(lambda: daemon.status()["degraded"] == [])
    engines.check()
    for version, rows in engines.others.items():
        offline = [{row: model[row : row + 1].tobytes() for row in rows} for model in good.offline]
        assert rows in offline, f"{version} is no whole model"
    record.figures = {
        "renames": renames,
        "troubles": dict(troubles),
        "last_pointer_to_served_ms": quantiles(took_ms),
        "poll_interval_ms": _POLL_S * 1e3,
        "pointed_back_over_the_last_rename": moved,
        "requests": engines.replies,
        **vitals.figures(),
    }
    vitals.check(_DRIFT_MB)
