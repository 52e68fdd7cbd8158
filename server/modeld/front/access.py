"""Who may do what: the allow-list of CURVE keys and the roles of each.

    keys:
      - {key: "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", name: engine-1, roles: [predict]}

`predict`: predictions, and what a client asks about the model. `read`: the same without predictions, and the admin
socket's status, history and stats. `operate`: everything on the admin socket, and what `read` may ask for. No role
implies `predict`. A local caller, behind an ipc socket, was let in by the socket's directory and may do everything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from modeld import keys
from modelreg.errors import ConfigError
from modelreg.yamlconf import load_yaml

Role = Literal["predict", "read", "operate"]
ROLES: tuple[Role, ...] = ("predict", "read", "operate")

#: What each operation needs one of. Operations that aren't here need any role: they tell what a client has to know.
NEEDED: Mapping[str, frozenset[Role]] = {
    "predict": frozenset({"predict"}),
    **dict.fromkeys(("status", "history", "stats"), frozenset({"read", "operate"})),
    **dict.fromkeys(("reload", "rollback", "hold", "release", "drain"), frozenset({"operate"})),
}


class AllowedKey(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One line of the allow-list."""

    key: str
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]
    roles: Annotated[list[Role], msgspec.Meta(min_length=1)]


class _AllowList(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    keys: list[AllowedKey] = []


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a message, as the audit names it, and what it may do."""

    name: str
    roles: frozenset[Role]

    def may(self, op: str) -> bool:
        needed = NEEDED.get(op)
        return bool(self.roles) if needed is None else not self.roles.isdisjoint(needed)


def read_allow_list(path: Path) -> dict[str, Caller]:
    """The allow-list: by public key in Z85, who that is.

    Raises:
        ConfigError: with a line for every mistake; a key or a name is there twice; others may write the file.
    """
    listed = load_yaml(path, _AllowList).keys
    problems = []
    if os.stat(path).st_mode & 0o002:
        problems.append(f"{path}: everybody may write it, so everybody could admit himself: chmod o-w {path}")
    callers: dict[str, Caller] = {}
    names: set[str] = set()
    for at, one in enumerate(listed):
        if not keys.is_key(one.key):
            problems.append(f"{path}: keys.{at}.key: not a CURVE public key (40 characters of Z85)")
        if one.key in callers or one.name in names:
            problems.append(f"{path}: keys.{at}: {one.name}: this key or this name is listed twice")
        callers[one.key] = Caller(f"key:{one.name}", frozenset(one.roles))
        names.add(one.name)
    if problems:
        raise ConfigError("\n".join(problems))
    return callers
