"""CURVE keys: pairs made, kept in files, and read again.

A file has the ZPL form of CZMQ and of pyzmq's `zmq.auth` (section `curve`, `public-key`, `secret-key`, in Z85), so that
other ZeroMQ programs can read it. Keys are 40 characters of Z85, 32 bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from modelreg.errors import ConfigError, ConflictError, StoreUnavailableError

#: A key file is never larger. Bytes.
_MAX_FILE_BYTES = 64 << 10
_Z85 = r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}"
_KEY_LINE = re.compile(rf"\s*(public-key|secret-key)\s*=\s*[\"']({_Z85})[\"']\s*")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE pair in Z85; the secret half stays out of `repr`."""

    public: str
    secret: str = field(repr=False)


def generate() -> KeyPair:
    """A new pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def is_key(text: str) -> bool:
    """Whether this is a key in Z85."""
    if re.fullmatch(_Z85, text) is None:
        return False
    with contextlib.suppress(Exception):  # groups above 2^32: the decoder names no error of its own
        return len(z85.decode(text.encode())) == 32
    return False


def write_pair(directory: Path, name: str, pair: KeyPair) -> tuple[Path, Path]:
    """Write `NAME.key` (public) and `NAME.key_secret` (both, mode 0600) and return their paths.

    Raises:
        ConflictError: one of them is there: a key is never overwritten.
        StoreUnavailableError: they can't be written.
    """
    public, secret = directory / f"{name}.key", directory / f"{name}.key_secret"
    for path in (public, secret):
        if path.exists() or path.is_symlink():
            raise ConflictError(f"{path}: is there already; a key is never overwritten: choose another name")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailableError(f"{directory}: can't make it: {error.strerror or error}") from error
    head = f'metadata\n    name = "{name}"\ncurve\n    public-key = "{pair.public}"\n'
    try:
        # The secret first: what is printed and listed always has its other half on the disk.
        _write(
            secret, f'# modeld: a CURVE secret key; keep it\n{head}    secret-key = "{pair.secret}"\n', 0o600
        )
        _write(public, f"# modeld: a CURVE public key; give it away\n{head}", 0o644)
    except FileExistsError as error:
        raise ConflictError(f"{error.filename}: is there already; a key is never overwritten") from error
    except OSError as error:
        raise StoreUnavailableError(
            f"{directory}: can't write the keys: {error.strerror or error}"
        ) from error
    return public, secret


def read_secret(path: Path) -> KeyPair:
    """The pair in a secret key file.

    Raises:
        ConfigError: it can't be read, holds no secret key, or others than its owner can read it. Its group may where
            root owns it: a service can then read a key that it can't change.
    """
    text, mode, owner = _read(path)
    allowed = 0o640 if owner == 0 and os.geteuid() != 0 else 0o600
    if mode & 0o777 & ~allowed:
        raise ConfigError(
            f"{path}: a secret key with mode {mode & 0o777:04o}, so others can read it: chmod {allowed:o} {path}"
        )
    found = _keys(text)
    if "secret-key" not in found:
        raise ConfigError(f"{path}: holds no CURVE secret key; make a pair: modeld keygen NAME")
    secret = found["secret-key"]
    return KeyPair(zmq.curve_public(secret.encode()).decode(), secret)


def read_public(key: str) -> str:
    """A public key, given as itself or as the name of a file that holds it.

    Raises:
        ConfigError: it is neither.
    """
    if is_key(key):
        return key
    text, _, _ = _read(Path(key))
    if (found := _keys(text).get("public-key")) is None:
        raise ConfigError(f"{key}: neither a CURVE public key (40 characters of Z85) nor a file with one")
    return found


def _keys(text: str) -> dict[str, str]:
    lines = (_KEY_LINE.fullmatch(line) for line in text.splitlines())
    return {match[1]: match[2] for match in lines if match is not None and is_key(match[2])}


def _read(path: Path) -> tuple[str, int, int]:
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: not a regular file")
            return stream.read(_MAX_FILE_BYTES).decode(errors="replace"), status.st_mode, status.st_uid
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: can't read the key: {getattr(error, 'strerror', None) or error}"
        ) from error


def _write(path: Path, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(fd)
