"""``MODEL_CARD.md``: what a version is, for people. Sealed at registration, so it tells nothing that can change."""

from __future__ import annotations

from typing import Any

from modelreg.gates import describe_rules
from modelreg.metadata import Metadata
from modelreg.metrics import direction, flatten
from modelreg.settings import Settings

CARD_FILE = "MODEL_CARD.md"

#: The most features that are listed by name.
MAX_LISTED_FEATURES = 200


def render(metadata: Metadata, settings: Settings) -> str:
    """The card in Markdown; the same facts and settings give the same card.

    ``intended_use`` and ``limitations`` come from the metadata's fields of these names.
    """
    facts = metadata
    lines = [f"# {facts.name} {facts.version}", ""]
    if facts.notes:
        lines += [facts.notes, ""]
    lines += _section(
        "Use and limits",
        {
            "Task": facts.task_type,
            "Model type": facts.model_type,
            "Outputs": ", ".join(facts.outputs),
            "Horizons": ", ".join(facts.horizons),
            "Intended use": facts.extra.get("intended_use") or "not stated by the trainer",
            "Limits": facts.extra.get("limitations") or "not stated by the trainer",
            "Fewest samples": facts.min_samples,
            "Calibration checked": facts.calibration_ok,
        },
    )
    span = facts.data_range
    lines += _section(
        "Data",
        {
            "Span": None if span is None else f"{span.start or '…'} to {span.end or '…'}",
            "Data sets": ", ".join(facts.dataset_version_ids),
            "Snapshot": facts.snapshot_id,
            "Trained at": facts.trained_at,
            "Training run": facts.training_run_id,
            "Configuration": facts.config_hash and f"config_hash {facts.config_hash}",
        },
    )
    metrics = flatten(facts.metrics)
    lines += ["## Metrics", ""]
    if metrics:
        lines += ["| metric | value | better |", "|---|---|---|"]
        for name, value in sorted(metrics.items()):
            lines.append(f"| {name} | {value:g} | {direction(name, settings.metrics) or '?'} |")
    else:
        lines.append("None were given.")
    lines += ["", "## Gates", ""]
    for channel, gates in sorted(settings.gates.items()):
        lines += [f"- {channel}: {gate} {rule}" for gate, rule in describe_rules(gates)]
    if not settings.gates:
        lines.append("None were configured when it was registered.")
    shown = facts.features[:MAX_LISTED_FEATURES]
    lines += ["", f"## Features ({len(facts.features)}, in this order)", ""]
    lines += [", ".join(f"`{name}`" for name in shown) + (" …" if len(shown) < len(facts.features) else "")]
    lines += ["", f"Fingerprint: {facts.schema}" if facts.schema else "", "", "## Lineage", ""]
    lines.append(f"Derived from {facts.parent}." if facts.parent else "Derived from no registered version.")
    return "\n".join(lines) + "\n"


def _section(title: str, rows: dict[str, Any]) -> list[str]:
    told = [f"- {name}: {value}" for name, value in rows.items() if value not in (None, "", [])]
    return [f"## {title}", "", *(told or ["Nothing was given."]), ""]
