"""Keys in each form that they come in, and those that can't sign."""

from __future__ import annotations

import errno

import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.registry.faults import FailsAt, StopsAt

from modelreg import IntegrityError, NotFoundError, StoreUnavailableError, UsageError
from modelreg.disk import DISK, Disk
from modelreg.signing import check, check_any, public_key, sign

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PRIVATE = {
    "raw": (s.Encoding.Raw, s.PrivateFormat.Raw),
    "pem": (s.Encoding.PEM, s.PrivateFormat.PKCS8),
    "openssh": (s.Encoding.PEM, s.PrivateFormat.OpenSSH),
}
PUBLIC = {
    "raw": (s.Encoding.Raw, s.PublicFormat.Raw),
    "pem": (s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo),
    "openssh": (s.Encoding.OpenSSH, s.PublicFormat.OpenSSH),
}


@pytest.fixture
def written(tmp_path):
    def written(data: bytes):
        path = tmp_path / f"key{len(list(tmp_path.iterdir()))}"
        path.write_bytes(data)
        return path

    return written


@pytest.mark.parametrize("private", PRIVATE)
@pytest.mark.parametrize("public", PUBLIC)
def test_every_form_of_a_key_signs_and_verifies(written, private, public):
    """The signature is the same whatever form the key has; other bytes and other keys don't pass."""
    signature = sign(b"sums", written(KEY.private_bytes(*PRIVATE[private], s.NoEncryption())), DISK)
    key = written(KEY.public_key().public_bytes(*PUBLIC[public]))
    check(signature, b"sums", key, DISK, where="x.sig")
    with pytest.raises(IntegrityError, match=r"x\.sig: the signature isn't by"):
        check(signature, b"sumz", key, DISK, where="x.sig")
    other = written(OTHER.public_key().public_bytes(*PUBLIC[public]))
    with pytest.raises(IntegrityError):
        check(signature, b"sums", other, DISK, where="x.sig")


@pytest.mark.parametrize("private", ["pem", "openssh"])
def test_the_private_key_verifies_too(written, private):
    """It has the public one in it."""
    key = written(KEY.private_bytes(*PRIVATE[private], s.NoEncryption()))
    check(sign(b"sums", key, DISK), b"sums", key, DISK, where="x.sig")


def test_what_isnt_such_a_key_is_refused(written, tmp_path):
    """Text, another curve, a passphrase, no file at all: by name, and before anything is signed."""
    curve = generate_private_key(SECP256R1())
    wrong = curve.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    locked = KEY.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"x"))
    for data in (b"hello", wrong, locked):
        path = written(data)
        with pytest.raises(UsageError, match=f"{path}: not an Ed25519"):
            sign(b"sums", path, DISK)
        with pytest.raises(UsageError, match=f"{path}: not an Ed25519"):
            check(bytes(64), b"sums", path, DISK, where="x.sig")
    with pytest.raises(NotFoundError, match="nosuch: can't be read"):
        sign(b"sums", tmp_path / "nosuch", DISK)


@pytest.fixture
def keys(written):
    """The public keys of KEY and OTHER, as files."""
    return [written(key.public_key().public_bytes(*PUBLIC["pem"])) for key in (KEY, OTHER)]


def test_any_of_several_signatures_by_any_of_several_keys_will_do(keys, written):
    """The first that fits is named, whatever stands before it: other keys', none, garbage."""
    good = written(OTHER.sign(b"sums"))
    short, absent = written(b"abc"), good.with_name("absent")
    others = written(Ed25519PrivateKey.generate().sign(b"sums"))
    found = check_any([absent, short, others, good], b"sums", keys, DISK)
    assert found == (good, keys[1])


def test_without_a_fitting_signature_the_reason_is_told(keys, written):
    """Unsigned, signed by somebody else, of other bytes, or unreadable: four answers to four troubles."""
    good = written(KEY.sign(b"sums"))
    absent = good.with_name("absent")
    with pytest.raises(IntegrityError, match=r"unsigned: there is no \S+absent"):
        check_any([absent], b"sums", keys, DISK)
    with pytest.raises(IntegrityError, match="by none of the keys"):
        check_any([absent, good], b"other sums", keys, DISK)
    with pytest.raises(IntegrityError, match="by none of the keys"):
        check_any([good], b"sums", keys[1:], DISK)
    with pytest.raises(IntegrityError, match="by none of the keys"):
        check_any([written(b"x" * 100)], b"sums", keys, DISK)
    fails = FailsAt(errno.EIO)
    disk = Disk(fails)
    for each in keys:
        public_key(each, disk)
    count = StopsAt()
    for each in keys:
        count.arm(10**6)
        public_key(each, Disk(count))
    fails.arm(2 * count.count)
    with pytest.raises(StoreUnavailableError, match="can't be read"):
        check_any([good], b"sums", keys, disk)
