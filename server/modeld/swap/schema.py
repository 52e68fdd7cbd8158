"""Whether a candidate takes what the clients of the version before send."""

from __future__ import annotations

from collections.abc import Sequence

#: What an operator does about it: the same version, promoted anew, is tried anew.
_HINT = (
    "if the clients know, promote it again with: modelreg promote --allow-schema-change "
    "(where source.kind is path: trial.allow_schema_change)"
)


def describe_schema_change(version: str, old: Sequence[str], new: Sequence[str]) -> str:
    """How the features `new` differ from those of `version`, which are `old`, and what to do, in one sentence."""
    added = [name for name in new if name not in set(old)]
    gone = [name for name in old if name not in set(new)]
    if added or gone:
        return f"other features than {version}: {_some('new', added)}, {_some('gone', gone)}; {_HINT}"
    return f"the features of {version} in another order; {_HINT}"


def _some(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
