"""An operator's client, over the admin socket."""

from __future__ import annotations

from typing import Any

import zmq

from modeld.client.blocking import Connection
from modeld.client.codec import Encoding
from modeld.client.core import DEFAULT_TIMEOUT_S
from modeld.client.curve import Curve

#: A reload or a rollback may wait for a trial; the daemon gives up waiting 5 s after `trial.timeout_s` (30 by default).
#: Whoever raises that passes a longer time here. Seconds.
TRIAL_WAIT_S = 60.0


class AdminClient(Connection):
    """An operator's client, over one admin socket. Never sends twice; arguments and threads as for `Client`.

    `timeout_s` is for what the daemon answers at once; `reload` and `rollback` wait for a trial, TRIAL_WAIT_S.
    """

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
            endpoint, timeout_s=timeout_s, retries=0, encoding=encoding, curve=curve, context=context
        )

    def status(self) -> dict[str, Any]:
        """What is served, since when, how well: one object per model in `["models"]`. Raises as `call`."""
        return self.call("status")

    def reload(
        self, model: str | None = None, *, wait: bool = True, timeout_s: float = TRIAL_WAIT_S
    ) -> dict[str, Any]:
        """Look at the registry now, and swap where it names something new.

        Args:
            model: that model only.
            wait: answer after the trial and the swap rather than at once.
            timeout_s: seconds to wait for that answer; longer than the daemon's `trial.timeout_s`.

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
        timeout_s: float = TRIAL_WAIT_S,
    ) -> dict[str, Any]:
        """Go back to the version before, or to `to`, and say so in the registry's log.

        Args:
            model: may be left out where one model is served.
            to: a version; the previous distinct production version otherwise.
            reason: why, for the log.
            expect_generation: only while this is the current generation: a repeated message does nothing.
            mark_failed: the version that is left can't be promoted again.
            timeout_s: seconds to wait for the answer: a version that isn't warm has its trial first.

        Returns:
            The reply: `rolled_back`, `from`, `to`, `generation`.

        Raises:
            Conflict: the generation is another one; nothing was changed.
            RequestTimeout: no answer yet; the rollback may still be under way.
            ServerError, ProtocolError: as for `call`.
        """
        return self.call(
            "rollback",
            timeout_s=timeout_s,
            model_name=model,
            to=to,
            reason=reason,
            expect_generation=expect_generation,
            mark_failed=mark_failed,
        )
