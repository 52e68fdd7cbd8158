"""The network's door: CURVE on every tcp endpoint, a ZAP handler in the loop, and who sent a message.

libzmq asks `inproc://zeromq.zap.01` for each handshake. The answer to a key that isn't listed is 300, "not now": the
connection gets no word and is closed by HANDSHAKE_IVL, and the client tries again by itself, so that a key that is
listed later needs no restart at the other end (400 would silence a libzmq client for good). The User-Id of what a
listed key sends is that key; its roles are looked up for each message, so a key taken off the list is refused at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from modeld import log
from modeld.config import Config
from modeld.errors import RequestError
from modeld.front.access import NEEDED, ROLES, Caller, read_allow_list
from modeld.front.exposure import find_problems
from modeld.front.loop import Loop
from modeld.front.monitor import Handler, serve
from modeld.keys import KeyPair, read_secret
from modelreg.errors import ConfigError

#: libzmq's name for a peer on a unix socket, from SO_PEERCRED. No IP address looks like it.
_LOCAL_PEER = re.compile(r"[^:]*:(?P<uid>\d+):\d+:\d+")
#: Refusals of one kind that are logged singly in an interval; the others are counted and told at its end.
LOGGED, INTERVAL_S = 5, 10.0
#: Addresses that are told apart while counting.
_MAX_ADDRESSES = 1000
_FAILED = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)


class Refusals:
    """Logs the first few of a kind in each interval, and how many more there were. A flood costs a line, not a disk."""

    def __init__(self, event: str, later: Callable[[float, Callable[[], None]], object]) -> None:
        self.total = 0
        self._event = event
        self._later = later
        self._logged = 0
        self._unlogged: Counter[str] = Counter()
        self._counting = False

    def add(self, who: str, **fields: Any) -> None:
        self.total += 1
        if not self._counting:
            self._counting = True
            self._later(INTERVAL_S, self._sum_up)
        if self._logged < LOGGED:
            self._logged += 1
            log.get().warning(self._event, peer=who, **fields)
        elif who in self._unlogged or len(self._unlogged) < _MAX_ADDRESSES:
            self._unlogged[who] += 1
        else:
            self._unlogged["others"] += 1

    def _sum_up(self) -> None:
        self._counting, self._logged = False, 0
        more, self._unlogged = self._unlogged, Counter()
        if more:
            most = dict(more.most_common(5))
            log.get().warning(self._event, more=more.total(), peers=len(more), most=most, seconds=INTERVAL_S)


class Guard:
    """Protects sockets and tells callers. Owned by the loop."""

    def __init__(self, pair: KeyPair | None, allow_list: Path | None, callers: dict[str, Caller]) -> None:
        self._pair = pair
        self._allow_list = allow_list
        self._callers = callers
        #: Why the list that is in force isn't the one in the file.
        self.stale: str | None = None
        self._zap: zmq.Socket[bytes] | None = None

    @classmethod
    def open(cls, config: Config) -> Guard:
        """Read keys and allow-list.

        Raises:
            ConfigError: a line for everything that the security settings lack or get wrong.
        """
        security = config.security
        problems = find_problems(config)
        pair, callers = None, {}
        try:
            if security.curve_secret_file:
                pair = read_secret(Path(security.curve_secret_file))
        except ConfigError as error:
            problems.append(f"security.curve_secret_file: {error}")
        try:
            if security.allow_list:
                callers = read_allow_list(Path(security.allow_list))
        except ConfigError as error:
            problems += [f"security.allow_list: {line}" for line in str(error).splitlines()]
        if problems:
            raise ConfigError("\n".join(problems))
        return cls(pair, Path(security.allow_list) if security.allow_list else None, callers)

    @property
    def curve(self) -> bool:
        """Whether tcp endpoints speak CURVE."""
        return self._pair is not None

    def protect(self, sock: zmq.Socket[bytes]) -> None:
        """What is bound to `sock` from now on speaks CURVE to listed keys only. Without a key: nothing changes."""
        if self._pair is None:
            return
        sock.set(zmq.CURVE_SERVER, 1)
        sock.set(zmq.CURVE_SECRETKEY, self._pair.secret.encode())
        sock.set(zmq.ZAP_DOMAIN, b"modeld")
        # Without this, a handler that isn't there would mean that every key is let in.
        sock.set(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def start(self, context: zmq.Context[Any], loop: Loop) -> dict[int, Handler]:
        """Answer libzmq's questions. Call before anything is bound.

        Returns:
            What counts handshakes that fail, for the monitors of all sockets.
        """
        self.denied = Refusals(log.HANDSHAKE_DENIED, loop.call_in)
        self.failed = Refusals(log.HANDSHAKE_FAILED, loop.call_in)
        self.unauthorized = Refusals(log.UNAUTHORIZED, loop.call_in)
        if self._pair is None:
            return {}
        self._zap = context.socket(zmq.REP)
        self._zap.set(zmq.LINGER, 0)
        self._zap.bind("inproc://zeromq.zap.01")
        serve(loop, self._zap, self._answer)
        return {event: self._handshake_failed(str(event.name)) for event in _FAILED}

    def close(self) -> None:
        if self._zap is not None:
            self._zap.close()

    def reload(self) -> str | None:
        """Read the allow-list again; why the old one stays in force, if it does."""
        if self._allow_list is None:
            return None
        try:
            self._callers = read_allow_list(self._allow_list)
        except ConfigError as error:
            self.stale = f"{error}; the list read before stays in force".replace("\n", "; ")
            log.get().error(log.ALLOW_LIST_BROKEN, error=self.stale)
        else:
            self.stale = None
            log.get().info(log.ALLOW_LIST_READ, keys=len(self._callers))
        return self.stale

    def caller(self, frame: zmq.Frame) -> Caller:
        """Who sent the message that `frame` is a part of.

        A peer may claim any User-Id in a handshake without ZAP; so over ipc only the kernel's word counts.
        """
        address = _property(frame, "Peer-Address")
        if (local := _LOCAL_PEER.fullmatch(address)) is not None:
            return Caller(f"uid:{local['uid']}", frozenset(ROLES))
        if self._pair is None:
            return Caller(address or "unknown", frozenset(ROLES))
        key = _property(frame, "User-Id")
        return self._callers.get(key) or Caller(f"unlisted key:{key}", frozenset())

    def admit(self, frame: zmq.Frame, op: str) -> Caller:
        """Who asks for `op`. Raises RequestError (UNAUTHORIZED) for one who may not, and logs it."""
        caller = self.caller(frame)
        if not caller.may(op):
            self.unauthorized.add(caller.name, op=op, roles=sorted(caller.roles))
            needed = " or ".join(sorted(NEEDED.get(op, ROLES)))
            raise RequestError(
                "UNAUTHORIZED",
                f"{caller.name} has {', '.join(sorted(caller.roles)) or 'no role'}; {op} needs {needed}",
            )
        return caller

    def _answer(self, sock: zmq.Socket[bytes]) -> None:
        """One ZAP request (RFC 27): 200 for a listed key, 300 for any other."""
        frames = sock.recv_multipart(zmq.NOBLOCK)
        request_id = frames[1] if len(frames) > 1 else b""
        status, text, user = b"300", b"not listed", b""
        if len(frames) == 7 and frames[0] == b"1.0" and frames[5] == b"CURVE" and len(frames[6]) == 32:
            key = z85.encode(frames[6])
            if key.decode() in self._callers:
                status, text, user = b"200", b"OK", key
            else:
                self.denied.add(frames[3].decode(errors="replace"), key=key.decode())
        sock.send_multipart([b"1.0", request_id, status, text, user, b""], zmq.NOBLOCK)

    def _handshake_failed(self, why: str) -> Handler:
        """For a peer that left before its handshake was over, spoke no CURVE, or another server's."""
        return lambda _, endpoint: self.failed.add(endpoint, why=why)


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""
