"""Several servers, some of them silent, busy or gone: the same behaviour from the blocking and the asyncio client."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.client.fake_server import FakeServer, answer, message
from tests.support import wait_until

from modeld.client import AsyncClient, Client
from modeld.client.errors import Busy, ClientClosed, Malformed, RequestTimeout, ServerError


class Loop:
    """An AsyncClient behind blocking calls, so that one test does for both."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        def run(*arguments: Any, **options: Any) -> Any:
            return self._runner.run(found(*arguments, **options))

        return run

    def shut(self) -> None:
        self.close()
        self._runner.close()


Make = Callable[..., Any]


@pytest.fixture(params=["blocking", "asyncio"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Any] = []

    def build(*arguments: Any, **options: Any) -> Any:
        made.append((Client if request.param == "blocking" else Loop)(*arguments, **options))
        return made[-1]

    yield build
    for client in made:
        client.shut() if isinstance(client, Loop) else client.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[FakeServer]]:
    started = [FakeServer(f"ipc://{tmp_path}/{name}").start() for name in "ab"]
    for number, server in enumerate(started):
        server.handler = lambda header, _raw, number=number: [answer(header, [float(number)])]
    yield started
    for server in started:
        server.stop()


def endpoints(servers: list[FakeServer]) -> list[str]:
    return [server.endpoint for server in servers]


def busy(header: dict[str, Any], _raw: list[bytes]) -> list[list[bytes]]:
    return [message(id=header["id"], error="full", code="BUSY", parameters={"retryable": True})]


def value(client: Any) -> float:
    return float(client.predict([1.0]).values[0])


def test_the_first_endpoint_is_asked_first(make: Make, servers: list[FakeServer]) -> None:
    """The others hear nothing while it answers; the reply says who answered."""
    client = make(endpoints(servers), timeout_s=5)
    assert [value(client) for _ in range(3)] == [0.0] * 3
    assert client.predict([1.0]).endpoint == servers[0].endpoint
    assert servers[1].headers == []


@pytest.mark.parametrize("refuse", [busy, lambda _header, _raw: []], ids=["busy", "silent"])
def test_the_next_is_asked_with_the_same_id_and_remembered(
    make: Make, servers: list[FakeServer], refuse: Any
) -> None:
    """After BUSY or try_timeout_s the second answers; the next request goes there at once."""
    servers[0].handler = refuse
    client = make(endpoints(servers), timeout_s=5, try_timeout_s=0.2)
    assert value(client) == 1.0
    assert servers[0].headers[0]["id"] == servers[1].headers[0]["id"]
    assert client.endpoint == servers[1].endpoint
    assert value(client) == 1.0
    assert len(servers[0].headers) == 1


def test_the_late_reply_to_an_earlier_try_is_taken(make: Make, servers: list[FakeServer]) -> None:
    """A slow first server and a silent second: the first one's reply is as good as ever."""
    asked_second = threading.Event()

    def slow(header: dict[str, Any], _raw: list[bytes]) -> list[list[bytes]]:
        assert asked_second.wait(5)
        return [answer(header, [7.0])]

    def silent(_header: dict[str, Any], _raw: list[bytes]) -> list[list[bytes]]:
        asked_second.set()
        return []

    servers[0].handler, servers[1].handler = slow, silent
    assert value(make(endpoints(servers), timeout_s=5, try_timeout_s=0.1)) == 7.0


def test_an_endpoint_where_nobody_listens_is_passed_over(
    make: Make, servers: list[FakeServer], tmp_path: Path
) -> None:
    """Also at the first request, and within a fraction of the timeout."""
    client = make([f"ipc://{tmp_path}/nobody", servers[1].endpoint], timeout_s=10)
    started = time.monotonic()
    assert value(client) == 1.0
    assert time.monotonic() - started < 3


def test_a_server_that_dies_between_requests_is_replaced(make: Make, servers: list[FakeServer]) -> None:
    """The connection is gone, so nothing is sent into the void: the second answers soon."""
    client = make(endpoints(servers), timeout_s=10)
    assert value(client) == 0.0
    servers[0].stop()
    started = time.monotonic()
    assert value(client) == 1.0
    assert time.monotonic() - started < 6


def test_one_server_is_asked_again_with_the_same_id(make: Make, servers: list[FakeServer]) -> None:
    """retries=2 on a single endpoint: the third try is answered."""
    server = servers[0]
    server.handler = lambda header, _raw: [answer(header, [3.0])] if len(server.headers) == 3 else []
    client = make(server.endpoint, timeout_s=5, try_timeout_s=0.05, retries=2)
    assert value(client) == 3.0
    assert {header["id"] for header in server.headers} == {server.headers[0]["id"]}


def test_both_replies_to_one_request_are_counted_once(make: Make, servers: list[FakeServer]) -> None:
    """A second reply with an id that was answered is dropped, not taken for the next request's."""
    server = servers[0]
    server.handler = lambda header, _raw: [answer(header, [float(header["features"][0])])] * 2
    client = make(server.endpoint, timeout_s=5)
    assert [float(client.predict([float(at)]).values[0]) for at in range(20)] == [
        float(at) for at in range(20)
    ]


def test_when_everybody_is_busy_that_is_the_error(make: Make, servers: list[FakeServer]) -> None:
    """The tries end with the server's own word."""
    for server in servers:
        server.handler = busy
    client = make(endpoints(servers), timeout_s=5)
    with pytest.raises(Busy):
        client.predict([1.0])


def test_a_final_error_is_not_asked_elsewhere(make: Make, servers: list[FakeServer]) -> None:
    """MALFORMED would be MALFORMED there too."""
    servers[0].handler = lambda header, _raw: [message(id=header["id"], error="?", code="MALFORMED")]
    with pytest.raises(Malformed):
        make(endpoints(servers), timeout_s=5).predict([1.0])
    assert servers[1].headers == []


def test_silence_everywhere_is_a_timeout_in_time(make: Make, servers: list[FakeServer]) -> None:
    """timeout_s bounds all tries together."""
    for server in servers:
        server.handler = lambda _header, _raw: []
    client = make(endpoints(servers), timeout_s=0.2)
    started = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        client.predict([1.0])
    assert 0.19 < time.monotonic() - started < 3
    assert caught.value.sent


def test_health_asks_each_and_goes_back_to_the_first(make: Make, servers: list[FakeServer]) -> None:
    """Ready or not, with the reason; the first that is ready is preferred again."""
    client = make(endpoints(servers), timeout_s=5)
    servers[0].handler = busy
    assert value(client) == 1.0
    servers[0].handler = lambda header, _raw: [message(id=header["id"], ready=True)]
    servers[1].handler = lambda header, _raw: [message(id=header["id"], ready=False, reason="draining")]
    found = [(line.endpoint, line.ready, line.reason) for line in client.health("alpha")]
    assert found == [(servers[0].endpoint, True, ""), (servers[1].endpoint, False, "draining")]
    assert servers[1].headers[-1]["model_name"] == "alpha"
    assert client.endpoint == servers[0].endpoint


def test_health_of_nobody(make: Make, tmp_path: Path) -> None:
    """A server that isn't there is a line, not an exception."""
    (line,) = make(f"ipc://{tmp_path}/nobody", timeout_s=0.05).health()
    assert (line.ready, line.reason) == (False, "no answer within 0.05 s")


def test_a_closed_client_says_so(make: Make, servers: list[FakeServer]) -> None:
    """Instead of an error from deep inside ZeroMQ; closing twice is harmless."""
    client = make(endpoints(servers), timeout_s=5)
    assert value(client) == 0.0
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        client.predict([1.0])


@pytest.mark.parametrize("bad", [{"endpoint": []}, {"retries": -1}, {"events": "ipc:///tmp/e"}])
def test_wrong_arguments_are_told(make: Make, bad: dict[str, Any]) -> None:
    """No endpoint, a negative number of retries, events that nobody would hear."""
    with pytest.raises(ValueError, match=r"needed|together"):
        make(**({"endpoint": "ipc:///tmp/x"} | bad))


def test_threads_share_a_client_by_turns(servers: list[FakeServer]) -> None:
    """Each gets the answer to its own question."""
    servers[0].handler = lambda header, _raw: [answer(header, [float(header["features"][0])])]
    wrong: list[float] = []
    with Client(servers[0].endpoint, timeout_s=10) as client:

        def ask(number: float) -> None:
            for _ in range(50):
                got = float(client.predict([number]).values[0])
                if got != number:
                    wrong.append(got)

        threads = [threading.Thread(target=ask, args=(float(number),)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_thread_waits_no_longer_than_its_timeout_for_its_turn(servers: list[FakeServer]) -> None:
    """Another thread's slow request costs this one its timeout, and the message says what to do."""
    servers[0].handler = lambda _header, _raw: []
    with Client(servers[0].endpoint, timeout_s=2) as client:
        other = threading.Thread(target=client.health)
        other.start()
        wait_until(lambda: servers[0].headers)
        client.timeout_s = 0.05
        with pytest.raises(RequestTimeout, match="another thread") as caught:
            client.live()
        assert not caught.value.sent
        other.join()


def test_tasks_have_requests_under_way_at_the_same_time(servers: list[FakeServer]) -> None:
    """Replies come in another order than requests went, and each task gets its own."""
    held: list[list[bytes]] = []

    def all_at_once(header: dict[str, Any], _raw: list[bytes]) -> list[list[bytes]]:
        held.append(answer(header, [float(header["features"][0])]))
        return held[::-1] if len(held) == 20 else []

    servers[0].handler = all_at_once

    async def ask() -> list[float]:
        async with AsyncClient(servers[0].endpoint, timeout_s=10) as client:
            got = await asyncio.gather(*(client.predict([float(at)]) for at in range(20)))
        return [float(one.values[0]) for one in got]

    assert asyncio.run(ask()) == [float(at) for at in range(20)]


def test_a_cancelled_request_is_forgotten(servers: list[FakeServer]) -> None:
    """Its task ends at once, also before anything was sent, and the client goes on."""
    servers[0].handler = lambda header, _raw: [] if header["features"] == [0.0] else [answer(header, [1.0])]

    async def ask() -> float:
        async with AsyncClient(servers[0].endpoint, timeout_s=10) as client:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.predict([0.0]), 0.05)
            return float((await client.predict([1.0])).values[0])

    assert asyncio.run(ask()) == 1.0


def test_closing_ends_requests_under_way(servers: list[FakeServer]) -> None:
    """They raise ClientClosed instead of waiting for their timeout."""
    servers[0].handler = lambda _header, _raw: []

    async def ask() -> None:
        async with AsyncClient(servers[0].endpoint, timeout_s=60) as client:
            task = asyncio.create_task(client.live())
            while not servers[0].headers:
                await asyncio.sleep(0.001)
        with pytest.raises(ClientClosed):
            await task

    asyncio.run(ask())


def test_an_error_without_an_id_reaches_the_only_request_it_can_be_about(servers: list[FakeServer]) -> None:
    """With one under way it is raised there; with two it is nobody's, and both time out."""
    servers[0].handler = lambda _header, _raw: [message(id=None, error="?", code="MALFORMED")]

    async def ask(count: int) -> list[BaseException | bool]:
        async with AsyncClient(servers[0].endpoint, timeout_s=0.3) as client:
            await asyncio.gather(client.health(timeout_s=0.3))
            return list(await asyncio.gather(*(client.live() for _ in range(count)), return_exceptions=True))

    assert [type(one) for one in asyncio.run(ask(1))] == [Malformed]
    assert all(isinstance(one, (RequestTimeout, ServerError)) for one in asyncio.run(ask(2)))
