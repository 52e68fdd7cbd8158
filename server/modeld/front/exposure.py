"""Settings that leave a door open or can't be bound: found before a socket is, and by `modeld check-config`."""

from __future__ import annotations

import grp
import ipaddress
import os
import re
from pathlib import Path

from modeld.config import Config
from modelreg.disk import DISK
from modelreg.errors import RegistryError
from modelreg.signing import public_key

_TCP = re.compile(r"tcp://(?P<host>\[[^\]]*\]|[^:]*):(?P<port>\d+|\*)")
#: What the kernel takes as a unix socket's path.
_UNIX_PATH_BYTES = 107


def find_problems(config: Config) -> list[str]:
    """One line for each mistake: key, problem, what to do."""
    security = config.security
    curve = bool(security.curve_secret_file)
    endpoints = [(f"endpoints.data.{at}", endpoint) for at, endpoint in enumerate(config.data_endpoints)]
    endpoints += [("endpoints.admin", config.admin_endpoint), ("endpoints.events", config.events_endpoint)]
    found = []
    for key, endpoint in endpoints:
        if endpoint.startswith("ipc://@"):
            found.append(f"{key}: {endpoint}: an abstract socket has no directory that keeps others out")
        elif endpoint.startswith("ipc://"):
            if len(os.fsencode(endpoint.removeprefix("ipc://"))) > _UNIX_PATH_BYTES:
                found.append(
                    f"{key}: {endpoint}: a socket's path has at most {_UNIX_PATH_BYTES} bytes; shorten runtime_dir"
                )
        elif (match := _TCP.fullmatch(endpoint)) is None:
            found.append(f"{key}: {endpoint}: neither ipc://PATH nor tcp://HOST:PORT")
        elif curve:
            continue
        elif key == "endpoints.admin":
            found.append(f"{key}: {endpoint}: operators over tcp need CURVE: set security.curve_secret_file")
        elif not is_loopback(match["host"]):
            found.append(
                f"{key}: {endpoint}: tcp beyond loopback needs CURVE: set security.curve_secret_file, or bind 127.0.0.1"
            )
    if curve != bool(security.allow_list):
        lacks, has = ("allow_list", "curve_secret_file") if curve else ("curve_secret_file", "allow_list")
        found.append(f"security.{lacks}: is needed beside security.{has}")
    for key in ("group", "admin_group"):
        name = getattr(security, key)
        if name and group_id(name) is None:
            found.append(f"security.{key}: there is no group {name!r} on this machine")
    for key_file in config.trial.require_signature:
        try:
            public_key(Path(key_file), DISK)
        except RegistryError as error:
            found.append(f"trial.require_signature: {error}")
    if config.trial.allow_joblib == "signed" and not config.trial.require_signature:
        found.append("trial.allow_joblib: signed needs keys in trial.require_signature")
    return found


def is_loopback(host: str) -> bool:
    """Whether a bound host is this machine's own. Names of interfaces aren't: what they stand for may change."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
