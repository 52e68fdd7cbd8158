"""Arrays, frames, lists and dicts, as they are sent. pandas and polars are the real ones."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest

from modeld.client.codec import encode_predict
from modeld.client.features import MAX_RAW_FRAMES, payload

pytestmark = pytest.mark.usefixtures("pool_of_polars")

COLUMNS = {"b": [1.5, math.nan], "a": [3.0, -4.0]}


@pytest.mark.parametrize("frame", [pd.DataFrame(COLUMNS), pl.DataFrame(COLUMNS)], ids=["pandas", "polars"])
def test_a_frame_is_one_raw_tensor_for_each_column(frame: Any) -> None:
    """By name and in the frame's own order: the server matches the names."""
    sent = payload(frame)
    assert [(tensor["name"], tensor["shape"]) for tensor in sent.fields["inputs"]] == [
        ("b", (2,)),
        ("a", (2,)),
    ]
    assert [np.frombuffer(raw).tolist() for raw in sent.raw][1] == [3.0, -4.0]
    assert np.isnan(np.frombuffer(sent.raw[0])).tolist() == [False, True]
    assert sent.binary_output


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([1.0, None, 3.0], dtype="Float64"),
        pd.Series([1.0, None, 3.0]),
        pl.Series([1, None, 3]),
        pl.Series([1.0, None, 3.0], dtype=pl.Float32),
    ],
    ids=["Int64", "Float64", "float64", "polars-int", "polars-float32"],
)
def test_what_is_missing_in_a_column_is_nan(column: Any) -> None:
    """Each library's own null becomes a missing value."""
    frame = pl.DataFrame({"a": column}) if isinstance(column, pl.Series) else pd.DataFrame({"a": column})
    got = np.frombuffer(payload(frame).raw[0])
    assert np.isnan(got).tolist() == [False, True, False]
    assert (got[0], got[2]) == (1.0, 3.0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.bool_])
def test_what_is_masked_is_nan(dtype: Any) -> None:
    """Whatever lies behind the mask doesn't travel; without a mask nothing changes."""
    masked = np.ma.array(np.ones((2, 2), dtype), mask=[[False, True], [False, False]])
    got = np.frombuffer(payload(masked).raw[0])
    assert np.isnan(got).tolist() == [False, True, False, False]
    assert np.frombuffer(payload(np.ma.array([1, 2])).raw[0]).tolist() == [1, 2]
    for rows in ([[1.0, np.ma.masked]], [masked[0]]):
        assert b"null" in encode_predict(1, rows)[0]


def test_a_masked_array_of_words_is_refused() -> None:
    """As any array that doesn't hold numbers."""
    with pytest.raises(TypeError, match="real numbers"):
        payload(np.ma.array(["a", "b"], mask=[True, False]))


@pytest.mark.parametrize("value", [pd.NA, pd.NaT], ids=["NA", "NaT"])
def test_other_words_for_missing_in_a_list_are_refused(value: Any) -> None:
    """None and NaN are missing there; what isn't known mustn't turn into a number."""
    with pytest.raises((TypeError, ValueError)):
        encode_predict(1, [1.0, value])


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
@pytest.mark.parametrize(
    "values", [np.array([True, False]), np.array([1, 2], np.int8), np.array([0.5, 1], "f4")]
)
def test_booleans_and_small_numbers_are_numbers(make: Any, values: np.ndarray) -> None:
    """Any real dtype is sent as float64."""
    assert np.frombuffer(payload(make({"a": values})).raw[0]).tolist() == values.astype(float).tolist()


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"day": ["mon", "tue"]}),
        pd.DataFrame({"day": pd.to_datetime(["2024-01-01"])}),
        pd.DataFrame({"day": pd.Categorical([1, 2])}),
        pd.DataFrame({"day": [1j]}),
        pl.DataFrame({"day": ["mon"]}),
        pl.DataFrame({"day": [None]}),
    ],
    ids=["text", "dates", "categories", "complex", "polars-text", "polars-null"],
)
def test_a_column_without_numbers_is_refused_by_name(frame: Any) -> None:
    """Dates and texts aren't guessed at."""
    with pytest.raises(TypeError, match="'day'"):
        payload(frame)


def test_a_lazy_frame_is_refused() -> None:
    """Running somebody's query plan is theirs to ask for."""
    with pytest.raises(TypeError, match="collect"):
        payload(pl.LazyFrame(COLUMNS))


def test_a_column_given_twice_is_refused() -> None:
    """pandas allows it; it can't be what was meant."""
    with pytest.raises(ValueError, match="'a' more than once"):
        payload(pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]))


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_a_wide_frame_has_its_values_in_a_messagepack_header(make: Any) -> None:
    """More columns than a message may have raw frames: to the bit all the same."""
    columns = {f"f{at}": [at / 3, math.nan] for at in range(MAX_RAW_FRAMES + 1)}
    (head,) = encode_predict(1, make(columns), encoding="json")
    inputs = msgspec.msgpack.decode(head)["inputs"]
    assert len(inputs) == MAX_RAW_FRAMES + 1
    assert inputs[64]["data"][0] == 64 / 3
    assert math.isnan(inputs[64]["data"][1])


def test_importing_the_client_imports_no_frame_and_no_model_library() -> None:
    """An engine that sends arrays pays for none of them."""
    code = (
        "import sys, modeld.client\n"
        "heavy = {'pandas', 'polars', 'lightgbm', 'sklearn', 'joblib', 'scipy', 'matplotlib'}\n"
        "print(*heavy & set(sys.modules), end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
