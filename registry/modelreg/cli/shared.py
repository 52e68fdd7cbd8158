"""What the verbs share: the global options, the arguments that recur, and how results are shown."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from modelreg import render
from modelreg.disk import DISK, Disk
from modelreg.errors import UsageError
from modelreg.refs import parse_ref
from modelreg.registry import Registry
from modelreg.results import Commit
from modelreg.settings import Settings

RefArgument = Annotated[
    str,
    typer.Argument(metavar="REF", help="NAME, NAME:VERSION, NAME:CHANNEL, NAME:production~1, NAME@sha256:…"),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes to the log.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")]
ExpectOption = Annotated[
    str | None,
    typer.Option(
        "--expect", metavar="VERSION", help="Only if the channel holds this version now, else exit 4."
    ),
]


OptionalReason = Annotated[str | None, typer.Option("--reason", help="Why; it goes to the log.")]


#: Files that are smaller than this together need no progress bar, in bytes.
LARGE_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Globals:
    root: Path
    json: bool
    quiet: bool
    yes: bool
    actor: str | None
    settings: Settings | None

    def open(self, *, heal: bool = True, disk: Disk = DISK) -> Registry:
        return Registry(self.root, self.actor, settings=self.settings, heal=heal, disk=disk)

    @property
    def shows_progress(self) -> bool:
        """Progress is for people who wait at a terminal."""
        return not self.quiet and sys.stderr.isatty()


class _CountedReads:
    """``os``, but what is read is told of."""

    def __init__(self, tick: Callable[[int], None]) -> None:
        self._tick = tick

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def read(self, fd: int, size: int) -> bytes:
        data = os.read(fd, size)
        self._tick(len(data))
        return data


@contextmanager
def reading(told: Globals, doing: str, files: Iterable[Path]) -> Iterator[Disk]:
    """What to read ``files`` with: a bar shows how far it has got, where they are large and somebody waits."""
    total = sum(path.stat().st_size for path in files if path.is_file()) if told.shows_progress else 0
    if total < LARGE_BYTES:
        yield DISK
        return
    with render.byte_bar(doing, total) as tick:
        yield Disk(_CountedReads(tick))


@contextmanager
def reading_version(told: Globals, doing: str, ref: str) -> Iterator[Registry]:
    """The registry, to read a version's files with; as ``reading``."""
    registry = told.open()
    name, found = registry.resolve(ref)
    directory = registry.version_dir(name, found.version)
    with reading(told, f"{doing} {name}:{found.version}", directory.glob("*")) as disk:
        yield registry if disk is DISK else told.open(disk=disk)


def committed(told: Globals, commit: Commit, dry_run: bool) -> None:
    """One line about a channel that moved: ``momentum: production moved from 1.0.0 to 1.1.0 (record 4)``."""
    verb = "would move" if dry_run else "moved"
    text = (
        f"{commit.name}: {commit.channel} {verb} from {commit.from_version or 'nothing'} to "
        f"{commit.to_version} (record {commit.seq})"
    )
    if not commit.changed:
        text = f"{commit.name}: {commit.channel} holds {commit.to_version} already (record {commit.seq}); nothing to do"
    out(told, {**dataclasses.asdict(commit), "dry_run": dry_run}, text, f"{commit.name}:{commit.to_version}")


def changed(told: Globals, commit: Commit, ref: str, what: str, dry_run: bool) -> None:
    """One line about a version that changed: ``ref is approved (record 7)``."""
    text = f"{ref} {'would be' if dry_run else 'is'} {what} (record {commit.seq})"
    out(told, {**dataclasses.asdict(commit), "did": what, "dry_run": dry_run}, text, ref)


def say_broken(registry: Registry, ref: str) -> None:
    """Say on stderr where the log of a reference's model is damaged: what is shown is the state before that."""
    name = parse_ref(ref).name
    if broken := registry.state(name).broken:
        say_read_only(name, broken)


def say_read_only(name: str, broken: str) -> None:
    """The one sentence about a damaged log."""
    render.say(f"model {name!r} is read-only, and its state is that of the records before: {broken}")


def out(told: Globals, data: dict[str, Any], text: str, name: str | None = None) -> None:
    if told.json:
        render.print_json(data)
    else:
        # At once: where both go to one file, messages on stderr stay behind it.
        print(name if told.quiet and name is not None else text, flush=True)


def said(told: Globals, text: str, dry_run: bool) -> None:
    """Say on stderr what would have happened, where stdout has only a name."""
    if dry_run and not told.quiet:
        render.say(f"{text}; nothing was changed")


def show_rows(told: Globals, columns: Sequence[str], rows: Sequence[Sequence[str]], data: Any) -> None:
    """A table for people, ``data`` as JSON for machines, the first column alone with ``--quiet``."""
    if told.json:
        render.print_json(data)
    elif told.quiet:
        for row in rows:
            print(row[0])
    else:
        render.print_table(columns, rows)


def confirm(told: Globals, question: str) -> None:
    """Ask, unless ``--yes`` was given; a "no" ends the command with status 1.

    Raises:
        UsageError: there is nobody to ask.
    """
    if told.yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{question} Nothing was done: off a terminal say --yes, or look first with --dry-run"
        )
    typer.confirm(question, abort=True, err=True)
