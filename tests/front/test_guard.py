"""What the security settings leave open is refused by name; who may do what; and how refusals are logged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modeld import keys
from modeld.config import Config
from modeld.front.access import NEEDED, Caller, read_allow_list
from modeld.front.admin import _OPS
from modeld.front.data import ADMIN_OPS
from modeld.front.exposure import find_problems, is_loopback
from modeld.front.guard import LOGGED, Guard, Refusals
from modelreg.errors import ConfigError

MODELD = Path(sys.executable).with_name("modeld")
KEY = keys.generate().public


def config(**settings: Any) -> Config:
    return msgspec.convert(settings, Config)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"endpoints": {"data": ["tcp://0.0.0.0:1"]}},
            "endpoints.data.0: tcp://0.0.0.0:1: tcp beyond loopback needs",
        ),
        ({"endpoints": {"data": ["ipc:///x", "tcp://*:1"]}}, "endpoints.data.1: .* beyond loopback"),
        ({"endpoints": {"data": ["tcp://[::]:1"]}}, "beyond loopback"),
        ({"endpoints": {"data": ["tcp://eth0:1"]}}, "beyond loopback"),
        ({"endpoints": {"events": "tcp://10.0.0.1:1"}}, "endpoints.events: .* beyond loopback"),
        ({"endpoints": {"admin": "tcp://127.0.0.1:1"}}, "endpoints.admin: .*operators over tcp need CURVE"),
        ({"endpoints": {"admin": "ipc://@abstract"}}, "endpoints.admin: .*abstract socket"),
        ({"endpoints": {"data": ["udp://127.0.0.1:1"]}}, "neither ipc://PATH nor tcp://HOST:PORT"),
        ({"security": {"curve_secret_file": "x"}}, "security.allow_list: is needed"),
        ({"security": {"allow_list": "x"}}, "security.curve_secret_file: is needed"),
        ({"security": {"group": "nobody-here"}}, "security.group: there is no group 'nobody-here'"),
        (
            {"trial": {"require_signature": ["/no/key.pem"]}},
            "trial.require_signature: /no/key.pem: can't be read",
        ),
        ({"trial": {"allow_joblib": "signed"}}, "trial.allow_joblib: signed needs keys"),
        ({"runtime_dir": "/run/" + "x" * 100}, "endpoints.admin: .* at most 107 bytes; shorten runtime_dir"),
    ],
)
def test_an_open_door_is_refused(settings: dict[str, Any], problem: str) -> None:
    """Each with its key and what to do."""
    with pytest.raises(ConfigError, match=problem):
        Guard.open(config(**settings))


def test_closed_doors_pass() -> None:
    """The defaults, loopback in each spelling, and the network with CURVE."""
    assert find_problems(Config()) == []
    assert (
        find_problems(config(endpoints={"data": ["tcp://localhost:1", "tcp://[::1]:1", "tcp://127.8.8.8:*"]}))
        == []
    )
    curve = {"curve_secret_file": "x", "allow_list": "y"}
    everywhere = {"data": ["tcp://*:1"], "admin": "tcp://*:2", "events": "tcp://*:3"}
    assert find_problems(config(endpoints=everywhere, security=curve)) == []
    assert not is_loopback("lo")


def test_key_files_are_looked_at_too(tmp_path: Path) -> None:
    """A secret that others can read and a broken list: both are told, and nothing is opened."""
    _, secret = keys.write_pair(tmp_path, "server", keys.generate())
    (tmp_path / "allow.yaml").write_text("keys: [{key: x, name: a b, roles: []}]")
    security = {"curve_secret_file": str(secret), "allow_list": str(tmp_path / "allow.yaml")}
    secret.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        Guard.open(config(security=security))
    told = str(caught.value)
    assert "security.curve_secret_file" in told
    for key in ("keys.0.name", "keys.0.roles"):
        assert f"security.allow_list: {tmp_path}/allow.yaml:1: {key}" in told
    (tmp_path / "allow.yaml").unlink()
    with pytest.raises(ConfigError, match=r"security.allow_list: .*can't read"):
        Guard.open(config(security=security))


def test_serve_and_check_config_end_with_status_2(tmp_path: Path) -> None:
    """One line for each mistake on stderr, before a socket is bound."""
    settings = {"endpoints": {"admin": "tcp://127.0.0.1:1"}, "security": {"group": "nobody-here"}}
    (tmp_path / "modeld.yaml").write_text(yaml.safe_dump(settings))
    for verb in ("serve", "check-config"):
        done = subprocess.run(
            [MODELD, "--config", tmp_path / "modeld.yaml", verb], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 2)
        assert done.stderr.startswith(
            "modeld: endpoints.admin: tcp://127.0.0.1:1: operators over tcp need CURVE"
        )


def test_a_key_that_signs_is_read_before_the_first_trial(tmp_path: Path) -> None:
    """Any form of an Ed25519 public key."""
    public = Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    trial = {"require_signature": [str(tmp_path / "key.pem")], "allow_joblib": "signed"}
    assert find_problems(config(trial=trial)) == []


@pytest.mark.parametrize(
    ("listed", "problem"),
    [
        ([{"key": "short", "name": "a", "roles": ["read"]}], "keys.0.key: not a CURVE public key"),
        ([{"key": KEY, "name": "a", "roles": ["fly"]}], "keys.0.roles.0: Invalid enum value 'fly'"),
        ([{"key": KEY, "name": "a", "roles": ["read"], "role": 1}], "keys.0.role: unknown key"),
        (
            [{"key": KEY, "name": n, "roles": ["read"]} for n in "ab"],
            "keys.1: b: this key or this name is",
        ),
    ],
)
def test_a_broken_list_is_refused_by_line(tmp_path: Path, listed: list[Any], problem: str) -> None:
    """File, key and problem."""
    (tmp_path / "allow.yaml").write_text(yaml.safe_dump({"keys": listed}))
    with pytest.raises(ConfigError, match=problem):
        read_allow_list(tmp_path / "allow.yaml")


def test_a_list_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    """Whoever writes it lets himself in."""
    path = tmp_path / "allow.yaml"
    path.write_text(yaml.safe_dump({"keys": [{"key": KEY, "name": "a", "roles": ["read"]}]}))
    assert read_allow_list(path) == {KEY: Caller("key:a", frozenset({"read"}))}
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod o-w"):
        read_allow_list(path)


def test_every_operation_needs_a_role() -> None:
    """No admin operation is forgotten, and no role means nothing at all."""
    assert set(_OPS) == ADMIN_OPS == NEEDED.keys() - {"predict"}
    roles: dict[str, Caller] = {
        role: Caller("x", frozenset({role})) for role in ("predict", "read", "operate")
    }
    may: Callable[[str], set[str]] = lambda op: {role for role, caller in roles.items() if caller.may(op)}  # noqa: E731
    assert may("predict") == {"predict"}
    assert may("status") == {"read", "operate"}
    assert may("rollback") == {"operate"}
    assert may("metadata") == {"predict", "read", "operate"}
    assert not any(Caller("x", frozenset()).may(op) for op in ("live", "predict", "status", "rollback"))


def test_a_flood_of_refusals_costs_a_few_lines() -> None:
    """The first of an interval one by one, then how many more, and from where most of them."""
    timers: list[Callable[[], None]] = []
    with structlog.testing.capture_logs() as lines:
        refusals = Refusals("handshake_denied", lambda _, callback: timers.append(callback))
        for at in range(100_000):
            refusals.add(f"10.0.{at % 50}.{at % 200}" if at % 2 else "10.9.9.9")
        assert len(lines) == LOGGED
        assert len(timers) == 1
        timers.pop()()
        assert len(lines) == LOGGED + 1
        assert lines[-1]["more"] == 100_000 - LOGGED
        assert next(iter(lines[-1]["most"])) == "10.9.9.9"
        refusals.add("10.1.1.1")
        assert len(lines) == LOGGED + 2
        timers.pop()()  # nothing was held back: nothing more to tell
        assert len(lines) == LOGGED + 2
    assert refusals.total == 100_001
