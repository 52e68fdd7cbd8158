"""What every part of a registry that writes stands on: making one, committing to its logs, projecting."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from modelreg import changes, home, validation
from modelreg.clock import rfc3339, utc_now
from modelreg.disk import DISK, Disk
from modelreg.environment import default_actor
from modelreg.errors import IntegrityError, NotFoundError, StaleError
from modelreg.metadata import Metadata
from modelreg.modellog import Decision, ModelLog
from modelreg.names import check_text
from modelreg.reading import Reading
from modelreg.records import ChannelOp, KnownOp, Record
from modelreg.results import Commit
from modelreg.settings import Settings
from modelreg.state import ModelState, VersionState

if TYPE_CHECKING:
    from modelreg.catalog import Catalog

#: May refuse a channel's move, or note something on it; sees the version's facts.
Judge = Callable[[ModelState, ChannelOp, Metadata], ChannelOp]


class Core(Reading):
    """A registry on disk, with its catalog and its one way to commit. Thread-safe. Arguments: see ``Reading``."""

    @functools.cached_property
    def catalog(self) -> Catalog:
        """The registry as SQL; made and brought up to date when it is asked."""
        from modelreg.catalog import Catalog

        return Catalog(self)

    @classmethod
    def init(
        cls,
        root: str | Path,
        actor: str | None = None,
        *,
        settings: Settings | None = None,
        clock: Callable[[], dt.datetime] = utc_now,
        disk: Disk = DISK,
    ) -> Self:
        """Make an empty registry, or open the one that is there.

        Raises:
            StoreUnavailableError: it can't be written.
        """
        home.make(Path(root), clock(), disk)
        return cls(root, actor, settings=settings, clock=clock, disk=disk)

    def _change(
        self,
        name: str,
        channel: str | None,
        decide: changes.Decide,
        reason: str | None,
        actor: str | None,
        dry_run: bool,
        judge: Judge | None = None,
        expect_seq: int | None = None,
        back: bool = False,
    ) -> Commit:
        acting = self._acting(actor)
        if reason is not None:
            check_text(reason, "a reason (--reason)")
        state, model = self.state(name), self._log(name)
        verified: dict[str, Metadata] = {}

        def decide_verified(state: ModelState) -> Decision:
            if expect_seq is not None and state.seq != expect_seq:
                raise StaleError(
                    f"the log of {name} is at record {state.seq}, not {expect_seq}: nothing was done"
                )
            decision = decide(state)
            ops: list[KnownOp] = []
            for op in decision.ops:
                if isinstance(op, ChannelOp) and op.version is not None:
                    if op.version not in verified:
                        verified[op.version] = self._verify(name, state.versions[op.version])
                    if judge is not None:
                        op = judge(state, op, verified[op.version])
                ops.append(op)
            return replace(decision, ops=ops)

        model.refuse_if_broken(state)
        if dry_run:
            decision, seq, at = decide_verified(state), state.seq + 1, rfc3339(self._clock())
        else:
            record, state = model.commit(decide_verified, actor=acting, reason=reason, clock=self._clock)
            decision, seq, at = Decision(_known(record)), record.seq, record.at
            self._project(model)
        commit = Commit(name, seq, at, None, None, None, None)
        for op in decision.ops:
            if isinstance(op, ChannelOp) and op.channel == channel:
                before = state.channels.get(op.channel)
                commit = replace(
                    commit,
                    channel=channel,
                    from_version=None if before is None else before.version,
                    to_version=op.version,
                    digest=None if op.version is None else state.versions[op.version].digest,
                    overridden=op.overridden,
                    next_rollback=changes.next_retreat(state, channel, decision.ops) if back else None,
                )
        return commit

    def _verify(self, name: str, found: VersionState) -> Metadata:
        directory = self.version_dir(name, found.version)
        try:
            return validation.verify(
                directory,
                name,
                found.version,
                found.digest,
                max_bytes=self.settings.limits.version_bytes,
                disk=self._disk,
            )
        except NotFoundError as error:
            raise IntegrityError(
                f"{directory}: missing, though it is registered; restore it from a backup"
            ) from error

    def _existing(self, ref: str) -> str:
        name, found = self.resolve(ref)
        changes.refuse_deleted(name, found)
        return f"{name}:{found.version}"

    def _acting(self, actor: str | None) -> str:
        return check_text(actor or self._actor or default_actor(), "the actor")

    def _project(self, model: ModelLog) -> None:
        self._projector.project(model, self.models())


def _known(record: Record) -> Sequence[KnownOp]:
    return [op for op in record.ops if isinstance(op, KnownOp)]
