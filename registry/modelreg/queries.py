"""Questions to a registry that change nothing: compare, lineage, diff, what ran when, cards, the best version."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from modelreg import card, comparison, lineage
from modelreg.core import Core
from modelreg.errors import NotFoundError, StoreUnavailableError, UsageError
from modelreg.history import Holding, holdings
from modelreg.metadata import Metadata
from modelreg.sealed import read_file, read_sealed, read_sums

if TYPE_CHECKING:
    from modelreg.listing import Filters
    from modelreg.loaders import LoadedModel


class Queries(Core):
    """The part of ``Registry`` that only reads."""

    def compare(
        self, refs: Sequence[str], *, metrics: Sequence[str] = ()
    ) -> list[comparison.MetricComparison]:
        """Versions side by side: a winner and the difference for each metric (all, or only ``metrics``).

        Raises:
            UsageError: fewer than two versions. NotFoundError: a version, or a metric that none of them has.
        """
        versions = {}
        for ref in refs:
            name, version, facts = self._facts(ref)
            versions[f"{name}:{version}"] = facts
        if len(versions) < 2:
            raise UsageError("compare needs two different versions")
        rows = comparison.compare_metrics(versions, metrics, self.settings.metrics)
        for row in rows:
            if all(value is None for value in row.values.values()):
                raise NotFoundError(f"none of {', '.join(versions)} has the metric {row.metric!r}")
        return rows

    def diff(self, left: str, right: str) -> list[comparison.FieldDifference]:
        """The facts and files that differ between two versions.

        Raises:
            NotFoundError: no such version. IntegrityError: a version's facts were changed.
        """
        facts, hashes = [], []
        for ref in (left, right):
            name, found = self.resolve(ref)
            facts.append(self.metadata(name, found.version))
            directory = self.version_dir(name, found.version)
            hashes.append(read_sums(directory, expect_digest=found.digest, disk=self._disk))
        return comparison.diff_facts(facts[0], facts[1], hashes)

    def lineage(self, ref: str) -> lineage.Lineage:
        """What a version derives from, and what was derived from it, in any model.

        Raises:
            NotFoundError: no such version.
        """
        name, found = self.resolve(ref)
        whole = f"{name}:{found.version}"
        try:
            from modelreg.catalogsearch import related

            with self.catalog.current() as connection:
                return lineage.trace(whole, related(connection, whole))
        except StoreUnavailableError:
            from modelreg.catalogsearch import Search
            from modelreg.listing import scan

            rows = scan(self, Search())
            return lineage.trace(whole, {r["ref"]: (r["metadata"] or {}).get("parent") for r in rows})

    def at(self, moment: dt.datetime, name: str | None = None) -> list[Holding]:
        """What each channel held at ``moment`` (aware): which model ran on 15 January?

        Raises:
            NotFoundError: no such model.
        """
        if name is not None:
            self.state(name)
        models = self.models() if name is None else [name]
        return [found for model in models for found in holdings(model, self._log(model).records(), moment)]

    def card(self, ref: str) -> str:
        """The version's MODEL_CARD.md, as sealed; made from its facts where none was sealed.

        Raises:
            NotFoundError: no such version. IntegrityError: the card was changed.
        """
        name, found = self.resolve(ref)
        facts = self.metadata(name, found.version)
        if card.CARD_FILE not in facts.files:
            return card.render(facts, self.settings)
        directory = self.version_dir(name, found.version)
        data = read_file(directory, card.CARD_FILE, expect_digest=found.digest, disk=self._disk)
        return data.decode(errors="replace")

    def load(self, ref: str) -> LoadedModel:
        """Load a version into this process, which may die of it: see ``ProductionModelLoader`` and ``validate``.

        Raises:
            NotFoundError: no such version. IntegrityError: its bytes differ, or it isn't a model.
        """
        from modelreg.loaders import load

        name, found = self.resolve(ref)
        directory = self.version_dir(name, found.version)
        limit = self.settings.limits.version_bytes
        return load(read_sealed(directory, expect_digest=found.digest, max_bytes=limit, disk=self._disk))

    def find(self, name: str | None = None, **filters: Unpack[Filters]) -> list[dict[str, Any]]:
        """Versions of one model or of all, newest first, as ``modelreg list --json`` shows them.

        Filters: ``channel``, ``status``, ``tag``, ``config_hash``, ``task_type``, ``minima``, ``sort``, ``limit``,
        ``after``; see ``listing.select``.

        Raises:
            NotFoundError: no such model. UsageError: no such status, or nobody knows which ``sort`` is better.
        """
        from modelreg.listing import select

        return select(self, name, **filters)

    def best(self, name: str, metric: str, **filters: Unpack[Filters]) -> dict[str, Any]:
        """The version of a model with the best value of a metric, of those that pass the filters.

        Raises:
            NotFoundError: none has that metric. UsageError: nobody knows what is better.
        """
        from modelreg.metrics import value_of

        filters["sort"] = metric
        rows = self.find(name, **filters)
        if not rows or value_of((rows[0]["metadata"] or {}).get("metrics", {}), metric) is None:
            raise NotFoundError(f"no version of {name} has the metric {metric!r}; see: modelreg list {name}")
        return rows[0]

    def query(self, statement: str, *, limit: int | None = None) -> tuple[list[str], list[list[Any]]]:
        """Run one SELECT over the catalog; returns the columns' names and the rows.

        Raises:
            UsageError: the statement is wrong or would change something. StoreUnavailableError: no catalog.
        """
        from modelreg import catalog

        self.catalog.sync()
        return catalog.query(self.catalog.path, statement, limit=limit)

    def rebuild(self, *, dry_run: bool = False) -> int:
        """Make every projection again from the logs; returns how many versions there are, deleted ones included.

        Raises:
            StoreUnavailableError: they can't be written.
        """
        models = self.models()
        if dry_run:
            return sum(len(self.state(name).versions) for name in models)
        for name in models:
            self._projector.project(self._log(name), models)
        return self.catalog.rebuild()

    def _facts(self, ref: str) -> tuple[str, str, Metadata]:
        name, found = self.resolve(ref)
        return name, found.version, self.metadata(name, found.version)
