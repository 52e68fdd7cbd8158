"""Who may do what: JSON Web Tokens with scopes. Issued by `modeld token`, or by whoever has the private key.

A token names its bearer (`sub`, who becomes the actor in the registry's log), its scopes (`scope`, separated by
spaces), its audience and its end; all four are required. Tokens travel in the Authorization header alone.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jwt

from modeld.config import HttpSettings, JwtSettings
from modeld.http.problems import ApiError
from modelreg.errors import ConfigError, RegistryError
from modelreg.names import check_text

READ, WRITE, OPERATE = "model:read", "model:write", "model:operate"
SCOPES = (READ, WRITE, OPERATE)

#: The shortest secret for HS256. Bytes (RFC 7518, 3.2).
_MIN_SECRET_BYTES = 32
#: The longest token that is looked at. Characters.
_MAX_TOKEN_CHARACTERS = 8192

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="modeld"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `scopes` are what the token grants; without a key everybody has `model:read`."""

    subject: str
    scopes: frozenset[str]


class Gatekeeper:
    """Checks tokens. Immutable once made; thread-safe.

    Raises:
        ConfigError: the key can't be read, isn't of the algorithm, or is a secret that others may read.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self._jwt = settings.jwt
        self._key = _verifying_key(settings.jwt) if settings.jwt.key_file else None
        #: Predictions, metrics and metadata need a token as well.
        self.everything = (
            settings.jwt.required == "always" or settings.behind_proxy or not is_loopback(settings.host)
        )

    @property
    def has_key(self) -> bool:
        return self._key is not None

    def open_to_all(self, authorization: str | None) -> None:
        """Check what only needs a token where everything does. Raises ApiError 401 or 403."""
        if self.everything:
            self.check(authorization, READ)

    def check(self, authorization: str | None, scope: str) -> Caller:
        """The caller, who has `scope`. Raises ApiError 401 (no valid token) or 403 (not that scope)."""
        if self._key is None:
            if scope == READ and not self.everything:
                return Caller("anonymous", frozenset({READ}))
            raise ApiError(
                403,
                "forbidden",
                "this gateway is read-only: no key for tokens is configured (http.jwt.key_file)",
            )
        caller = self.caller(authorization)
        if scope not in caller.scopes:
            raise ApiError(
                403, "forbidden", f"the token of {caller.subject!r} lacks the scope {scope}",
                {"WWW-Authenticate": f'Bearer realm="modeld", error="insufficient_scope", scope="{scope}"'},
            )  # fmt: skip
        return caller

    def caller(self, authorization: str | None) -> Caller:
        """Who a valid token names. Raises ApiError 401."""
        kind, _, token = (authorization or "").partition(" ")
        if not token:
            raise ApiError(401, "unauthorized", "a token is needed: Authorization: Bearer …", _CHALLENGE)
        if kind.lower() != "bearer" or len(token) > _MAX_TOKEN_CHARACTERS:
            raise ApiError(401, "unauthorized", "the Authorization header isn't a Bearer token", _CHALLENGE)
        assert self._key is not None
        try:
            claims = jwt.decode(
                token.strip(),
                self._key,
                algorithms=[self._jwt.algorithm],
                audience=self._jwt.audience,
                leeway=self._jwt.leeway_s,
                options={"require": ["exp", "aud", "sub", "scope"]},
            )
            scopes = str(claims["scope"]).split()
            subject = check_text(claims["sub"], "the token's subject")
        except (jwt.PyJWTError, RegistryError) as error:
            challenge = {"WWW-Authenticate": 'Bearer realm="modeld", error="invalid_token"'}
            raise ApiError(401, "unauthorized", f"the token isn't valid: {error}", challenge) from None
        return Caller(subject, frozenset(scopes))


def issue(
    settings: JwtSettings, key_file: Path, subject: str, scopes: Iterable[str], expires_s: float
) -> str:
    """A token.

    Args:
        key_file: the secret of HS256, or the private key that fits the configured public one.
        expires_s: seconds from now.

    Raises:
        ConfigError: the key can't be read or used. ValueError: no such scope, no subject, or no time at all.
    """
    wanted = list(dict.fromkeys(scopes))
    if unknown := [scope for scope in wanted if scope not in SCOPES]:
        raise ValueError(f"--scope {unknown[0]}: there is {', '.join(SCOPES)}")
    if not wanted or expires_s <= 0:
        raise ValueError("a token has at least one --scope and lives for a while")
    key = _read_secret(key_file) if settings.algorithm == "HS256" else _read(key_file)
    if settings.algorithm != "HS256" and b"PRIVATE" not in key:
        raise ConfigError(f"{key_file}: not a private key in PEM")
    now = dt.datetime.now(dt.UTC)
    claims = {
        "sub": check_text(subject, "the subject (--subject)"),
        "aud": settings.audience,
        "scope": " ".join(wanted),
        "iat": now,
        "exp": now + dt.timedelta(seconds=expires_s),
    }
    try:
        return jwt.encode(claims, key, algorithm=settings.algorithm)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ConfigError(f"{key_file}: not a private key for {settings.algorithm}: {error}") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _verifying_key(settings: JwtSettings) -> bytes:
    path = Path(settings.key_file)
    if settings.algorithm == "HS256":
        return _read_secret(path)
    key = _read(path)
    if b"PRIVATE" in key:
        raise ConfigError(f"http.jwt.key_file {path}: a private key; the gateway needs the public one alone")
    try:
        jwt.get_algorithm_by_name(settings.algorithm).prepare_key(key)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ConfigError(
            f"http.jwt.key_file {path}: not a public key in PEM for {settings.algorithm}: {error}"
        ) from None
    return key


def _read_secret(path: Path) -> bytes:
    key = _read(path).strip()
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ConfigError(f"http.jwt.key_file {path}: everybody may read this secret; chmod 600 {path}")
    if len(key) < _MIN_SECRET_BYTES:
        raise ConfigError(
            f"http.jwt.key_file {path}: a secret of {len(key)} bytes; at least {_MIN_SECRET_BYTES}: "
            f"openssl rand -hex 32 > {path}"
        )
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"http.jwt.key_file {path}: can't be read: {error.strerror or error}") from None
