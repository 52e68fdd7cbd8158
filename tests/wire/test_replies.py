"""Replies: what was computed and by which version, or one error, in the encoding of the request."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from modeld.errors import RequestError, retryable
from modeld.wire import header, replies
from modeld.wire.contract import Contract

CONTRACT = Contract("alpha", "1.4.0", ("a", "b"), "sha256:s", (("1d", 0), ("classes", 3)))
ENCODINGS = {
    "json": (header.encode_json, msgspec.json.decode),
    "msgpack": (header.encode_msgpack, msgspec.msgpack.decode),
}


@pytest.fixture(params=ENCODINGS)
def codec(request):
    return ENCODINGS[request.param]


def made(encode, tensors, rows, *, raw, request_id="42", contract=CONTRACT):
    return replies.prediction(
        encode,
        request_id,
        contract,
        12,
        "sha256:d",
        tensors,
        rows,
        raw=raw,
        queue_us=8,
        predict_us=31,
        path="plan",
    )


@pytest.mark.parametrize("request_id", ["42", 42, None, 2**64 - 1, -(2**63)])
def test_a_reply_says_what_answered(codec, request_id):
    """The id comes back with its type, beside version, generation, digest and times."""
    encode, decode = codec
    tensors = [np.arange(2.0).tobytes(), np.arange(6.0).tobytes()]
    (frame,) = made(encode, tensors, 2, raw=False, request_id=request_id)
    assert decode(frame) == {
        "id": request_id,
        "model_name": "alpha",
        "model_version": "1.4.0",
        "outputs": [
            {"name": "1d", "shape": [2], "datatype": "FP64", "data": [0.0, 1.0]},
            {"name": "classes", "shape": [2, 3], "datatype": "FP64", "data": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]},
        ],
        "parameters": {
            "generation": 12,
            "digest": "sha256:d",
            "queue_us": 8,
            "predict_us": 31,
            "path": "plan",
        },
    }


def test_raw_outputs_follow_the_header_in_order(codec):
    """Each output's bytes are a frame of the size that the header says."""
    encode, decode = codec
    tensors = [np.arange(2.0).tobytes(), np.arange(6.0).tobytes()]
    head, *frames = made(encode, tensors, 2, raw=True)
    assert frames == tensors
    outputs = decode(head)["outputs"]
    assert [out["parameters"]["binary_data_size"] for out in outputs] == [16, 48]
    assert all("data" not in out for out in outputs)


@pytest.mark.parametrize("value", [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3])
def test_a_value_keeps_its_bits(codec, value):
    """What is printed reads back as the same float64."""
    encode, decode = codec
    contract = Contract("alpha", "1", ("a",), "s", (("predictions", 0),))
    (frame,) = made(encode, [np.array([value]).tobytes()], 1, raw=False, contract=contract)
    (got,) = decode(frame)["outputs"][0]["data"]
    assert np.array([got]).tobytes() == np.array([value]).tobytes()


def test_an_output_too_few_is_a_bug_of_ours_and_no_reply():
    """Outputs are never paired with the wrong name."""
    with pytest.raises(ValueError, match="zip"):
        made(header.encode_json, [b"\0" * 8], 1, raw=False)


def test_an_error_carries_code_and_parameters(codec):
    """A refusal reads the same in both encodings and says whether to try again."""
    encode, decode = codec
    (frame,) = replies.error(encode, 7, RequestError("SHAPE_MISMATCH", "row 0 has 23", row=0))
    expected = {"id": 7, "error": "row 0 has 23", "code": "SHAPE_MISMATCH", "parameters": {"row": 0}}
    assert decode(frame) == expected
    (frame,) = replies.error(encode, None, retryable("BUSY", "later"))
    assert decode(frame)["parameters"] == {"retryable": True}
