"""Versions side by side: a winner and the difference for each metric; and what differs between two versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelreg.metadata import Metadata, to_dict
from modelreg.metrics import canonical, direction, flatten, goodness
from modelreg.settings import MetricSettings

#: Facts that differ between any two versions.
_ALWAYS_DIFFERENT = frozenset({"version", "created_at", "files", "size_bytes", "memory_bytes", "env"})


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric of several versions.

    ``better``: ``higher``, ``lower``, ``magnitude`` (lower without the sign) or None where nobody knows, and then
    there is no winner. ``winner``: a reference; None for a tie too. ``difference``: the last version's value minus the
    first's, of magnitudes where they count; None where one is missing.
    """

    metric: str
    better: str | None
    values: dict[str, float | None]
    winner: str | None
    difference: float | None

    @property
    def worse(self) -> bool:
        """Whether the last version is worse than the first, or lacks what the first one has."""
        values = list(self.values.values())
        if self.better is None or values[0] is None:
            return False
        if self.difference is None:
            return True
        return self.difference < 0 if self.better == "higher" else self.difference > 0


def compare_metrics(
    versions: Mapping[str, Metadata], only: Sequence[str] = (), more: MetricSettings | None = None
) -> list[MetricComparison]:
    """Compare the metrics of versions (reference → facts), in the order of their names; nested ones flattened.

    Names that mean the same (``sharpe``, ``sharpe_ratio``) are one metric. ``only``: these alone.
    """
    tables = {
        ref: {canonical(name): value for name, value in flatten(facts.metrics).items()}
        for ref, facts in versions.items()
    }
    spelled: dict[str, str] = {}
    for facts in versions.values():
        for name in flatten(facts.metrics):
            spelled.setdefault(canonical(name), name)
    wanted = (
        {canonical(name): name for name in only}
        if only
        else {name: spelled[name] for name in sorted(spelled)}
    )
    return [
        _compare(shown, {ref: table.get(name) for ref, table in tables.items()}, more)
        for name, shown in wanted.items()
    ]


def _compare(metric: str, values: dict[str, float | None], more: MetricSettings | None) -> MetricComparison:
    better = direction(metric, more)
    measured = {ref: (abs(v) if better == "magnitude" else v) for ref, v in values.items() if v is not None}
    refs = list(values)
    difference = None
    if refs[0] in measured and refs[-1] in measured:
        difference = measured[refs[-1]] - measured[refs[0]]
    ranked = {ref: good for ref, v in measured.items() if (good := goodness(metric, v, more)) is not None}
    best = [ref for ref, good in ranked.items() if good == max(ranked.values())]
    winner = best[0] if len(best) == 1 and len(ranked) > 1 else None
    return MetricComparison(metric, better, values, winner, difference)


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field that differs; nested ones with dots (``parameters.num_leaves``). None: it isn't there."""

    field: str
    left: Any
    right: Any


def diff_facts(left: Metadata, right: Metadata, hashes: Sequence[Mapping[str, str]]) -> list[FieldDifference]:
    """What differs between two versions: facts, then files by their hash (``hashes``: left's and right's)."""
    found = []
    ours, theirs = _flat(to_dict(left)), _flat(to_dict(right))
    for field in sorted(ours.keys() | theirs.keys()):
        if field.partition(".")[0] in _ALWAYS_DIFFERENT and not field.startswith("env."):
            continue
        if ours.get(field) != theirs.get(field):
            found.append(FieldDifference(field, ours.get(field), theirs.get(field)))
    before, after = hashes
    for file in sorted(before.keys() | after.keys()):
        if before.get(file) != after.get(file) and file not in ("metadata.json", "MODEL_CARD.md"):
            found.append(FieldDifference(f"files.{file}", before.get(file), after.get(file)))
    return found


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item and prefix + key != "files":
            flat.update(_flat(item, f"{prefix}{key}."))
        else:
            flat[prefix + key] = item
    return flat
