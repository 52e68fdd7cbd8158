"""Care of a registry: leases, retention, backups, examination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from modelreg import backup as backups
from modelreg import doctor, gc, leases, trash
from modelreg.errors import ConflictError, RegistryError, StoreUnavailableError, UsageError
from modelreg.exchange import Exchange
from modelreg.gc import Kinship
from modelreg.modellog import Decision
from modelreg.names import check_model_name, check_text, check_version
from modelreg.records import KnownOp, StatusOp
from modelreg.sealed import read_metadata
from modelreg.state import ModelState


def _silent(_: str) -> None:
    """No progress is shown."""


class Care(Exchange):
    """The part of ``Registry`` that keeps it in order."""

    def lease(
        self, name: str, version: str, holder: str, *, ttl_s: float = leases.DEFAULT_TTL_S
    ) -> leases.Lease:
        """Say that a version is in use: gc spares it. Renew the lease before ``ttl_s`` is over, or use a context.

        Raises:
            UsageError: not a name or version. StoreUnavailableError: it can't be written.
        """
        return leases.Lease(
            self.root / ".registry" / "leases", check_model_name(name), check_version(version), holder,
            ttl_s=ttl_s, clock=self._clock, disk=self._disk,
        )  # fmt: skip

    def leases(self) -> list[leases.LeaseInfo]:
        """The leases that hold now.

        Raises:
            StoreUnavailableError: they can't be read.
        """
        return leases.active(self.root / ".registry" / "leases", self._clock(), self._disk)

    def gc(
        self,
        *,
        keep: int = gc.DEFAULT_KEEP,
        grace_h: float = gc.DEFAULT_GRACE_H,
        name: str | None = None,
        actor: str | None = None,
        dry_run: bool = False,
    ) -> gc.Swept:
        """Delete old versions that nobody needs, and empty the trash of what is older than its grace.

        The newest ``keep`` stay, and whatever a channel holds, was in production before, is leased, tagged, or the
        parent of another version. A damaged model is left alone, and so is whatever it could derive from; ``problems``
        of the result names it.

        Raises:
            UsageError: ``keep`` is negative. StoreUnavailableError: something can't be read or written, so it isn't
            known what is needed; no more is deleted.
        """
        if keep < 0:
            raise UsageError(f"--keep {keep}: can't be negative")
        survey = self.survey()
        for model, trouble in survey.items():
            if trouble is not None:
                raise StoreUnavailableError(
                    f"{self.root}/{model}: can't be read: {trouble.strerror or trouble}; what its versions derive "
                    "from isn't known, so nothing is deleted"
                )
        kinship = self._kinship(list(survey))
        deleted = []
        for model in survey if name is None else [name]:
            deleted += self._sweep(self.state(model), keep, kinship, actor, dry_run)
        discarded = [e for e in trash.entries(self.root, self._disk) if e.name not in kinship.damaged]
        over = gc.expired(discarded, self._clock(), grace_h)
        if not dry_run:
            gc.purge(over, self._disk)
            leases.sweep(self.root / ".registry" / "leases", self._clock(), self._disk)
        return gc.Swept(
            tuple(deleted),
            tuple(f"{entry.name}@{entry.version}" for entry in over),
            tuple(problem for problems in kinship.damaged.values() for problem in problems),
        )

    def backup(
        self,
        target: str | Path | None = None,
        *,
        progress: Callable[[str], None] = _silent,
        dry_run: bool = False,
    ) -> tuple[Path, int]:
        """Write a backup that is consistent while others write; returns where, and how many files.

        ``dry_run``: read and check all that would be in it, and write nothing.

        Raises:
            ConflictError: the target exists. IntegrityError: what would be backed up is damaged.
            StoreUnavailableError: it can't be written.
        """
        where = None if target is None else Path(target)
        return backups.back_up(self, where, progress, self._disk, dry_run=dry_run)

    def doctor(
        self, *, repair: bool = False, progress: Callable[[str], None] = _silent
    ) -> list[doctor.Finding]:
        """Examine every record, every sealed byte and every projection; mend what can be made again.

        Raises:
            StoreUnavailableError: the root can't be read.
        """
        found = []
        for finding, mend in doctor.examine(self, self._disk, progress):
            if repair and mend is not None:
                mend()
                finding = replace(finding, repaired=True)
            found.append(finding)
        return found

    def _sweep(
        self, state: ModelState, keep: int, kinship: Kinship, actor: str | None, dry_run: bool
    ) -> list[str]:
        def old(state: ModelState) -> list[str]:
            return gc.candidates(state, keep=keep, leased=self._leased(state.name), kinship=kinship)

        def decide(state: ModelState) -> Decision:
            ops: list[KnownOp] = [StatusOp(version, "deleted") for version in old(state)]
            if not ops:
                raise ConflictError(f"{state.name}: nothing to delete by now")
            return Decision(ops)

        found = old(state)
        if found and not dry_run:
            model = self._log(state.name)
            reason = check_text(f"gc: keep {keep}", "the reason")
            try:
                record, _ = model.commit(decide, actor=self._acting(actor), reason=reason, clock=self._clock)
            except ConflictError:
                return []
            self._project(model)
            found = [op.version for op in record.ops if isinstance(op, StatusOp)]
        return [f"{state.name}:{version}" for version in found]

    def _kinship(self, present: list[str]) -> Kinship:
        """What each version of these models derives from; where damage hides that, since when."""
        from modelreg.catalogsearch import Search, parents
        from modelreg.listing import scan

        try:
            with self.catalog.current(present=present) as connection:
                rows = parents(connection)
        except StoreUnavailableError:
            rows = [
                {**row, "parent": (row["metadata"] or {}).get("parent")}
                for row in scan(self, Search(), present)
            ]
        found = Kinship({row["parent"] for row in rows if row["parent"]})
        for row in rows:
            if row.get("problem"):
                found.hide(
                    row["name"],
                    f"{row['problem']}; what {row['ref']} derives from isn't known, so nothing of {row['name']} is "
                    "deleted, nor what was registered before it elsewhere; restore it from a backup, or: modelreg "
                    f"delete {row['ref']}",
                    row["at"],
                )
        for name in present:
            self._unrecorded(name, found)
        return found

    def _unrecorded(self, name: str, kinship: Kinship) -> None:
        """Take in the sealed versions that a log doesn't tell of: it is damaged, or a registration isn't done."""
        state, directory = self.state(name), self.root / name / "versions"
        if state.broken is not None:
            kinship.damaged[name] = [f"model {name!r} is read-only: {state.broken}; nothing of it is deleted"]
        try:
            sealed = self._disk.listdir(directory) if self._disk.exists(directory) else []
        except OSError as error:
            raise StoreUnavailableError(f"{directory}: can't be read: {error.strerror or error}") from error
        for version in sealed:
            if version in state.versions:
                continue
            try:
                parent = read_metadata(directory / version, disk=self._disk).parent
            except StoreUnavailableError:
                raise
            except RegistryError as error:
                if state.broken is not None:
                    problem = (
                        f"{error}; what {name}:{version} derives from isn't known, so nothing is deleted"
                    )
                    kinship.hide(name, problem, None)
                continue
            if parent is not None:
                kinship.parents.add(parent)

    def _leased(self, name: str) -> dict[str, str]:
        return {lease.version: lease.holder for lease in self.leases() if lease.name == name}
