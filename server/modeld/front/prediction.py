"""A request that was admitted: what it is bound to, and the reply that is made of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modeld.errors import RequestError
from modeld.front.job import Job
from modeld.front.stats import Stats
from modeld.swap.ports import Binding
from modeld.wire import replies
from modeld.wire.header import RequestId

if TYPE_CHECKING:
    from modeld.front.data import DataService


class PredictJob(Job):
    """A request that waits for its prediction, with all that its reply needs."""

    __slots__ = ("binding", "encode", "envelope", "pinned", "raw", "request_id", "service", "stats")

    def __init__(
        self,
        service: DataService,
        stats: Stats,
        envelope: list[bytes],
        encode: replies.Encode,
        request_id: RequestId,
        raw: bool,
        binding: Binding,
        pinned: bool,
        data: bytes | memoryview,
        rows: int,
        admitted_ns: int,
        deadline_ns: int | None,
    ) -> None:
        super().__init__(data, rows, admitted_ns, deadline_ns)
        self.service = service
        self.stats = stats
        self.envelope = envelope
        self.encode = encode
        self.request_id = request_id
        self.raw = raw
        self.binding = binding
        #: The client named the version: no other may answer.
        self.pinned = pinned

    def rebind(self, binding: Binding) -> bool:
        """A later generation may answer in place of one whose workers are gone, if it takes the same features."""
        if self.pinned or binding.contract.features != self.binding.contract.features:
            return False
        self.binding = binding
        return True

    def finish(self, tensors: list[bytes], predict_ns: int) -> None:
        binding = self.binding
        self.service.send(
            self.envelope,
            replies.prediction(
                self.encode,
                self.request_id,
                binding.contract,
                binding.generation,
                binding.digest,
                tensors,
                self.rows,
                raw=self.raw,
                queue_us=self.queue_ns // 1000,
                predict_us=predict_ns // 1000,
                path=self.path,
            ),
        )
        stats = self.stats
        stats.requests += 1
        took_us = (self.service.clock_ns() - self.admitted_ns) // 1000
        stats.latency_us.add(took_us)
        stats.predict_us.add(predict_ns // 1000)
        self.service.on_reply(binding, took_us)

    def refuse(self, error: RequestError) -> None:
        self.stats.requests += 1
        self.stats.error(error.code)
        if error.code == "INTERNAL":
            self.service.on_failure(self.binding)
        self.service.send(self.envelope, replies.error(self.encode, self.request_id, error))
