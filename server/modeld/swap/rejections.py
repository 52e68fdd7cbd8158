"""The memory of what was rejected: by digest, so that nothing is tried in a loop."""

from __future__ import annotations

from modeld import log
from modeld.swap.policy import Pointer
from modeld.swap.ports import Ports, Rejection

#: Rejections that a restart remembers.
_KEPT = 32


class Rejections:
    """Of one model. A digest is forgotten by an operator's word, or where its rejection wasn't about the version."""

    def __init__(self, model: str, ports: Ports, actor: str) -> None:
        self.by_digest: dict[str, Rejection] = {}
        #: The last one that this daemon found out.
        self.last: Rejection | None = None
        self._model = model
        self._ports = ports
        self._actor = actor

    def restore(self, rejected: list[Rejection]) -> None:
        """What was remembered before this start, oldest first."""
        self.by_digest = {rejection.digest: rejection for rejection in rejected}
        self.last = next((one for one in reversed(rejected) if not one.actor), None)

    def to_keep(self) -> list[Rejection]:
        """What a restart is to remember, oldest first."""
        return list(self.by_digest.values())[-_KEPT:]

    def find(
        self, pointer: Pointer, stage: str, reason: str, serving: str | None, generation: int, *, of_promotion: bool
    ) -> None:  # fmt: skip
        """The version at `pointer` failed; `serving` goes on."""
        rejection = Rejection(
            pointer.version, pointer.digest, stage, reason, self._ports.now(), mark_failed=not of_promotion
        )
        self.by_digest[pointer.digest] = self.last = rejection
        self._ports.log(
            log.REJECTED, model=self._model, version=pointer.version, stage=stage, reason=reason, serving=serving,
            digest=pointer.digest,
        )  # fmt: skip
        self._ports.event(
            "rejected", self._model, **{"from": serving, "to": pointer.version}, generation=generation,
            digest=pointer.digest, reason=f"{stage}: {reason}", actor=self._actor,
        )  # fmt: skip

    def roll_back(self, pointer: Pointer, reason: str, actor: str, *, mark_failed: bool) -> Rejection:
        """An operator rolled back from the version at `pointer`."""
        rejection = Rejection(
            pointer.version, pointer.digest, "rollback", reason, self._ports.now(), actor, mark_failed
        )
        self.by_digest[pointer.digest] = rejection
        return rejection

    def pointer_moved(self, old: Pointer | None, new: Pointer | None) -> None:
        """The source says something else: its own word holds, where the version itself wasn't found bad."""
        if new is None:
            return
        moved = [old.digest, new.digest] if old is not None and old.digest != new.digest else []
        for digest, rejection in list(self.by_digest.items()):
            by_operator = bool(rejection.actor) and digest in moved
            if by_operator or (rejection.of_promotion and digest == new.digest):
                del self.by_digest[digest]

    def forgive(self, digest: str) -> bool:
        """Forget one; whether there was one."""
        return self.by_digest.pop(digest, None) is not None

    def forgive_promotions(self) -> None:
        """Forget those that were about the version before, which can't be had any more."""
        self.by_digest = {d: one for d, one in self.by_digest.items() if not one.of_promotion}
