"""Golden files: deterministic bytes, no pickles, shapes checked before memory is taken."""

from __future__ import annotations

import io

import numpy as np
import pytest

from modelreg import IntegrityError
from modelreg.golden import Golden, dump, first_difference, load
from modelreg.goldenrows import synthesise

ROWS = np.array([[1.0, np.nan], [2.0, 3.0]])


def test_dump_and_load_round_trip():
    """Same golden, same bytes; everything comes back in order, and numpy itself can read it."""
    golden = Golden(ROWS, {"7d": np.array([1.0, 2.0]), "1d": np.ones((2, 3))}, {"lightgbm": "4.7.0"})
    data = dump(golden)
    assert data == dump(golden)
    back = load(data)
    assert np.array_equal(back.rows, ROWS, equal_nan=True)
    assert list(back.outputs) == ["7d", "1d"]
    assert back.libraries == {"lightgbm": "4.7.0"}
    assert set(np.load(io.BytesIO(data), allow_pickle=False)) == {
        "rows",
        "outputs/7d",
        "outputs/1d",
        "libraries",
    }


def packed(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04nonsense",
        packed(other=ROWS),
        packed(rows=ROWS[0]),
        packed(rows=np.array([[object()]])),
        packed(rows=ROWS, **{"outputs/x": np.ones(3)}),
        packed(rows=ROWS, **{"outputs/x": np.ones(2, dtype=np.float32)}),
        packed(rows=ROWS, libraries=np.frombuffer(b"[1]", dtype=np.uint8)),
        dump(Golden(ROWS, {}))[:-30],
    ],
)
def test_what_isnt_a_golden_file_is_refused(data):
    """Damage, pickles and shapes that don't fit are integrity errors."""
    with pytest.raises(IntegrityError):
        load(data)


def test_comparison_is_exact_only_for_the_same_library():
    """The last bit matters with the same version.

    With another one 1e-9 relative is allowed; NaN never passes.
    """
    sealed = Golden(ROWS, {"p": np.array([1.0, 2.0])}, {"lightgbm": "4.7.0"})
    nearly = {"p": np.array([1.0, np.nextafter(2.0, 3.0)])}
    assert first_difference(sealed, sealed.outputs, {"lightgbm": "4.7.0"}) is None
    assert "golden row 1" in str(first_difference(sealed, nearly, {"lightgbm": "4.7.0"}))
    assert first_difference(sealed, nearly, {"lightgbm": "4.8.0"}) is None
    assert first_difference(sealed, {"p": np.array([1.0, 2.1])}, {"lightgbm": "4.8.0"})
    assert first_difference(sealed, {"p": np.array([1.0, np.nan])}, {"lightgbm": "4.8.0"})
    assert first_difference(sealed, {"q": np.ones(2)}, {"lightgbm": "4.8.0"})


def test_made_up_rows_stay_in_the_ranges():
    """Numbers span [min, max] with both ends, categories come from the list."""
    infos = [["[-1:3]"], ["2:5:9"], ["none"], ["[nan:inf]", "[0:1]"]]
    rows = synthesise(infos, rows=64, nan_fraction=0.1, seed=b"s")
    assert np.array_equal(rows, synthesise(infos, rows=64, nan_fraction=0.1, seed=b"s"), equal_nan=True)
    assert (np.nanmin(rows[:, 0]), np.nanmax(rows[:, 0])) == (-1.0, 3.0)
    assert set(rows[:, 1][~np.isnan(rows[:, 1])]) == {2.0, 5.0, 9.0}
    assert np.nanmin(rows[:, 3]) >= 0.0
    assert np.isnan(rows[2]).all()
