"""Envelopes and headers: which frames are which, and what can't be read."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeld.errors import RequestError
from modeld.wire import header

JSON = b'{"op": "live"}'
PACKED = msgspec.msgpack.encode({"op": "live"})


@pytest.mark.parametrize("head", [JSON, PACKED], ids=["json", "msgpack"])
@pytest.mark.parametrize(
    ("envelope", "raw"),
    [
        ([b"id", b""], []),
        ([b"id"], []),
        ([b"id", b"hop", b""], []),
        ([b"id", b"\x00hop", b"\x00hop2", b""], [b"raw"]),
        ([b"id"], [b"raw", b""]),
        ([b"id", b""], [b"", b"raw", b""]),
    ],
    ids=["REQ", "DEALER", "one hop", "two hops", "DEALER, empty raw frame", "REQ, empty raw frames"],
)
def test_the_envelope_ends_at_the_delimiter(head, envelope, raw):
    """All frames up to the empty one, or the identity alone, are echoed; an empty tensor is no delimiter."""
    assert header.split([*envelope, head, *raw]) == (envelope, [head, *raw])


@pytest.mark.parametrize("frames", [[], [b"id"], [b"id", b""], [b"id", b"", b""], [b"", b"x"]])
def test_frames_without_a_header_have_no_body_or_an_unreadable_one(frames):
    """Nothing to answer is no error."""
    envelope, body = header.split(frames)
    assert envelope + body == frames
    assert body in ([], [b"x"], [b""])


@pytest.mark.parametrize("encode", [header.encode_json, header.encode_msgpack], ids=["json", "msgpack"])
@pytest.mark.parametrize("request_id", ["42", "", "ä", 42, 0, -(2**63), 2**64 - 1, None])
def test_an_id_is_read_with_its_type(encode, request_id):
    """A string stays a string and an integer an integer, in both encodings."""
    found = header.decode(encode({"id": request_id})).id
    assert (found, type(found)) == (request_id, type(request_id))


def test_what_is_left_out_has_the_default_of_the_protocol():
    """An empty header is a predict request without inputs."""
    request = header.decode(b"{}")
    assert (request.op, request.id, request.model_name, request.inputs) == ("predict", None, None, None)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"x",
        b"{",
        b"[]",
        b"\x90",
        b"\xc0",
        b'{"op": 1}',
        b'{"id": 1.5}',
        b'{"id": true}',
        b'{"id": [1]}',
        b'{"inputs": {}}',
        b'{"inputs": [{"name": "x"}]}',
        b'{"inputs": [{"name": "x", "shape": [1.5], "datatype": "FP64"}]}',
        b'{"parameters": {"timeout_us": "soon"}}',
        b'{"op": "\xff"}',
        b'{"id": 1e999}',
        b'{"id": 1' + b"0" * 5000 + b"}",
        b"\x81\xa2op\xa2\xff\xfe",
        msgspec.msgpack.encode({"id": 7, "model_name": "alpha"})[:-1],
    ],
)
def test_an_unreadable_header_is_malformed(head):
    """Anything that isn't a header of the protocol gets MALFORMED and says why."""
    with pytest.raises(RequestError, match="header") as caught:
        header.decode(head)
    assert caught.value.code == "MALFORMED"


@pytest.mark.parametrize("decode", [header.decode, header.decode_admin])
@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_an_id_that_could_not_be_echoed_is_malformed(decode, number):
    """JSON can carry an integer of more than 64 bits, a reply can't."""
    with pytest.raises(RequestError, match="64 bits") as caught:
        decode(b'{"op": "status", "id": %d}' % number)
    assert (caught.value.code, caught.value.request_id) == ("MALFORMED", None)
    with pytest.raises(RequestError) as caught:
        decode(b'{"op": 1, "id": %d}' % number)
    assert caught.value.request_id is None


@pytest.mark.parametrize("encode", [header.encode_json, header.encode_msgpack], ids=["json", "msgpack"])
def test_the_id_survives_where_another_field_is_wrong(encode):
    """A client can tell which of its requests was malformed."""
    for decode in (header.decode, header.decode_admin):
        with pytest.raises(RequestError) as caught:
            decode(encode({"id": "42", "op": 5}))
        assert caught.value.request_id == "42"


@pytest.mark.parametrize(
    "head",
    [
        b'{"features": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\x81\xa8features" + b"\x91" * 100_000 + b"\x01",
        b"\x81\xa7unknown" + b"\x91" * 100_000 + b"\x01",
    ],
    ids=["json", "json unknown", "msgpack", "msgpack unknown"],
)
def test_deep_nesting_is_malformed(head):
    """Nesting that would take the stack is refused, not followed."""
    with pytest.raises(RequestError) as caught:
        header.decode(head)
    assert caught.value.code == "MALFORMED"


_TENSOR = b"\x81\xa6inputs\x91\x83\xa4name\xa1a\xa8datatype\xa4FP64\xa5shape"


@pytest.mark.parametrize("length", [b"\x00\xff\xff\xff", b"\x07\xff\xff\xff", b"\xff\xff\xff\xff"])
@pytest.mark.parametrize(
    "start",
    [
        b"\x81\xa8features\xdd",
        b"\x81\xa6inputs\xdd",
        b"\x81\xaaparameters\xdf",
        b"\x81\xa2id\xdb",
        b"\xdf",
        _TENSOR + b"\xdd",
    ],
    ids=["features", "inputs", "parameters", "id", "header", "shape"],
)
def test_a_length_that_is_only_claimed_costs_no_memory(start, length):
    """MessagePack says how long an array is; nothing is set aside before the elements are there."""
    tracemalloc.start()
    try:
        with pytest.raises(RequestError):
            header.decode(start + length)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("hop", [b"{hop", b"\x81hop", b"\xdehop"])
def test_a_hop_that_starts_like_a_header_is_no_header(hop):
    """Behind a proxy the delimiter decides, whatever the hop's identity looks like."""
    assert header.split([b"id", hop, b"", JSON, b"raw"]) == ([b"id", hop, b""], [JSON, b"raw"])


def test_a_long_id_is_refused():
    """What is echoed has a bound."""
    with pytest.raises(RequestError, match="256 characters"):
        header.decode(header.encode_json({"id": "x" * 257}))


def test_peek_id_reads_what_can_be_echoed():
    """The id of a message that is refused for its size; none where it is none that a reply could bear."""
    assert header.peek_id(b'{"id": "x", "op": 7}') == "x"
    assert header.peek_id(b"\x81\xa2id\x07") == 7
    for head in (b"{}", b"nonsense", b'{"id": 1.5}', b'{"id": 36893488147419103232}'):
        assert header.peek_id(head) is None


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"", JSON, PACKED])), max_size=6))
def test_any_frames_split_into_what_came(frames):
    """No frame is lost, added or moved by splitting, whatever it holds."""
    envelope, body = header.split(frames)
    assert envelope + body == frames


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(b"{".__add__)))
def test_any_bytes_are_a_request_or_malformed(head):
    """Decoding ends in a request or in a RequestError, and in nothing else."""
    for decode in (header.decode, header.decode_admin):
        try:
            decode(head)
        except RequestError as refusal:
            assert refusal.code == "MALFORMED"  # noqa: PT017 (a request is as good an end)
            header.encode_json({"id": refusal.request_id})


def test_early_id_looks_at_the_beginning_of_json_only():
    """What a header of any size begins with; anything it isn't sure of is None. MessagePack is passed through
    up to 256 KiB."""
    assert header.early_id(msgspec.msgpack.encode({"features": [1.0] * 10_000, "id": 7})) == 7
    assert header.early_id(msgspec.msgpack.encode({"id": 7, "features": [1.0] * 30_000})) is None
    tail = b', "features": [' + b"1, " * 10_000
    assert header.early_id(b'{"id": "x"' + tail) == "x"
    assert header.early_id(b'{ "op": "predict", "model_version": null, "id": -7 ' + tail) == -7
    assert header.early_id(memoryview(b'{"id":"x"}')) == "x"
    for head in (
        b"", b"{", b'{"id": [1], "id": 2}', b'{"parameters": {}, "id": 2}', b'{"id": "a\\u0041"}', b'{"id": 1.5}',
        b'{"id": 7', b'{"a": 1}' + tail + b', "id": 3}', b'{"id": "' + b"x" * 257 + b'"}',
    ):  # fmt: skip
        assert header.early_id(head) is None
