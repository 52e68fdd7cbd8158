"""Campaign 2: models that are broken or mean harm, sealed as if they were fine."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from tests.campaigns.mutants import mutate
from tests.campaigns.parts import Engines, Good, Oracle, Record, Vitals, point, sealed, write
from tests.e2e.conftest import Daemon
from tests.registry.conftest import FEATURES
from tests.support import wait_until

from modeld.client import AdminClient, Client
from modeld.client.errors import Rejected, ServerError

#: Seconds: twenty seconds on a quiet machine.
pytestmark = pytest.mark.timeout(300)

#: Mutations; --campaign N makes N times as many.
_SHORT = 60
#: A candidate is judged within this time: 5 is the aim, and what a quiet machine shows. Seconds.
_JUDGED_S = 15.0
_TRIAL_S = 2.0
#: What the front may grow by while it sees models of many sizes, MB.
_DRIFT_MB = 4.0


class _Bomb:
    """Unpickling it runs `code`."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (self.code,)


_BOMBS = {
    "exit": "import os; os._exit(0)",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "sleep": "import time; time.sleep(3600)",
    "fork": "import os\nwhile True: os.fork()",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "parent": "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
}


class Source:
    """A symlink that leads to hand-sealed versions, and a daemon that follows it."""

    def __init__(self, directory: Path, good: Good) -> None:
        self.versions = directory / "versions"
        self.pointer = directory / "latest"
        self.home = self.put("1.0.0", {"model.txt": good.files[0].read_bytes()})[1]
        point(self.pointer, self.home)

    def put(self, version: str, model: dict[str, bytes], **facts: Any) -> tuple[str, Path]:
        """Digest and directory of a new version."""
        digest, files = sealed(version, model, **facts)
        return digest, write(self.versions / version, files)


class Judge:
    """Offers versions to the daemon, one after the other, and goes back to the good one after each."""

    def __init__(self, source: Source, good: Good, operator: AdminClient, client: Client) -> None:
        self._source, self._good, self._operator, self._client = source, good, operator, client
        self.took_s: list[float] = []
        self.served: dict[str, np.ndarray] = {}

    def offer(self, directory: Path, expected: Callable[[], np.ndarray | None]) -> str:
        """`rejected`, or `served` with the `expected` predictions, bit by bit, which then have to exist."""
        version = directory.name
        start = time.monotonic()
        point(self._source.pointer, directory)
        try:
            answer = self._operator.reload("alpha", timeout_s=15)
        except Rejected:
            self.took_s.append(time.monotonic() - start)
            # Pointed back by the daemon: what follows mustn't meet that write.
            wait_until(lambda: self._source.pointer.readlink() != directory, 15)
            return "rejected"
        self.took_s.append(time.monotonic() - start)
        assert answer["version"] == version, answer
        offline = expected()
        assert offline is not None, f"{version} is served, and LightGBM itself can't use it"
        self.served[version] = offline
        self._ask(version, offline)
        point(self._source.pointer, self._source.home)
        answer = self._operator.reload("alpha", timeout_s=15)
        assert answer["version"] == "1.0.0", answer
        return "served"

    def _ask(self, version: str, offline: np.ndarray) -> None:
        """Row by row and as a whole. A row without a finite answer gets an error, or probation ends the version."""
        rows = self._good.rows
        for first, count in [(row, 1) for row in range(0, len(rows), 3)] + [(0, len(rows))]:
            try:
                reply = self._client.predict(rows[first : first + count])
            except ServerError:
                assert not np.isfinite(offline[first : first + count]).all()
                continue
            if reply.version != version:
                assert not np.isfinite(offline).all(), f"{version} was left for {reply.version}"
                return
            assert reply.values.tobytes() == offline[first : first + count].tobytes(), (
                f"{version}: row {first}"
            )


def _check(engines: Engines, served: dict[str, np.ndarray]) -> None:
    """The good version answered throughout; of the others only those that were let in, with LightGBM's answers."""
    overflowing = any(not np.isfinite(offline).all() for offline in served.values())
    engines.check(errors=frozenset({"INTERNAL"} if overflowing else ()))
    for version, rows in engines.others.items():
        assert version in served, f"{version} was rejected, and answered"
        for row, outputs in rows.items():
            assert outputs == served[version][row : row + 1].tobytes(), f"{version}: row {row}"


def test_corrupt_models(
    make_daemon: Callable[..., Daemon],
    good: Good,
    oracle: Oracle,
    record: Record,
    tmp_path: Path,
    campaign: int,
) -> None:
    """Each mutation is rejected in time, or predicts what LightGBM itself predicts with it; the front lives on."""
    source, chance = Source(tmp_path, good), record.chance
    text = good.files[0].read_bytes()
    original = (good.rows[:32], good.offline[0][:32])
    daemon = make_daemon(source.pointer, source={"kind": "path", "models": ["alpha"]}, trial={"timeout_s": _TRIAL_S},
                         probation={"requests": 20}).start()  # fmt: skip
    vitals, outcomes, seen = Vitals(daemon), Counter[str](), {text}
    with (
        Engines(daemon, good, tmp_path, 1, record.seed) as engines,
        daemon.operator() as operator,
        daemon.client() as client,
    ):
        judge = Judge(source, good, operator, client)
        while len(seen) <= _SHORT * campaign:
            kind, mutant = mutate(text, chance)
            if mutant in seen:
                continue
            seen.add(mutant)
            version = f"2.0.{len(seen)}"
            (tmp_path / "mutant.txt").write_bytes(mutant)
            own = oracle.predict(tmp_path / "mutant.txt")
            answers = chance.choice((None, original, original if own is None else (good.rows[:32], own[:32])))
            _, directory = source.put(version, {"model.txt": mutant}, answers=answers)
            outcome = judge.offer(directory, lambda own=own: own)
            outcomes[f"{kind} {outcome}"] += 1
            outcomes["LightGBM dies of it or refuses it" if own is None else "LightGBM loads it"] += 1
            vitals.sample()
    record.figures = {
        "mutations": len(seen) - 1,
        "rejected": sum(n for what, n in outcomes.items() if what.endswith("rejected")),
        "served": sum(n for what, n in outcomes.items() if what.endswith("served")),
        "outcomes": dict(sorted(outcomes.items())),
        "slowest_judgement_s": round(max(judge.took_s), 2),
        "requests": engines.replies,
        **vitals.figures(),
    }
    _check(engines, judge.served)
    assert max(judge.took_s) < _JUDGED_S
    vitals.check(_DRIFT_MB, incidents=frozenset({"an output isn't finite"}))


def test_bombs_and_other_contracts(
    make_daemon: Callable[..., Daemon],
    good: Good,
    record: Record,
    tmp_path: Path,
) -> None:
    """Pickles that are allowed and mean harm, outputs that aren't finite, features and shapes that don't fit."""
    source = Source(tmp_path, good)
    text = good.files[0].read_bytes()
    offers: dict[str, Path] = {}
    allowed = []
    for number, (name, code) in enumerate(_BOMBS.items()):
        pickled = io.BytesIO()
        joblib.dump(_Bomb(code), pickled)
        digest, offers[name] = source.put(
            f"3.0.{number}", {"model.joblib": pickled.getvalue()}, format="joblib"
        )
        allowed.append(digest)
    first = text.index(b"leaf_value=") + len(b"leaf_value=")
    end = text.index(b"\n", first)
    for number, (name, value) in enumerate(
        {"nan": b"nan", "infinity": b"inf", "overflow": b"1.7e308"}.items()
    ):
        leaves = b" ".join([value] * len(text[first:end].split()))
        bad = text[:first] + leaves + text[end:]
        offers[name] = source.put(f"3.1.{number}", {"model.txt": bad})[1]
    more = (*FEATURES, "more")
    offers["a feature more"] = source.put("3.2.0", {"model.txt": text}, features=more)[1]
    offers["a feature less"] = source.put("3.2.1", {"model.txt": text}, features=FEATURES[:-1])[1]
    offers["another order"] = source.put("3.2.2", {"model.txt": text}, features=FEATURES[::-1])[1]
    renamed = text.replace(b"ret_1d", b"ret_2d")
    offers["another name"] = source.put("3.2.3", {"model.txt": renamed}, features=("ret_2d", *FEATURES[1:]))[
        1
    ]
    wrong = (good.rows[:32], np.nextafter(good.offline[0][:32], 1))
    offers["golden answers one bit off"] = source.put("3.2.4", {"model.txt": text}, answers=wrong)[1]
    wide = (good.rows[:32], np.column_stack([good.offline[0][:32]] * 3))
    offers["golden answers of another shape"] = source.put("3.2.5", {"model.txt": text}, answers=wide)[1]
    daemon = make_daemon(source.pointer, source={"kind": "path", "models": ["alpha"]},
                         trial={"timeout_s": _TRIAL_S, "allow_joblib": allowed}).start()  # fmt: skip
    vitals, outcomes = Vitals(daemon), {}
    zygote = daemon.status()["zygote_pid"]
    with (
        Engines(daemon, good, tmp_path, 1, record.seed) as engines,
        daemon.operator() as operator,
        daemon.client() as client,
    ):
        judge = Judge(source, good, operator, client)
        for name, directory in offers.items():
            outcomes[name] = judge.offer(directory, lambda: None)
            vitals.sample()
            assert outcomes[name] == "rejected", name
    record.figures = {
        "offers": len(judge.took_s),
        "rejected": sorted(outcomes),
        "slowest_judgement_s": round(max(judge.took_s), 2),
        "requests": engines.replies,
        **vitals.figures(),
    }
    vitals.check(_DRIFT_MB)
    _check(engines, judge.served)
    assert daemon.status()["zygote_pid"] == zygote
    assert max(judge.took_s) < _JUDGED_S
