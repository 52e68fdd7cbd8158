"""Signatures: Ed25519 over a version's checksum.sha256, so over every byte of it."""

from __future__ import annotations

from pathlib import Path

from modelreg.disk import Disk
from modelreg.errors import IntegrityError, NotFoundError, StoreUnavailableError, UsageError

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


def check(signature: bytes, data: bytes, key_file: Path, disk: Disk, *, where: str) -> None:
    """Check a signature with a public key (PEM, OpenSSH or 32 raw bytes), or with the private one.

    Raises:
        IntegrityError: the signature isn't by that key over these bytes. NotFoundError, UsageError: the key.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
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
    try:
        key.verify(signature, data)
    except InvalidSignature as error:
        raise IntegrityError(f"{where}: the signature isn't by {key_file} over these files") from error


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
