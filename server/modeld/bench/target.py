"""The daemon that is measured: where it listens, what it takes, and each case's request and reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from modeld.bench.cases import Case, Wire
from modeld.bench.errors import BenchError
from modeld.bench.load import write_messages
from modeld.bench.rows import normal_rows, starts
from modeld.client import Client
from modeld.client.codec import decode_header, decode_prediction, encode_predict, error_of

#: Every request has this id: replies are told apart by their order or their envelope.
REQUEST_ID = 1
#: Seconds that the first reply may take.
PROBE_TIMEOUT_S = 30.0

#: What an error reply's header has and no other reply's does: the key `code`, as each encoding writes it.
ERROR_MARKS: dict[Wire, str] = {"json": '"code":', "msgpack": "\xa4code", "raw": "\xa4code"}


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A daemon's endpoints by transport, and the rows to ask it for.

    Attributes:
        expected: what each row's prediction has to be, bit for bit; None where nobody knows.
        description: the model, for people.
    """

    endpoints: Mapping[str, str]
    model_name: str
    rows: NDArray[np.float64]
    expected: NDArray[np.float64] | None
    description: str

    @property
    def features(self) -> int:
        """Features of a row."""
        return int(self.rows.shape[1])


@dataclass(frozen=True, slots=True)
class Probed:
    """One case's frames, in files for the load generator and the echo."""

    requests: Path
    reply: Path
    request_bytes: int
    reply_bytes: int


def request_frames(rows: NDArray[np.float64], model_name: str, encoding: Wire) -> list[bytes]:
    """A predict request as the client library builds it: raw, or the short form with plain numbers."""
    if encoding == "raw":
        frames = encode_predict(REQUEST_ID, rows, model=model_name, encoding="msgpack")
    else:
        frames = encode_predict(REQUEST_ID, rows.tolist(), model=model_name, encoding=encoding)
    return [bytes(frame) for frame in frames]


def probe(target: Target, case: Case, directory: Path) -> Probed:
    """Ask every request of a case once, check the answers, and keep the requests and one reply.

    Raises:
        BenchError: no answer, an error, or an answer that isn't what the model predicts offline.
    """
    if len(target.rows) < case.rows:
        raise BenchError(f"{case.rows} rows are asked for; there are {len(target.rows)}")
    parts = [slice(at, at + case.rows) for at in starts(len(target.rows), case.rows)]
    requests = [request_frames(target.rows[part], target.model_name, case.encoding) for part in parts]
    replies = exchange(target.endpoints[case.transport], requests)
    for part, reply in zip(parts, replies, strict=True):
        expected = None if target.expected is None else target.expected[part]
        check_reply(reply, rows=case.rows, expected=expected)
    name = f"{case.encoding}-{case.rows}"
    probed = Probed(
        directory / f"{name}.requests",
        directory / f"{name}.reply",
        sum(map(len, requests[0])),
        sum(map(len, replies[0])),
    )
    write_messages(probed.requests, requests)
    write_messages(probed.reply, replies[:1])
    return probed


def exchange(
    endpoint: str, requests: Sequence[Sequence[bytes]], timeout_s: float = PROBE_TIMEOUT_S
) -> list[list[bytes]]:
    """Each request's reply, one after another. BenchError where none comes."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.REQ)
        socket.set(zmq.RCVTIMEO, int(timeout_s * 1000))
        socket.connect(endpoint)
        replies = []
        for frames in requests:
            socket.send_multipart(frames)
            replies.append(socket.recv_multipart())
        return replies
    except zmq.Again:
        raise BenchError(f"{endpoint} gave no reply within {timeout_s:g} s: is a daemon there?") from None
    finally:
        context.destroy(linger=0)


def check_reply(reply: Sequence[bytes], *, rows: int, expected: NDArray[np.float64] | None) -> None:
    """Raises BenchError for an error reply, or for predictions that differ from the expected by a bit."""
    header = decode_header(reply)
    if (error := error_of(header)) is not None:
        raise BenchError(f"the daemon answers {error.code}: {error}")
    outputs = decode_prediction(header, reply[1:]).outputs
    for name, values in outputs.items():
        if len(values) != rows:
            raise BenchError(f"output {name} has {len(values)} rows of {rows}")
    if expected is None:
        return
    for name, values in outputs.items():
        wrong = np.flatnonzero(np.asarray(values, dtype="<f8").view("<i8") != expected[:rows].view("<i8"))
        if len(wrong):
            at = int(wrong[0])
            raise BenchError(
                f"output {name}: {len(wrong)} of {rows} rows differ from Booster.predict; row {at} is "
                f"{values[at]!r}, not {expected[at]!r}"
            )


def running(endpoint: str, model_name: str | None, rows: int) -> Target:
    """A daemon that runs already; what it takes comes from its metadata.

    Raises:
        BenchError: several models are served and none is named, or its metadata has no feature count.
        modeld.client.errors.ModeldError: it doesn't answer, or with an error.
    """
    with Client(endpoint, timeout_s=PROBE_TIMEOUT_S) as client:
        if model_name is None:
            names = [str(one["model_name"]) for one in client.models()]
            if len(names) != 1:
                raise BenchError(
                    f"name one with --model-name: {', '.join(names) or 'no model'} served at {endpoint}"
                )
            model_name = names[0]
        metadata = client.metadata(model_name)
    features = feature_count(metadata)
    transport = endpoint.partition("://")[0]
    return Target(
        {transport: endpoint},
        model_name,
        normal_rows(rows, features),
        None,
        f"{model_name} of {features} features at {endpoint}",
    )


def feature_count(metadata: Mapping[str, Any]) -> int:
    """The number of features in a reply to `metadata`. BenchError where it isn't said."""
    try:
        return len(metadata["parameters"]["features"])
    except (KeyError, TypeError):
        raise BenchError("the daemon's metadata doesn't list the model's features") from None
