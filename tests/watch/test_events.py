"""File events: they wake, they are re-armed where a directory became another one, and they can be off."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import wait_until

from modeld.watch import events as events_module
from modeld.watch.events import Events


class Wakes:
    """A pipe that events write to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def any(self) -> bool:
        try:
            return bool(os.read(self.reader, 65536))
        except BlockingIOError:
            return False

    def after(self, path: Path) -> bool:
        """Whether a change at `path` wakes."""
        while self.any():
            pass
        path.write_text("changed")
        wait_until(self.any)
        return True


@pytest.fixture
def wakes() -> Iterator[Wakes]:
    made = Wakes()
    yield made
    os.close(made.reader)
    os.close(made.writer)


@pytest.fixture
def events(wakes: Wakes) -> Iterator[Events]:
    made = Events(wakes.writer, enabled=True)
    yield made
    made.close()


def test_a_change_wakes(events, wakes, tmp_path):
    """A file that is written in an armed directory writes to the pipe; arming twice is arming once."""
    for _ in range(2):
        events.arm([tmp_path, tmp_path / "absent"])
    assert wakes.after(tmp_path / "file")
    assert events.mode == "inotify+poll"


@pytest.mark.parametrize("how", ["renamed away", "deleted"])
def test_a_directory_that_was_replaced_is_watched_anew(events, wakes, tmp_path, how):
    """The observer is silent about the new directory; the next poll re-arms it."""
    directory = tmp_path / "log"
    directory.mkdir()
    events.arm([directory])
    if how == "renamed away":
        directory.rename(tmp_path / "away")
    else:
        shutil.rmtree(directory)
    directory.mkdir()

    def woken() -> bool:
        events.arm([directory])
        (directory / "file").write_text("changed")
        return wakes.any()

    while wakes.any():
        pass
    wait_until(woken, poll_s=0.05)
    assert wakes.after(directory / "another")


def test_a_directory_that_is_no_longer_wanted_is_let_go(events, wakes, tmp_path):
    """Exactly the directories of the last call are watched."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    events.arm([first, second])
    events.arm([second])
    assert set(events._watches) == {second}
    assert wakes.after(second / "file")


def test_without_inotify_the_mode_says_so(wakes, tmp_path):
    """`watch.inotify: false` starts no observer at all."""
    events = Events(wakes.writer, enabled=False)
    events.arm([tmp_path])
    assert events.mode == "poll only (watch.inotify is false)"
    assert events._observer is None
    events.close()


def test_an_observer_that_fails_leaves_polling_until_it_works_again(events, wakes, tmp_path, monkeypatch):
    """The limit on watches is a reason in the mode, not an error."""

    class Failing:
        def __init__(self) -> None:
            raise OSError(28, "inotify watch limit reached")

    with monkeypatch.context() as patched:
        patched.setattr(events_module, "Observer", Failing)
        events.arm([tmp_path])
        assert events.mode == "poll only ([Errno 28] inotify watch limit reached)"
    events.arm([tmp_path])
    assert events.mode == "inotify+poll"
    assert wakes.after(tmp_path / "file")


def test_a_full_pipe_is_no_error(events, wakes, tmp_path):
    """A pipe that nobody reads wakes as well as one byte does."""
    fcntl.fcntl(wakes.writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(wakes.writer, b"!" * 4096)
    events.arm([tmp_path])
    for number in range(20):
        (tmp_path / str(number)).write_text("x")
    assert events._observer is not None
    assert events._observer.is_alive()
