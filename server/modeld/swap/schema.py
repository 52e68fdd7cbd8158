"""Whether a candidate takes what the clients of the serving version send."""

from __future__ import annotations

from modeld.wire.contract import Contract


def describe_schema_change(old: Contract, new: Contract) -> str:
    """How the features differ, in one sentence."""
    added = [name for name in new.features if name not in old.index]
    gone = [name for name in old.features if name not in new.index]
    if added or gone:
        return (
            f"other features than {old.version}: {_some('new', added)}, {_some('gone', gone)}; if its clients know, "
            "allow it with: modelreg promote --allow-schema-change"
        )
    return f"the features of {old.version} in another order"


def _some(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
