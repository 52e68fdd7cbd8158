"""Models that kill: the process that loads them dies, the registry says how and goes on."""

from __future__ import annotations

import os
import pickle
import re

import numpy as np
import pytest

from modelreg import LoadError, Registry
from modelreg import golden as goldens
from modelreg.isolation import _judge
from modelreg.lgbtext import check_complete
from modelreg.probe import ANSWERS_FILE, REPORT_FILE, STDERR_FILE
from modelreg.settings import ProbeSettings, Settings


def edited(data: bytes, field: bytes, value: bytes) -> bytes:
    """Put ``value`` in place of the first number of the first ``field`` line, keeping every length."""
    match = re.search(rb"^" + field + rb"=(-?\d+)", data, re.MULTILINE)
    assert match is not None
    assert len(value) <= len(match[1]) + 8
    old, line_end = match.span(1), data.index(b"\n", match.end())
    line = data[old[0] : line_end]
    new = value + line[len(match[1]) :]
    return data[: old[0]] + new[: len(line)].ljust(len(line)) + data[line_end:]


@pytest.mark.parametrize("value", [b"99999999", b"0"])
def test_a_damaged_tree_is_refused_with_a_sentence(root, models, tmp_path, value):
    """A wild child index would die, one that points at itself spin: both are refused before LightGBM sees them."""
    registry = Registry.init(root)
    bad = tmp_path / "bad.txt"
    bad.write_bytes(edited(models["a"].path.read_bytes(), b"left_child", value))
    check_complete(bad.read_bytes(), where="bad.txt")  # its outline is sound: only loading finds out
    with pytest.raises(LoadError, match="damaged or edited"):
        registry.register("m", bad, version="1.0.0")
    assert registry.models() == []
    assert registry.register("m", models["a"].path, version="1.0.0").seq == 1


def test_every_truncation_is_found_from_the_outline(models):
    """Whatever is cut off before the parameters end is noticed without LightGBM."""
    data = models["a"].path.read_bytes()
    check_complete(data, where="model")
    for end in range(0, data.index(b"end of parameters"), 997):
        if data[:end].endswith(b"end of trees"):
            continue
        if b"end of trees" in data[:end] and b"\nparameters:" not in data[:end]:
            continue  # all trees are there: only comments are lost
        with pytest.raises(LoadError):
            check_complete(data[:end], where="model")


def test_the_memory_limit_holds(root, models):
    """A probe that needs more memory than it may have is refused, not waited for."""
    registry = Registry.init(root, settings=Settings(probe=ProbeSettings(memory_bytes=64 << 20)))
    with pytest.raises(LoadError):
        registry.register("m", models["a"].path)


@pytest.mark.parametrize(
    ("status", "report", "answers", "says"),
    [
        (None, None, None, "not done within 5 s"),
        (-11, None, None, "the process died of SIGSEGV"),
        (-40, None, None, "the process died of signal 40"),
        (3, None, None, "ended with status 3: it said nothing"),
        (0, "[]", None, "ended with status 0"),
        (0, '{"problem": "no such feature"}', None, "no such feature"),
        (0, "{}", None, "no usable answers"),
        (0, "{}", {"other": [1.0, 2.0]}, "answers for ['other'], expected ['p']"),
        (0, "{}", {"p": [1.0, float("nan")]}, "output 'p' isn't finite"),
    ],
)
def test_whatever_the_process_leaves_behind_is_judged(tmp_path, status, report, answers, says):
    """It may end in any way and write anything: each is a refusal that says what happened."""
    (tmp_path / STDERR_FILE).write_bytes(b"")
    if report is not None:
        (tmp_path / REPORT_FILE).write_text(report)
    rows = np.zeros((2, 3))
    if answers is not None:
        outputs = {name: np.array(values) for name, values in answers.items()}
        (tmp_path / ANSWERS_FILE).write_bytes(goldens.dump(goldens.Golden(rows, outputs)))
    with pytest.raises(LoadError, match=re.escape(says)):
        _judge("m:1.0.0", tmp_path, status, rows, ["p"], 5.0)


class Kills:
    """Unpickling it ends the process."""

    def __reduce__(self):
        return os.abort, ()


def test_a_pickle_that_kills_is_told_by_its_file(root, tmp_path):
    """The process that loads it dies; the registry says of which file, and is as it was."""
    registry = Registry.init(root)
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Kills()))
    with pytest.raises(LoadError, match=r"loading model\.joblib: the process died of SIGABRT"):
        registry.register("m", tmp_path / "bad.pkl", features=["a"], allow_joblib=True)
    assert registry.models() == []


def test_loading_says_nothing_in_somebody_elses_process(two, models, capfd):
    """What ``Registry.load`` gives answers as the booster did, and nothing is printed."""
    rows = np.zeros((2, 4))
    (answer,) = two.load("momentum:1.0.0").predict(rows)
    assert answer.tobytes() == models["a"].booster.predict(rows, num_threads=1).tobytes()
    assert capfd.readouterr() == ("", "")
