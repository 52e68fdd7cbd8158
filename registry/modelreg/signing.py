"""Signatures: Ed25519 over a version's checksum.sha256, so over every byte of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelreg.disk import Disk
from modelreg.errors import IntegrityError, NotFoundError, StoreUnavailableError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

#: A signature, in bytes.
SIGNATURE_BYTES = 64

_MAX_KEY_BYTES = 64 << 10


def sign(data: bytes, key_file: Path, disk: Disk) -> bytes:
    """Sign with a private key: PEM (PKCS #8) or OpenSSH, without a passphrase, or 32 raw bytes.

    Raises:
        NotFoundError: no such file. UsageError: it isn't an Ed25519 private key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    found = _read_key(key_file, disk)
    try:
        if len(found) == 32:
            return Ed25519PrivateKey.from_private_bytes(found).sign(data)
        load = (
            serialization.load_ssh_private_key if b"OPENSSH" in found else serialization.load_pem_private_key
        )
        key = load(found, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{key_file}: not an Ed25519 private key (PEM, OpenSSH or 32 bytes): {error}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{key_file}: not an Ed25519 key; make one: openssl genpkey -algorithm ed25519")
    return key.sign(data)


def public_key(key_file: Path, disk: Disk) -> Ed25519PublicKey:
    """Read a public key (PEM, OpenSSH or 32 raw bytes), or the public half of a private one.

    Raises:
        NotFoundError: no such file. UsageError: it isn't an Ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    found = _read_key(key_file, disk)
    try:
        key: object
        if len(found) == 32:
            key = Ed25519PublicKey.from_public_bytes(found)
        elif found.startswith(b"ssh-ed25519 "):
            key = serialization.load_ssh_public_key(found)
        elif b"OPENSSH PRIVATE KEY" in found:
            key = serialization.load_ssh_private_key(found, password=None)
        elif b"PRIVATE KEY" in found:
            key = serialization.load_pem_private_key(found, password=None)
        else:
            key = serialization.load_pem_public_key(found)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{key_file}: not an Ed25519 public key (PEM, OpenSSH or 32 bytes): {error}"
        ) from error
    if isinstance(key, Ed25519PrivateKey):
        key = key.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{key_file}: not an Ed25519 key")
    return key


def check(signature: bytes, data: bytes, key_file: Path, disk: Disk, *, where: str) -> None:
    """Check a signature with a key as `public_key` reads it.

    Raises:
        IntegrityError: the signature isn't by that key over these bytes. NotFoundError, UsageError: the key.
    """
    if not _is_by(signature, data, public_key(key_file, disk)):
        raise IntegrityError(f"{where}: the signature isn't by {key_file} over these files")


def check_any(
    signature_files: Sequence[Path], data: bytes, key_files: Sequence[Path], disk: Disk
) -> tuple[Path, Path]:
    """Find a signature by one of several keys; returns its file and the key's.

    An Ed25519 signature doesn't say whose it is: one by an unknown key and one over other bytes look the same.

    Raises:
        IntegrityError: none of the files is there, or none is by one of the keys over these bytes.
        StoreUnavailableError: one can't be read, and no other serves. NotFoundError, UsageError: a key.
    """
    keys = [(path, public_key(path, disk)) for path in key_files]
    found = trouble = None
    for where in signature_files:
        try:
            signature = read_signature(where, disk)
        except IntegrityError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                found = where  # a signature has 64 bytes
            continue
        except StoreUnavailableError as error:
            trouble = error
            continue
        found = where
        for path, key in keys:
            if _is_by(signature, data, key):
                return where, path
    if found is None and trouble is not None:
        raise trouble
    if found is None:
        raise IntegrityError(
            f"unsigned: there is no {signature_files[0]}; sign the version with: modelreg sign REF --key KEY"
        )
    names = ", ".join(str(path) for path in key_files)
    raise IntegrityError(
        f"{found}: the signature is by none of the keys {names} over these bytes: another key, or other bytes"
    )


def _is_by(signature: bytes, data: bytes, key: Ed25519PublicKey) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def signature_file(root: Path, name: str, version: str) -> Path:
    """Where a version's signature is."""
    return root / name / "signatures" / f"{version}.sig"


def read_signature(path: Path, disk: Disk) -> bytes:
    """Read a signature.

    Raises:
        IntegrityError: there is none: what isn't signed isn't verified. StoreUnavailableError: it can't be read.
    """
    try:
        return disk.read(path, max_bytes=SIGNATURE_BYTES)
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{path}: there is no signature; make one: modelreg sign REF --key KEY"
        ) from error
    except OSError as error:
        raise StoreUnavailableError(f"{path}: can't be read: {error.strerror or error}") from error


def _read_key(path: Path, disk: Disk) -> bytes:
    try:
        return disk.read(path.resolve(), max_bytes=_MAX_KEY_BYTES)
    except OSError as error:
        raise NotFoundError(f"{path}: can't be read: {error.strerror or error}") from error
