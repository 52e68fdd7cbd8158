"""CURVE at the client's end: whom it believes, and who it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import zmq

from modeld import keys


@dataclass(frozen=True, slots=True)
class Curve:
    """Keys for a daemon's tcp endpoints, in Z85; ipc endpoints need none. Immutable; may be shared by clients.

    Attributes:
        server_key: the daemon's public key. Daemons that fail over for one another have the same.
        secret_key: this client's own; its public half is in the daemon's allow-list.

    Raises:
        ValueError: not a key.
    """

    server_key: str
    secret_key: str = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("server_key", "secret_key"):
            if not keys.is_key(getattr(self, name)):
                raise ValueError(f"{name}: not a CURVE key (40 characters of Z85)")

    @classmethod
    def from_files(cls, key_file: str | Path, server_key: str | Path) -> Self:
        """From the secret key file that `modeld keygen` made, and the server's public key or a file with it.

        Raises:
            modelreg.errors.ConfigError: a file can't be read, holds no such key, or others can read the secret.
        """
        return cls(keys.read_public(str(server_key)), keys.read_secret(Path(key_file)).secret)

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """What `socket` connects to from now on speaks CURVE."""
        secret = self.secret_key.encode()
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.server_key.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(secret))
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
