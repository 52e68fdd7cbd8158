"""An operator's client, over the admin socket."""

from __future__ import annotations

from typing import Any

import zmq

from modeld.client.blocking import Connection
from modeld.client.codec import Encoding
from modeld.client.core import DEFAULT_TIMEOUT_S
from modeld.client.curve import Curve


class AdminClient(Connection):
    """An operator's client, over one admin socket. Never sends twice; arguments and threads as for `Client`."""

    def __init__(
        self,
        endpoint: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        encoding: Encoding = "json",
        curve: Curve | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        super().__init__(
            endpoint,
            timeout_s=timeout_s,
            try_timeout_s=None,
            retries=0,
            encoding=encoding,
            context=context,
            curve=curve,
        )

    def status(self) -> dict[str, Any]:
        """What is served, since when, how well: one object per model in `["models"]`. Raises as `call`."""
        return self.call("status")

    def reload(
        self, model: str | None = None, *, wait: bool = True, timeout_s: float = 60.0
    ) -> dict[str, Any]:
        """Look at the registry now, and swap where it names something new.

        Args:
            model: that model only.
            wait: answer after the trial and the swap rather than at once.
            timeout_s: seconds to wait for that answer.

        Raises:
            Rejected: the candidate failed its trial; what was served is still served.
            RequestTimeout: no answer yet; the reload may still be under way.
            ServerError, ProtocolError: as for `call`.
        """
        return self.call("reload", timeout_s=timeout_s, model_name=model, wait=wait)

    def rollback(
        self,
        model: str | None = None,
        *,
        to: str | None = None,
        reason: str,
        expect_generation: int | None = None,
        mark_failed: bool = True,
    ) -> dict[str, Any]:
        """Go back to the version before, or to `to`, and say so in the registry's log.

        Args:
            model: may be left out where one model is served.
            to: a version; the previous distinct production version otherwise.
            reason: why, for the log.
            expect_generation: only while this is the current generation: a repeated message does nothing.
            mark_failed: the version that is left can't be promoted again.

        Returns:
            The reply: `rolled_back`, `from`, `to`, `generation`.

        Raises:
            Conflict: the generation is another one; nothing was changed.
            ServerError, RequestTimeout, ProtocolError: as for `call`.
        """
        return self.call(
            "rollback",
            model_name=model,
            to=to,
            reason=reason,
            expect_generation=expect_generation,
            mark_failed=mark_failed,
        )
