"""Tokens, hosts, origins, and where the gateway refuses to start."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.e2e.conftest import MODELD
from tests.http.conftest import Gateway, Serve

from modeld.config import Config, HttpSettings, JwtSettings, Source
from modeld.http import create_app
from modeld.http.problems import ApiError
from modeld.http.server import check
from modeld.http.tokens import OPERATE, READ, Gatekeeper, is_loopback, issue
from modelreg.errors import ConfigError

CURRENT = "/api/v1/models/alpha/current"
SECRET = "a secret that only this test knows, not short"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", CURRENT, "model:read"),
        ("POST", "/api/v1/models/alpha", "model:write"),
        ("POST", "/api/v1/models/alpha/1.1.0/validate", "model:write"),
        ("POST", "/api/v1/models/alpha/1.1.0/promote", "model:operate"),
        ("POST", "/api/v1/models/alpha/rollback", "model:operate"),
        ("POST", "/model/reload", "model:operate"),
    ],
)
def test_each_act_needs_its_scope(gateway: Gateway, method, path, scope):
    """No token: 401 with a challenge; every other scope: 403 that names the one that lacks."""
    body = (
        {"reason": "x", "to": "staging"}
        if "promote" in path
        else {"reason": "x"}
        if "rollback" in path
        else None
    )
    bare = gateway.client.request(method, path, json=body)
    assert (bare.status_code, bare.headers["www-authenticate"]) == (401, 'Bearer realm="modeld"')
    others = {"model:read", "model:write", "model:operate"} - {scope}
    lacking = gateway.client.request(method, path, json=body, headers=gateway.bearer(*others))
    assert lacking.status_code == 403
    assert scope in lacking.json()["detail"]
    allowed = gateway.client.request(method, path, json=body, headers=gateway.bearer(scope))
    assert allowed.status_code not in (401, 403)


def forged(**changes: object) -> str:
    claims = {"sub": "x", "aud": "modeld", "scope": "model:read", "exp": time.time() + 60, **changes}
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, SECRET, algorithm="HS256")


def unsigned() -> str:
    head, body = ({"alg": "none"}, {"sub": "x", "aud": "modeld", "scope": "model:read", "exp": 9e9})
    return (
        ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (head, body)
        )
        + "."
    )


@pytest.mark.parametrize(
    "token",
    [
        forged(exp=time.time() - 60),
        forged(exp=None),
        forged(aud="another"),
        forged(aud=None),
        forged(sub=None),
        forged(scope=None),
        forged(nbf=time.time() + 600),
        jwt.encode(
            {"sub": "x", "aud": "modeld", "scope": "model:read", "exp": 9e9}, "z" * 40, algorithm="HS256"
        ),
        unsigned(),
        "x.y.z",
        "a" * 9000,
    ],
    ids=[
        "expired",
        "no exp",
        "aud",
        "no aud",
        "no sub",
        "no scope",
        "early",
        "key",
        "none",
        "text",
        "long",
    ],
)
def test_a_token_that_isnt_valid_is_refused(gateway: Gateway, token):
    """401, whatever is wrong with it; the log doesn't have it."""
    reply = gateway.client.get(CURRENT, headers={"Authorization": f"Bearer {token}"})
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
    assert token not in gateway.log.read_text()


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
def test_tokens_by_a_private_key_that_the_gateway_doesnt_have(tmp_path: Path, algorithm):
    """The gateway checks with the public key; a token signed with that key's text as a secret is refused."""
    made = (
        rsa.generate_private_key(65537, 2048)
        if algorithm == "RS256"
        else ed25519.Ed25519PrivateKey.generate()
    )
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    settings = JwtSettings(algorithm=algorithm, key_file=str(public))
    keeper = Gatekeeper(HttpSettings(jwt=settings))
    token = issue(settings, private, "desk", [READ], 60)
    assert keeper.check(f"Bearer {token}", READ).subject == "desk"
    with pytest.raises(ApiError, match="lacks the scope"):
        keeper.check(f"Bearer {token}", OPERATE)
    with pytest.raises(ApiError, match="isn't valid"):
        keeper.check(f"Bearer {forged()}", READ)
    with pytest.raises(ConfigError, match="a private key"):
        Gatekeeper(HttpSettings(jwt=JwtSettings(algorithm=algorithm, key_file=str(private))))
    with pytest.raises(ConfigError, match="not a private key"):
        issue(settings, public, "desk", [READ], 60)


def test_a_key_that_cant_be_used_is_told_at_start(tmp_path: Path):
    """Absent, short, readable by everybody, of another kind: the setting and the file are named."""
    key = tmp_path / "key"
    settings = HttpSettings(jwt=JwtSettings(key_file=str(key)))
    with pytest.raises(ConfigError, match="can't be read"):
        Gatekeeper(settings)
    key.write_text("short")
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="at least 32"):
        Gatekeeper(settings)
    key.write_text(SECRET)
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Gatekeeper(settings)
    with pytest.raises(ConfigError, match="not a public key"):
        Gatekeeper(HttpSettings(jwt=JwtSettings(algorithm="EdDSA", key_file=str(key))))


def test_without_a_key_the_registry_can_be_read_and_not_changed(serve: Serve):
    """Loopback alone protects it, so it changes nothing: 403 says which setting is missing."""
    gateway = serve(key=False, start=False)
    assert gateway.client.get(CURRENT).json()["version"] == "1.0.0"
    for path in ("/api/v1/models/alpha/rollback", "/model/reload", "/v2/repository/models/alpha/load"):
        reply = gateway.client.post(path, json={"reason": "x"}, headers=gateway.bearer())
        assert reply.status_code == 403
        assert "http.jwt.key_file" in reply.text


def test_with_required_always_only_health_is_open(serve: Serve):
    """Predictions, metadata and metrics need `model:read` then, as they do beyond loopback and behind a proxy."""
    assert Gatekeeper(HttpSettings(behind_proxy=True)).everything
    gateway = serve("http.jwt.required=always")
    row = {"inputs": [{"name": "f", "shape": [1, 4], "datatype": "FP64", "data": [0.1, 0.1, 0.1, 0.1]}]}
    for method, path in (
        ("POST", "/v2/models/alpha/infer"),
        ("GET", "/v2/models/alpha"),
        ("GET", "/metrics"),
    ):
        assert gateway.client.request(method, path, json=row).status_code == 401
        reply = gateway.client.request(method, path, json=row, headers=gateway.bearer("model:read"))
        assert reply.status_code == 200, reply.text
    assert gateway.client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example.com"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "[::1"}, 421),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "10.1.2.3"}, 200),
        ({"Host": "models.example.com"}, 200),
        ({"Origin": "https://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://desk.example.com"}, 200),
        ({"Origin": "http://localhost", "Host": "localhost"}, 200),
        ({"Origin": "http://localhost:99", "Host": "localhost"}, 403),
        ({"Origin": "http://["}, 403),
    ],
)
def test_pages_and_names_of_others_are_refused(template, headers, status):
    """A name that isn't ours (DNS rebinding) and a page of another site get no answer, on any path."""
    http = HttpSettings(allowed_hosts=["Models.example.com"], allowed_origins=["https://desk.example.com"])
    app = create_app(Config(source=Source(root=str(template)), http=http))

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            return [(await client.get(path)).status_code for path in ("/v2", "/api/v1/models", "/nowhere")]

    assert asyncio.run(ask()) == [status, status, 404 if status == 200 else status]


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_nobody_would_read_is_ended_at_a_mebibyte(gateway: Gateway, chunked):
    """Without a token not even that is read; in either protocol's shape of an error."""

    def body() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * (1 << 20)

    def ask(path: str, headers: dict[str, str]) -> httpx.Response:
        content = body() if chunked else b" " * (3 << 20)
        return gateway.client.post(path, content=content, headers=headers)

    for path in ("/api/v1/models/alpha/1.1.0/promote", "/api/v1/models/alpha/rollback"):
        if chunked:  # a length that is announced is refused before anybody is asked who it is
            assert ask(path, {}).status_code == 401
            assert ask(path, gateway.bearer(READ)).status_code == 403
        reply = ask(path, gateway.bearer(OPERATE))
        assert (reply.status_code, reply.json()["code"]) == (413, "TOO_LARGE"), reply.text
        assert reply.headers["content-type"] == "application/problem+json"
    reply = ask("/v2/repository/index", {})
    assert (reply.status_code, reply.json()["code"]) == (413, "TOO_LARGE")
    assert set(reply.json()) == {"error", "code"}
    assert ask("/v2/models/alpha/infer", {}).json()["code"] == ("TOO_LARGE" if chunked else "MALFORMED")


def test_a_token_is_verified_once(template, tmp_path, monkeypatch):
    """For a request of the registry's, with a body and without."""
    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(0o600)
    verified = []
    decode = jwt.decode
    monkeypatch.setattr(jwt, "decode", lambda *given, **named: verified.append(1) or decode(*given, **named))
    http = HttpSettings(jwt=JwtSettings(key_file=str(key)))
    app = create_app(Config(source=Source(root=str(template)), http=http))
    headers = {"Authorization": f"Bearer {issue(http.jwt, key, 'desk', [READ, OPERATE], 60)}"}
    body = {"reason": "x", "to": "staging", "dry_run": True}

    async def ask() -> list[tuple[int, int]]:
        transport = httpx.ASGITransport(app)
        found = []
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            for request in (
                client.get(CURRENT),
                client.post("/api/v1/models/alpha/1.1.0/promote", json=body),
            ):
                verified.clear()
                found.append(((await request).status_code, len(verified)))
        return found

    assert asyncio.run(ask()) == [(200, 1), (200, 1)]


def test_where_it_may_listen():
    """Beyond loopback only with a key for tokens, and with TLS here or in a proxy."""
    assert [host for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost") if not is_loopback(host)] == []
    assert [host for host in ("0.0.0.0", "::", "10.0.0.1", "example.com") if is_loopback(host)] == []
    key = JwtSettings(key_file="/x")
    check(HttpSettings())
    check(HttpSettings(host="0.0.0.0", jwt=key, behind_proxy=True))
    for settings, told in (
        (HttpSettings(host="0.0.0.0", behind_proxy=True), "jwt.key_file"),
        (HttpSettings(behind_proxy=True), "jwt.key_file"),
        (HttpSettings(host="::", jwt=key), "plain text"),
        (HttpSettings(tls_cert="/x"), "go together"),
        (HttpSettings(tls_cert="/absent", tls_key="/absent"), "can't be read"),
    ):
        with pytest.raises(ConfigError, match=told):
            check(settings)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(MODELD), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_the_command_refuses_in_one_line(gateway: Gateway, tmp_path: Path):
    """Exit status 2 for a setting, 4 for a port in use; no traceback."""
    done = command("http", "--host", "0.0.0.0")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    port = gateway.address.rpartition(":")[2]
    done = command("--set", f"source.root={tmp_path}", "http", "--port", port)
    assert done.returncode == 4, done.stderr
    assert "choose another with --port" in done.stderr


def test_the_token_command(gateway: Gateway):
    """It prints a token that works; a scope that isn't one is refused."""
    key = f"http.jwt.key_file={gateway.key}"
    done = command("--set", key, "token", "--subject", "desk", "--scope", "model:read", "--expires", "60")
    reply = gateway.client.get(CURRENT, headers={"Authorization": f"Bearer {done.stdout.strip()}"})
    assert (done.returncode, reply.status_code) == (0, 200)
    done = command("--set", key, "token", "--subject", "desk", "--scope", "everything")
    assert (done.returncode, done.stdout) == (2, "")
    assert command("token", "--subject", "desk", "--scope", "model:read").returncode == 2


def test_tls(serve: Serve, tmp_path: Path):
    """With a certificate it speaks HTTPS alone."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    gateway = serve(f"http.tls_cert={cert}", f"http.tls_key={key}", start=False)
    assert gateway.url.startswith("https://")
    with httpx.Client(verify=ssl.create_default_context(cafile=str(cert)), trust_env=False) as client:
        assert client.get(f"{gateway.url}/v2").json()["name"] == "modeld"
