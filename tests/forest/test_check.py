"""What the check refuses: every count, index and number that the kernel would rely on."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest
from tests.forest.models import data, train

from modeld.forest import Forest, PlanRefused, Scaling
from modeld.forest import format as form
from modeld.forest.compile import compile_text


@pytest.fixture(scope="module")
def plans() -> dict[str, bytes]:
    """One plan of each layout, with numbers, missing values, categories and a scaler."""
    text = train(data(40, missing=0.1, categories=1), categories=1, trees=70).model_to_string()
    scaling = Scaling(np.zeros(6), np.ones(6))
    return {layout: bytes(compile_text(text, layout=layout, scaling=scaling)) for layout in ("lanes", "walk")}


def changed(plan: bytes, section: str, change: Any) -> bytes:
    """`plan` with `change` made to one section."""
    checked = form.check(memoryview(bytearray(plan)))
    sections = {name: array.copy() for name, array in checked.sections.items()}
    change(sections[section])
    return bytes(form.assemble(checked.header, sections))


def put(at: int, value: Any, field: str | None = None) -> Any:
    def change(array: Any) -> None:
        if field is None:
            array[at] = value
        else:
            array[field][at] = value

    return change


BOTH: list[tuple[str, Any, str]] = [
    ("columns", put(0, 6, "feature"), "feature"),
    ("columns", put(0, 4, "kind"), "kind"),
    ("columns", put(0, 0, "count"), "without thresholds"),
    ("columns", put(0, 1 << 20, "count"), "thresholds"),
    ("columns", put(0, 0xFFFFFFFF, "first"), "thresholds"),
    ("columns", put(0, 1 << 20, "pivot"), "pivots"),
    ("columns", put(-1, 1 << 20, "count"), "categories"),
    ("columns", put(-1, 0xFFFFFFFF, "first"), "categories"),
    ("sizes", put(0, 20), "sum up"),
    ("sizes", put(0, 0xFFFFFFFF), "sum up"),
    ("first_leaf", put(3, 0), "first leaf"),
    ("leaves", put(5, np.nan), "finite"),
    ("leaves", put(5, -np.inf), "finite"),
    ("means", put(5, np.nan), "mean"),
    ("means", put(0, -np.inf), "mean"),
    ("scales", put(0, 0.0), "scale"),
    ("scales", put(5, -0.0), "scale"),
    ("scales", put(5, np.inf), "scale"),
    ("scales", put(5, np.nan), "scale"),
]
CASES = [
    *(("lanes", *case) for case in BOTH),
    *(("walk", *case) for case in BOTH),
    ("lanes", "positions", put(0, 3), "positions"),
    ("lanes", "positions", put(0, 0xFFFFFFFF), "positions"),
    ("lanes", "slots", put(0, 255), "slot"),
    ("lanes", "to", put(0, 200), "label"),
    ("lanes", "to", put(-64, 200), "label"),
    ("walk", "first_node", put(2, 1), "first node"),
    ("walk", "nodes", put(0, 60000, "column"), "column"),
    ("walk", "nodes", put(-1, 60000, "column"), "column"),
    ("walk", "nodes", put(0, 0, "left"), "child"),
    ("walk", "nodes", put(3, 2, "right"), "child"),
    ("walk", "nodes", put(0, 14, "right"), "child"),
    ("walk", "nodes", put(0, ~15, "left"), "child"),
    ("walk", "nodes", put(0, -32768, "left"), "child"),
]


@pytest.mark.parametrize(("layout", "section", "change", "why"), CASES)
def test_refused(plans: dict[str, bytes], layout: str, section: str, change: Any, why: str) -> None:
    """One wrong number in a section is enough, and the message names it."""
    with pytest.raises(PlanRefused, match=why):
        Forest(changed(plans[layout], section, change))


@pytest.mark.parametrize("layout", ["lanes", "walk"])
def test_every_header_byte_matters(plans: dict[str, bytes], layout: str) -> None:
    """A header with any byte of its counts changed is refused, or says the same of the memory."""
    plan = plans[layout]
    accepted = set()
    for at in range(form.HEADER.size):
        for value in (0, 1, 3, 0x7F, 0x80, 0xFF):
            wrong = bytearray(plan)
            if wrong[at] == value:
                continue
            wrong[at] = value
            try:
                Forest(wrong)
            except PlanRefused:
                continue
            accepted.add(at)
    # Outputs that divide the trees, transform, average, sigmoid, divisor and the padding: none of them moves a read out
    # of the plan. More features need more means; `scaled` (88 to 91) is the sections' own.
    assert accepted <= {36, *range(64, 88), *range(92, 128)}


def test_columns_that_arent_there(plans: dict[str, bytes]) -> None:
    """Nodes without any column would compare memory that nobody has written."""
    for plan in plans.values():
        checked = form.check(memoryview(bytearray(plan)))
        header = dataclasses.replace(checked.header, n_columns=0)
        sections = {name: array.copy() for name, array in checked.sections.items()}
        for name, field in (("slots", None), ("nodes", "column")):
            if name in sections:
                sections[name][field if field else slice(None)] = 0
        sections["columns"] = sections["columns"][:0]
        with pytest.raises(PlanRefused, match="without columns"):
            Forest(form.assemble(header, sections))


def test_a_plan_without_a_scaler_may_have_features_that_nobody_looks_at() -> None:
    """Then no section depends on their number: a row's length is the caller's to see to."""
    plan = compile_text(train(data(43)).model_to_string())
    plan[24:28] = (1000).to_bytes(4, "little")
    assert Forest(plan).n_features == 1000


@pytest.mark.parametrize("layout", ["lanes", "walk"])
def test_length(plans: dict[str, bytes], layout: str) -> None:
    """A plan is as long as it says: not a byte less, not a byte more."""
    plan = plans[layout]
    for size in (0, 7, form.HEADER.size - 1, form.HEADER.size, len(plan) // 2, len(plan) - 64, len(plan) - 1):
        with pytest.raises(PlanRefused):
            Forest(plan[:size])
    for more in (1, 63, 64, 4096):
        with pytest.raises(PlanRefused):
            Forest(plan + bytes(more))


def test_not_a_plan() -> None:
    """Other bytes are no plan."""
    for wrong in (b"tree\nversion=v4\n" * 40, bytes(4096), b"\xff" * 4096):
        with pytest.raises(PlanRefused, match="not a plan"):
            Forest(wrong)


def test_memory_that_isnt_aligned(plans: dict[str, bytes]) -> None:
    """A plan at an address that float64 mustn't have is refused."""
    shifted = np.frombuffer(b"\0" + plans["lanes"], np.uint8).copy()[1:]
    with pytest.raises(PlanRefused, match="aligned"):
        form.check(memoryview(shifted))


def test_a_forest_keeps_a_copy(plans: dict[str, bytes]) -> None:
    """What happens to the caller's bytes after the check doesn't reach the kernel."""
    memory = bytearray(plans["walk"])
    forest = Forest(memory)
    rows = data(41)
    before = forest.predict(rows).tobytes()
    memory[:] = b"\xff" * len(memory)
    assert forest.predict(rows).tobytes() == before
    assert forest.plan == plans["walk"]


def test_the_check_is_quick() -> None:
    """500 trees of 63 leaves on 158 features compile in 150 ms and are checked in 5 (medians, with room for a busy
    machine)."""
    booster = train(data(42, rows=2000, features=158), trees=25, num_leaves=63)
    text, end, _ = booster.model_to_string().partition("\nend of trees")
    head, *trees = text.split("\nTree=")
    text = "\nTree=".join([head, *(trees * 20)]) + end

    def median_ms(action: Any) -> float:
        took = []
        for _ in range(7):
            start = time.perf_counter()
            action()
            took.append(time.perf_counter() - start)
        return float(np.median(took)) * 1e3

    for layout in ("lanes", "walk"):
        plan = memoryview(compile_text(text, layout=layout))
        assert median_ms(lambda plan=plan: form.check(plan)) < 5 * 2
    assert median_ms(lambda: compile_text(text)) < 150 * 2
