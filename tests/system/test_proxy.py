"""docs/http.md's nginx, the real one, before a real gateway and daemon."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tests.e2e.conftest import rows, template, trained
from tests.http.conftest import Gateway, _loop_of_gevent, _maker, _take_down
from tests.registry.conftest import Trained
from tests.support import wait_until

from modeld.http.tokens import READ

__all__ = ["_loop_of_gevent", "rows", "template", "trained"]

pytestmark = pytest.mark.system

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
NAME = "models.example.com"


def block(language: str, words: str) -> str:
    """The page's block of this language that has these words."""
    (found,) = [
        each for each in re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S) if words in each
    ]
    return str(found)


@pytest.fixture(scope="module")
def gateway(template: Path) -> Iterator[Gateway]:
    """With the page's settings for a gateway behind a proxy."""
    directories: list[Path] = []
    made: list[Gateway] = []
    assert f"behind_proxy: true, allowed_hosts: [{NAME}]" in block("yaml", "behind_proxy")
    try:
        settings = ("http.behind_proxy=true", f"http.allowed_hosts=[{NAME}]", "http.page=true")
        yield _maker(directories, made, template)(*settings)
    finally:
        _take_down(directories, made)


@pytest.fixture(scope="module")
def proxy(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The page's block between the least that nginx needs around it; its port and its certificate."""
    directory = tmp_path_factory.mktemp("nginx")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    shown = block("nginx", "server_name")
    for theirs, ours in (
        ("127.0.0.1:8080", gateway.address),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        (f"/etc/ssl/certs/{NAME}.pem", str(cert)),
        (f"/etc/ssl/private/{NAME}.key", str(key)),
    ):
        assert theirs in shown
        shown = shown.replace(theirs, ours)
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off;\npid {directory}/pid;\nerror_log {directory}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{shown}}}\n"
    )
    log = directory / "error.log"
    process = subprocess.Popen(["nginx", "-p", directory, "-c", config, "-e", log], stdin=subprocess.DEVNULL)

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, 30)
        yield port, cert
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def client(proxy: tuple[int, Path]) -> Iterator[httpx.Client]:
    port, cert = proxy
    with httpx.Client(
        base_url=f"https://127.0.0.1:{port}",
        verify=ssl.create_default_context(cafile=str(cert)),
        headers={"Host": f"{NAME}:{port}"},
        trust_env=False,
        timeout=60,
    ) as made:
        yield made


def test_only_health_is_open_to_those_who_come_through(client: httpx.Client, gateway: Gateway) -> None:
    """They come from loopback, as nginx does, and need a token all the same; other names are nobody's."""
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/alpha").status_code == client.get("/metrics").status_code == 401
    token = gateway.bearer(READ)
    assert client.get("/v2/models/alpha", headers=token).json()["versions"] == ["1.0.0"]
    assert client.get("/api/v1/models/alpha/current", headers=token).json()["version"] == "1.0.0"
    assert client.get("/v2", headers={"Host": "evil.example.com"}).status_code == 421


def test_tritonclient_predicts_through_it(
    proxy: tuple[int, Path], gateway: Gateway, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Bytes both ways, over TLS; bit for bit."""
    port, cert = proxy
    tensor = triton.InferInput("features", list(rows.shape), "FP64")
    tensor.set_data_from_numpy(rows)
    with triton.InferenceServerClient(
        f"127.0.0.1:{port}", ssl=True, ssl_options={"ca_certs": str(cert)}
    ) as client:
        reply = client.infer("alpha", [tensor], headers=gateway.bearer(READ))
    expected = trained["1.0.0"].booster.predict(rows, num_threads=1)
    np.testing.assert_array_equal(reply.as_numpy("predictions"), expected)


def test_an_upload_passes_in_chunks(
    client: httpx.Client, gateway: Gateway, trained: dict[str, Trained]
) -> None:
    """nginx doesn't keep it first; its answer names the version."""
    data = trained["1.2.0"].path.read_bytes()
    pieces = (data[at : at + 1000] for at in range(0, len(data), 1000))
    reply = client.post(
        "/api/v1/models/alpha?version=3.0.0&golden=none", content=pieces, headers=gateway.bearer()
    )
    assert (reply.status_code, reply.json()["version"]) == (201, "3.0.0"), reply.text


def test_the_page_signs_in_and_opens_its_socket(
    client: httpx.Client, gateway: Gateway, proxy: tuple[int, Path]
) -> None:
    """The cookie is for TLS alone; a page of this name may open the WebSocket, one of another may not."""
    token = gateway.bearer(READ)["Authorization"].removeprefix("Bearer ")
    origin = {"Origin": f"https://{NAME}:{proxy[0]}"}
    reply = client.post("/ui/login", data={"token": token}, headers=origin)
    assert reply.status_code == 303
    assert {"HttpOnly", "Secure", "SameSite=strict"} <= set(reply.headers["set-cookie"].split("; "))
    assert urlsplit(reply.headers["location"]).path == "/ui/"
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    path = "/ui/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    for asks, status in ((origin, 101), ({"Origin": "https://evil.example.com"}, 403)):
        with client.stream("GET", path, headers=upgrade | asks) as answer:
            assert answer.status_code == status
