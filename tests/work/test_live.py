"""A candidate's answers beside those of the version that serves."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from tests.fakes import FEATURES, contract

from modeld.front.live import LiveRows
from modeld.wire.contract import Contract
from modeld.work import live

TWO = Contract("alpha", "1.0.0", FEATURES, "s", (("predictions", 0), ("classes", 3)))


def answered(
    rows: int, its: Contract, *, at_once: int = 1, size: int = 256
) -> tuple[LiveRows, Any, dict[str, Any]]:
    """Requests of `at_once` rows each, their first rows and first answers."""
    random = np.random.default_rng(5)
    remembered = LiveRows(its, size)
    firsts, outputs = [], {name: [] for name, _ in its.outputs}  # type: ignore[var-annotated]
    for _ in range(rows):
        data = random.standard_normal((at_once, its.n_features))
        answers = [random.standard_normal((at_once, width or 1)) for _, width in its.outputs]
        remembered.add(data.tobytes(), at_once, [answer.tobytes() for answer in answers])
        firsts.append(data[0])
        for (name, width), answer in zip(its.outputs, answers, strict=True):
            outputs[name].append(answer[0] if width else answer[0, 0])
    kept = slice(max(0, rows - size), None)
    return remembered, np.array(firsts)[kept], {name: np.array(out)[kept] for name, out in outputs.items()}


@pytest.mark.parametrize(("rows", "at_once", "size"), [(1, 1, 256), (40, 1, 256), (40, 7, 256), (40, 1, 8)])
@pytest.mark.parametrize("its", [contract("1.0.0"), TWO], ids=["one output", "two outputs"])
def test_what_was_answered_arrives_as_it_was(rows: int, at_once: int, size: int, its: Contract) -> None:
    """The first row of each of the last requests, with its own answers, through the memfd and back."""
    remembered, firsts, outputs = answered(rows, its, at_once=at_once, size=size)
    described, fd = remembered.pack()
    assert described.rows == len(remembered) == min(rows, size)
    got, answers = live.read(described, fd)
    np.testing.assert_array_equal(got, firsts)
    assert answers.keys() == outputs.keys()
    for name, out in outputs.items():
        np.testing.assert_array_equal(answers[name], out)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_view_of_a_message_is_not_kept() -> None:
    """One row of very many features comes as a view too: what is remembered is a copy."""
    remembered = LiveRows(contract("1.0.0"), 8)
    message = bytearray(8 * len(FEATURES))
    remembered.add(memoryview(message), 1, [bytes(8)])
    message.clear()  # a BufferError where anybody has a view of it
    assert len(remembered) == 1


def test_nothing_is_remembered_where_that_is_switched_off() -> None:
    """trial.live_rows: 0."""
    assert len(answered(5, contract("1.0.0"), size=0)[0]) == 0


def test_rank_correlation_is_spearmans() -> None:
    """With ties and without, as scipy has it; a side that is constant has none."""
    random = np.random.default_rng(3)
    for scale in (1000, 5):
        a = np.round(random.standard_normal(200) * scale)
        b = np.round(a + random.standard_normal(200) * scale)
        assert live.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert live.rank_correlation(np.ones(5), np.arange(5.0)) is None


def test_differences_are_told_by_output_and_limits_name_it() -> None:
    """Outputs of another shape, or that only one side has, aren't compared; what breaks a limit is named."""
    remembered, _, old = answered(64, TWO)
    described, fd = remembered.pack()
    os.close(fd)
    new = {
        "predictions": old["predictions"] + 0.5,
        "classes": old["classes"][:, :2],
        "other": old["predictions"],
    }
    (one,) = found = live.compare(old, new)
    assert (one.output, one.rows) == ("predictions", 64)
    assert (one.mean_abs_diff, one.rank_correlation) == (pytest.approx(0.5), pytest.approx(1.0))
    assert live.objection(described, found) is None
    described.max_mean_abs_diff = 0.4
    assert "difference is 0.5, trial.max_mean_abs_diff is 0.4" in (live.objection(described, found) or "")
    described.max_mean_abs_diff, described.min_rank_correlation = None, 0.9
    assert live.objection(described, found) is None
    turned = live.compare(old, {"classes": -old["classes"]})
    assert "the rank correlation is -1.0000, trial.min_rank_correlation is 0.9" in (
        live.objection(described, turned) or ""
    )
    flat = live.compare(old, {"predictions": np.zeros(64)})
    assert "the rank correlation is 0.0000" in (live.objection(described, flat) or "")
    same_row = {"predictions": np.full(64, old["predictions"][0])}
    assert live.objection(described, live.compare(same_row, {"predictions": np.arange(64.0)})) is None
