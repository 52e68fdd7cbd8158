"""A message on the data socket that is decoded in another process: what is done with it before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from modeld.errors import RequestError
from modeld.wire import header, replies, tensors
from modeld.wire.contract import Contract
from modeld.wire.header import Request
from modeld.work import ipc

if TYPE_CHECKING:
    from modeld.front.data import DataService


class LargeMessage:
    """A message that the decoder has: see `modeld.front.decoding.Message`."""

    def __init__(
        self,
        service: DataService,
        envelope: list[bytes],
        encode: replies.Encode,
        body: list[bytes],
        admitted_ns: int,
    ) -> None:
        self._service = service
        self._envelope = envelope
        self._encode = encode
        self._admitted_ns = admitted_ns
        self._raw_frames = len(body) - 1
        self._request = Request()
        self._contract: Contract
        #: One raw frame too many is as bad as a thousand.
        self.frames = body[: header.MAX_RAW_FRAMES + 2]

    def read(self, heading: ipc.Heading) -> Contract | None:
        request = self._request = Request(
            heading.op, heading.id, heading.model_name, heading.model_version, heading.parameters
        )
        return self._attempt(lambda service: self._open(service, request))

    def take(self, data: memoryview, rows: int) -> Contract | None:
        return self._attempt(lambda service: self._submit(service, data, rows))

    def refuse(self, error: RequestError) -> None:
        known = self._request.id
        if known is None and error.request_id is None:
            known = header.early_id(self.frames[0])
        self._service.refuse(self._envelope, self._encode, known, error)

    def _open(self, service: DataService, request: Request) -> Contract | None:
        if request.op == "predict":
            self._contract = service.bind(request)[1].contract
            return self._contract
        service.answer(self._envelope, self._encode, request, self._raw_frames)
        return None

    def _submit(self, service: DataService, data: memoryview, rows: int) -> Contract | None:
        # Admitted anew: another version may serve by now, and where its features are others, so are the rows.
        served, binding = service.bind(self._request)
        if binding.contract.features != self._contract.features:
            self._contract = binding.contract
            return self._contract
        settled = tensors.settled(data, rows, binding.contract, binding.served.large_rows)
        service.submit(
            served, binding, self._envelope, self._encode, self._request, self._admitted_ns, *settled
        )
        return None

    def _attempt(self, step: Callable[[DataService], Contract | None]) -> Contract | None:
        try:
            return step(self._service)
        except Exception as e:  # noqa: BLE001 (nothing that a client sends ends the server)
            self._service.fail(self._envelope, self._encode, self._request.id, e)
            return None
