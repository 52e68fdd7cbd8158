"""Every form of input of the protocol, and every way in which one can be wrong."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modeld.errors import RequestError
from modeld.wire import header, tensors
from modeld.wire.contract import Contract

NAN = math.nan
NAMES = ("a", "b", "c")
CONTRACT = Contract("alpha", "1.4.0", NAMES, "sha256:s", (("predictions", 0),))
STRICT = Contract("alpha", "1.4.0", NAMES, "sha256:s", (("predictions", 0),), nan_allowed=False)
MAX_ROWS = 100
ENCODINGS = {"json": (header.encode_json, tensors.JSON), "msgpack": (header.encode_msgpack, tensors.MSGPACK)}


@pytest.fixture(params=ENCODINGS)
def encoding(request):
    return request.param


def parse(encoding: str, body: Any, raw: list[bytes] | None = None, contract: Contract = CONTRACT) -> Any:
    encode, decoders = ENCODINGS[encoding]
    request = header.decode(body if isinstance(body, bytes) else encode(body))
    data, rows = tensors.parse_matrix(request, raw or [], contract, MAX_ROWS, decoders)
    return np.frombuffer(data).reshape(rows, contract.n_features)


def tensor(data: Any = None, shape: tuple[int, ...] = (1, 3), name: str = "features", **fields: Any) -> Any:
    made = {"name": name, "shape": list(shape), "datatype": "FP64", "data": data}
    return {**made, **fields}


def raw_tensor(size: int, shape: tuple[int, ...] = (1, 3), datatype: str = "FP64", name: str = "x") -> Any:
    parameters = {"binary_data_size": size}
    return {"name": name, "shape": list(shape), "datatype": datatype, "parameters": parameters}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"inputs": [tensor([1, 2, 3])]}, [[1, 2, 3]]),
        ({"inputs": [tensor([[1, 2, 3]])]}, [[1, 2, 3]]),
        ({"inputs": [tensor([1, 2, 3, 4, 5, 6], (2, 3))]}, [[1, 2, 3], [4, 5, 6]]),
        ({"inputs": [tensor([[1, 2, 3], [4, 5, 6]], (2, 3))]}, [[1, 2, 3], [4, 5, 6]]),
        ({"inputs": [tensor([1.5, None, 3])]}, [[1.5, NAN, 3]]),
        ({"inputs": [tensor([[1.5, None, 3]])]}, [[1.5, NAN, 3]]),
        ({"inputs": [tensor([1, 2, 3], datatype="INT32")]}, [[1, 2, 3]]),
        ({"inputs": [tensor([2], (1,), "b"), tensor([3], (1, 1), "c"), tensor([1], (1,), "a")]}, [[1, 2, 3]]),
        ({"inputs": [tensor([n, n], (2,), n_) for n, n_ in enumerate(NAMES)]}, [[0, 1, 2], [0, 1, 2]]),
        ({"features": [1, 2, 3]}, [[1, 2, 3]]),
        ({"features": [1, None, 3]}, [[1, NAN, 3]]),
        ({"features": [[1, 2, 3], [4, None, 6]]}, [[1, 2, 3], [4, NAN, 6]]),
        ({"features": {"c": 3, "a": 1, "b": None}}, [[1, NAN, 3]]),
        ({"features": [{"c": 3, "a": 1, "b": 2}, {"a": 4, "b": 5, "c": 6}]}, [[1, 2, 3], [4, 5, 6]]),
        ({"features": [1, 2, 3], "inputs": None}, [[1, 2, 3]]),
        ({"inputs": [tensor([1, 2, 3])], "features": None}, [[1, 2, 3]]),
    ],
)
def test_every_form_gives_the_same_matrix(encoding, body, expected):
    """Flat, nested, named, short: rows in the contract's order, null is NaN, a null field is an absent one."""
    np.testing.assert_array_equal(parse(encoding, body), np.array(expected, float))


@pytest.mark.parametrize(
    ("datatype", "kind"), [("FP64", "<f8"), ("FP32", "<f4"), ("INT64", "<i8"), ("INT32", "<i4")]
)
def test_raw_frames_of_each_datatype_are_computed_in_float64(encoding, datatype, kind):
    """Little-endian bytes of the four input datatypes, alone or one frame a feature, in the order of the inputs."""
    matrix = np.array([[1, 2, 3], [-4, 5, 6]], kind)
    whole = raw_tensor(matrix.nbytes, (2, 3), datatype)
    np.testing.assert_array_equal(parse(encoding, {"inputs": [whole]}, [matrix.tobytes()]), matrix)
    order = (2, 0, 1)
    columns = [raw_tensor(2 * matrix.itemsize, (2,), datatype, NAMES[at]) for at in order]
    frames = [matrix[:, at].tobytes() for at in order]
    np.testing.assert_array_equal(parse(encoding, {"inputs": columns}, frames), matrix)


def test_raw_frames_go_to_the_inputs_without_data_in_order(encoding):
    """Inline and raw tensors can be mixed; an explicit null is no data."""
    raw = [np.array([7.0]).tobytes(), np.array([8.0]).tobytes()]
    inputs = [raw_tensor(8, (1,), name="c"), tensor([5], (1,), "a"), raw_tensor(8, (1,), name="b")]
    np.testing.assert_array_equal(parse(encoding, {"inputs": inputs}, raw), [[5, 8, 7]])
    inputs[0]["data"] = None
    np.testing.assert_array_equal(parse(encoding, {"inputs": inputs}, raw), [[5, 8, 7]])


def test_nan_is_missing_only_where_the_contract_lets_it(encoding):
    """A model that takes no NaN names the row and the feature."""
    row = np.array([[1, 2, 3], [1, NAN, 3]])
    inputs = {"inputs": [raw_tensor(48, (2, 3))]}
    np.testing.assert_array_equal(parse(encoding, inputs, [row.tobytes()]), row)
    for body, raw in ((inputs, [row.tobytes()]), ({"features": [[1, 2, 3], [1, None, 3]]}, [])):
        with pytest.raises(RequestError, match=r"alpha 1\.4\.0: row 1, feature 'b' is NaN") as caught:
            parse(encoding, body, raw, STRICT)
        assert (caught.value.code, caught.value.parameters) == ("NON_FINITE", {"row": 1, "feature": "b"})


@pytest.mark.parametrize("contract", [CONTRACT, STRICT])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinity_is_refused_by_place(contract, value):
    """Infinities are never an input, a NaN before one doesn't hide it."""
    row = np.array([[1, 2, 3], [1, 2, value]])
    with pytest.raises(RequestError, match="row 1, feature 'c' is an infinity") as caught:
        parse("json", {"inputs": [raw_tensor(48, (2, 3))]}, [row.tobytes()], contract)
    assert caught.value.code == "NON_FINITE"
    row[0, 0] = NAN
    with pytest.raises(RequestError, match="row 1, feature 'c' is an infinity"):
        parse("json", {"inputs": [raw_tensor(48, (2, 3))]}, [row.tobytes()])
    with pytest.raises(RequestError, match="row 0, feature 'b' is an infinity"):
        parse("msgpack", {"features": [1, value, 3]})


REFUSED: list[tuple[Any, list[bytes], str, str]] = [
    ({}, [], "MALFORMED", "either 'inputs' or 'features'"),
    ({"inputs": [], "features": None}, [], "MALFORMED", "'inputs' is empty"),
    ({"inputs": [tensor([1, 2, 3])], "features": [1, 2, 3]}, [], "MALFORMED", "either"),
    ({"features": "abc"}, [], "MALFORMED", "'features' is a list"),
    ({"features": 5}, [], "MALFORMED", "'features' is a list"),
    ({"features": [1, "2", 3]}, [], "MALFORMED", "'features' is a list"),
    ({"features": [1, [2], 3]}, [], "MALFORMED", "'features' is a list"),
    ({"features": [1, 2, 3]}, [b"12345678"], "MALFORMED", "takes no raw frames; 1 came"),
    ({"features": [1, 2]}, [], "SHAPE_MISMATCH", "alpha 1.4.0 takes 3 features; row 0 has 2"),
    ({"features": []}, [], "SHAPE_MISMATCH", "row 0 has 0"),
    ({"features": [[1, 2, 3], [1, 2, 3, 4]]}, [], "SHAPE_MISMATCH", "row 1 has 4"),
    ({"features": {"a": 1, "c": 3}}, [], "MISSING_FEATURE", "row 0 lacks feature 'b'"),
    ({"features": {}}, [], "MISSING_FEATURE", "lacks feature 'a' (3 missing)"),
    ({"features": {"a": 1, "b": 2, "c": 3, "d": 4}}, [], "UNKNOWN_FEATURE", "no feature 'd' (row 0)"),
    ({"features": [dict.fromkeys(NAMES, 1), {"a": 1}]}, [], "MISSING_FEATURE", "row 1 lacks feature 'b'"),
    ({"features": [dict.fromkeys(NAMES, 1), {"z": 1}]}, [], "UNKNOWN_FEATURE", "'z' (row 1)"),
    ({"features": [[1, 2, 3]] * 101}, [], "TOO_LARGE", "101 rows; at most 100"),
    ({"features": [dict.fromkeys(NAMES, 1)] * 101}, [], "TOO_LARGE", "101 rows; at most 100"),
    ({"inputs": [tensor([1, 2], (1, 2))]}, [], "SHAPE_MISMATCH", "takes 3 features"),
    ({"inputs": [tensor([1, 2, 3], (3,))]}, [], "SHAPE_MISMATCH", "'features' has [3]"),
    ({"inputs": [tensor([1], (), "a")]}, [], "SHAPE_MISMATCH", "'a' has []"),
    ({"inputs": [tensor([1, 2, 3], ())]}, [], "SHAPE_MISMATCH", "'features' has []"),
    ({"inputs": [tensor([], (0, 3))]}, [], "SHAPE_MISMATCH", "no rows"),
    ({"inputs": [tensor([], (-1, 3))]}, [], "SHAPE_MISMATCH", "[-1, 3]"),
    ({"inputs": [tensor([1, 2, 3], (2, 3))]}, [], "SHAPE_MISMATCH", "6 elements; 'data' has 3"),
    ({"inputs": [tensor([[1, 2], [3]])]}, [], "SHAPE_MISMATCH", "different lengths"),
    ({"inputs": [tensor([1, 2, 3], (101, 3))]}, [], "TOO_LARGE", "101 rows"),
    ({"inputs": [tensor([1], (2**62, 3))]}, [], "TOO_LARGE", "rows"),
    ({"inputs": [tensor([1, True, 3])]}, [], "MALFORMED", "$[1]"),
    ({"inputs": [tensor([[1, 2, "x"]])]}, [], "MALFORMED", "$[0][2]"),
    ({"inputs": [tensor("AAA=")]}, [], "MALFORMED", "input 'features'"),
    (
        {"inputs": [tensor([1, 2, 3], datatype="BOOL")]},
        [],
        "DATATYPE_UNSUPPORTED",
        "'BOOL'; send one of FP64",
    ),
    ({"inputs": [tensor([1, 2, 3], datatype="fp64")]}, [], "DATATYPE_UNSUPPORTED", "'fp64'"),
    ({"inputs": [tensor()]}, [], "MALFORMED", "1 inputs have no 'data'"),
    (
        {"inputs": [tensor([1, 2, 3])]},
        [b""],
        "MALFORMED",
        "0 inputs have no 'data' and need a raw frame each; 1",
    ),
    ({"inputs": [raw_tensor(24)]}, [b"x" * 24, b""], "MALFORMED", "2 came"),
    ({"inputs": [raw_tensor(24)]}, [b"x" * 23], "MALFORMED", "the raw frame has 23"),
    ({"inputs": [raw_tensor(23)]}, [b"x" * 23], "MALFORMED", "is 24 bytes"),
    ({"inputs": [raw_tensor(23)]}, [b"x" * 24], "MALFORMED", "binary_data_size is 23"),
    ({"inputs": [tensor()]}, [b"x" * 24], "MALFORMED", "neither data nor parameters.binary_data_size"),
    ({"inputs": [raw_tensor(24, datatype="FP32")]}, [b"x" * 24], "MALFORMED", "is 12 bytes"),
    ({"inputs": [raw_tensor(24, datatype="FP16")]}, [b"x" * 24], "DATATYPE_UNSUPPORTED", "'FP16'"),
    ({"inputs": [raw_tensor(0)] * 65}, [b""] * 65, "MALFORMED", "65 raw frames; at most 64"),
    ({"inputs": [tensor([1], (1,), n) for n in "ab"]}, [], "MISSING_FEATURE", "'c' (1 missing)"),
    ({"inputs": [tensor([1], (1,), n) for n in "abcd"]}, [], "UNKNOWN_FEATURE", "'d'"),
    ({"inputs": [tensor([1], (1,), n) for n in "abca"]}, [], "MALFORMED", "twice"),
    ({"inputs": [tensor([1], (1,), "a")]}, [], "MISSING_FEATURE", "lacks feature 'b'"),
    (
        {"inputs": [tensor([1, 2], (2,), "a"), tensor([1], (1,), "b"), tensor([1], (1,), "c")]},
        [],
        "SHAPE_MISMATCH",
        "input 'b' has shape [1]",
    ),
    ({"inputs": [tensor([1], (), n) for n in NAMES]}, [], "SHAPE_MISMATCH", "input 'a' has shape []"),
    ({"inputs": [tensor([1], (1, 2), n) for n in NAMES]}, [], "SHAPE_MISMATCH", "input 'a'"),
    ({"inputs": [tensor([1], (101,), n) for n in NAMES]}, [], "TOO_LARGE", "101 rows"),
    ({"inputs": [tensor([], (0,), n) for n in NAMES]}, [], "SHAPE_MISMATCH", "no rows"),
]


@pytest.mark.parametrize(("body", "raw", "code", "words"), REFUSED)
def test_a_wrong_input_is_refused_with_its_code_and_place(encoding, body, raw, code, words):
    """The stable code says which kind of mistake it was, the message where."""
    with pytest.raises(RequestError) as caught:
        parse(encoding, body, raw)
    assert (caught.value.code, words in str(caught.value)) == (code, True), str(caught.value)


@pytest.mark.parametrize(
    "features",
    [
        b'{"a": 1, "a": 2, "b": 3, "c": 4}',
        b'{"a": 1, "\\u0061": 2, "b": 3, "c": 4}',
        b'[{"a": 1, "a": 2, "b": 3, "c": 4}]',
    ],
)
def test_a_name_given_twice_in_json_is_malformed(features):
    """Neither of the two values is more right than the other."""
    with pytest.raises(RequestError, match="row 0 gives a feature twice") as caught:
        parse("json", b'{"features": ' + features + b"}")
    assert caught.value.code == "MALFORMED"


@pytest.mark.parametrize("size", [b"\x84", b"\xde\x00\x04", b"\xdf\x00\x00\x00\x04"])
@pytest.mark.parametrize("around", [b"", b"\x91"])
def test_a_name_given_twice_in_messagepack_is_malformed(size, around):
    """The map's own length tells, in each of its three forms."""
    with pytest.raises(RequestError, match="row 0 gives a feature twice"):
        parse("msgpack", b"\x81\xa8features" + around + size + b"\xa1a\x01\xa1a\x02\xa1b\x03\xa1c\x04")


@pytest.mark.parametrize("size", [b"\x83", b"\xde\x00\x03", b"\xdf\x00\x00\x00\x03"])
def test_each_form_of_a_messagepack_map_is_read(size):
    """A client's packer may choose a longer form of a length than it needs."""
    np.testing.assert_array_equal(
        parse("msgpack", b"\x81\xa8features" + size + b"\xa1a\x01\xa1b\x02\xa1c\x03"), [[1, 2, 3]]
    )


@pytest.mark.parametrize(
    ("encoding_", "head"),
    [
        ("json", b'{"features": {"\xff": 1}}'),
        ("json", b'{"features": [{"\xff": 1}]}'),
        ("json", b'{"features": [1e999]}'),
        ("json", b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP64", "data": ["\xff"]}]}'),
        ("json", b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP64", "data": [1e999, 1, 2]}]}'),
        ("msgpack", b"\x81\xa8features\x81\xa2\xff\xfe\x01"),
        ("msgpack", b"\x81\xa8features\x91\x81\xa2\xff\xfe\x01"),
    ],
)
def test_text_that_is_no_utf8_and_numbers_too_large_are_malformed(encoding_, head):
    """A field that is decoded late is refused like one that is decoded early."""
    with pytest.raises(RequestError) as caught:
        parse(encoding_, head)
    assert caught.value.code == "MALFORMED"


def test_a_single_feature_takes_a_column_either_way(encoding):
    """Where the model has one feature, a column [n, 1] is the matrix and [n] a named tensor."""
    contract = Contract("beta", "1", ("x",), "s", (("predictions", 0),))
    for body in (
        {"inputs": [tensor([1, 2], (2, 1), "x")]},
        {"inputs": [tensor([1, 2], (2,), "x")]},
        {"inputs": [tensor([1, 2], (2, 1), "other")]},
        {"features": [[1], [2]]},
    ):
        np.testing.assert_array_equal(parse(encoding, body, contract=contract), [[1], [2]])


def forms(matrix: np.ndarray) -> list[tuple[Any, list[bytes]]]:
    """`matrix` in every form of the protocol; NaN is null where it isn't raw."""
    rows, width = matrix.shape
    values = [[None if math.isnan(v) else v for v in row] for row in matrix.tolist()]
    flat = [v for row in values for v in row]
    shape = (rows, width)
    made: list[tuple[Any, list[bytes]]] = [
        ({"inputs": [raw_tensor(matrix.nbytes, shape)]}, [matrix.tobytes()]),
        ({"inputs": [tensor(flat, shape)]}, []),
        ({"inputs": [tensor(values, shape)]}, []),
        ({"inputs": [tensor([r[at] for r in values], (rows,), n) for at, n in enumerate(NAMES)][::-1]}, []),
        (
            {"inputs": [raw_tensor(rows * 8, (rows, 1), name=n) for n in NAMES]},
            [matrix[:, at].tobytes() for at in range(width)],
        ),
        ({"features": values}, []),
        ({"features": [dict(zip(NAMES, row, strict=True)) for row in values]}, []),
    ]
    if rows == 1:
        made += [({"features": flat}, []), ({"features": dict(zip(NAMES, flat, strict=True))}, [])]
    return made


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.just(3)), elements=st.floats(allow_infinity=False))
)
def test_any_matrix_gives_the_same_bytes_in_any_form(matrix):
    """No form and no encoding changes a bit of a number, the sign of a zero included."""
    missing = np.isnan(matrix)
    for encoding_ in ENCODINGS:
        for body, raw in forms(matrix):
            got = parse(encoding_, body, raw)
            assert got[~missing].tobytes() == matrix[~missing].tobytes(), body
            assert np.isnan(got[missing]).all(), body


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.sampled_from([*NAMES, "FP64"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*NAMES, "z"]), inner, max_size=4)
    ),
    max_leaves=12,
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*NAMES, "z"]),
        "shape": st.lists(st.sampled_from([-1, 0, 1, 2, 3, 101, 2**40]), max_size=3),
        "datatype": st.sampled_from([*tensors._DTYPES, "BOOL"]),
    },
    optional={
        "data": ANYTHING,
        "parameters": st.none()
        | st.fixed_dictionaries({"binary_data_size": st.sampled_from([0, 8, 24, "24"])}),
    },
)
CODES = {
    "MALFORMED", "SHAPE_MISMATCH", "DATATYPE_UNSUPPORTED", "MISSING_FEATURE", "UNKNOWN_FEATURE", "NON_FINITE",
    "TOO_LARGE",
}  # fmt: skip


@given(
    st.sampled_from(sorted(ENCODINGS)),
    st.fixed_dictionaries(
        {}, optional={"features": ANYTHING, "inputs": st.none() | st.lists(TENSORS, max_size=4)}
    ),
    st.lists(st.sampled_from([b"", b"x" * 8, b"\0" * 24]) | st.binary(max_size=30), max_size=3),
    st.binary(max_size=3),
    st.integers(0, 400),
)
def test_any_message_gives_a_matrix_or_a_refusal(encoding_, body, raw, damage, at):
    """Whatever the fields and frames hold, whole or damaged: finite rows of the right width, or a RequestError."""
    head = ENCODINGS[encoding_][0](body)
    for message in (head, head[:at] + damage + head[at + len(damage) :]):
        try:
            matrix = parse(encoding_, message, raw)
        except RequestError as refusal:
            assert refusal.code in CODES  # noqa: PT017 (a matrix is as good an end)
            msgspec.json.encode(refusal.parameters)
        else:
            assert 0 < len(matrix) <= MAX_ROWS
            assert not np.isinf(matrix).any()
