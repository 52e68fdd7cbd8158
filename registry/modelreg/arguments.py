"""The little languages of the command line: JSON or @file, lists, spans, NAME=FILE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from modelreg.bundle import ARTEFACTS
from modelreg.errors import NotFoundError, UsageError


def text_or_file(argument: str) -> str:
    """``@FILE`` stands for the file's content.

    Raises:
        NotFoundError: the file can't be read. UsageError: it isn't UTF-8.
    """
    if not argument.startswith("@"):
        return argument
    try:
        return Path(argument[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise NotFoundError(f"{argument[1:]}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{argument[1:]}: not UTF-8") from error


def json_object(argument: str, option: str) -> dict[str, Any]:
    """A JSON object, inline or from ``@FILE``.

    Raises:
        UsageError: it isn't one.
    """
    try:
        return msgspec.json.decode(text_or_file(argument), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise UsageError(f"{option}: not a JSON object: {error}") from error


def name_list(argument: str, option: str) -> list[str]:
    """Names from a comma list, or from ``@FILE``: one a line, comma-separated, or a JSON array.

    Raises:
        UsageError: there are none.
    """
    text = text_or_file(argument).strip()
    if text.startswith("["):
        try:
            return msgspec.json.decode(text, type=list[str])
        except msgspec.DecodeError as error:
            raise UsageError(f"{option}: not a JSON array of names: {error}") from error
    names = [name.strip() for line in text.splitlines() for name in line.split(",")]
    found = [name for name in names if name]
    if not found:
        raise UsageError(f"{option}: no names given")
    return found


def span(argument: str) -> tuple[str | None, str | None]:
    """``START:END`` of dates or moments (which have colons of their own); either end may be left out.

    Raises:
        UsageError: it can't be told where one ends and the other begins.
    """
    colons = [index for index, character in enumerate(argument) if character == ":"]
    if len(colons) % 2 == 0:
        raise UsageError(f"--data-range {argument!r}: expected START:END, as in 2015-01-01:2022-12-31")
    # Moments have as many colons each, so the middle one separates; with an open end it is the outer one.
    at = colons[len(colons) // 2]
    if argument.startswith(":"):
        at = 0
    elif argument.endswith(":"):
        at = len(argument) - 1
    return argument[:at] or None, argument[at + 1 :] or None


def split_files(
    files: Sequence[Path], outputs: Sequence[str], both_golden: bool
) -> tuple[Mapping[str, Path] | Path, list[Path]]:
    """Sort what was named into estimators (one file, or output → file) and artefacts.

    Raises:
        UsageError: no model, two models for one output, or options that contradict each other.
    """
    if both_golden:
        raise UsageError("--golden and --no-golden contradict each other")
    artefacts = [path for path in files if path.name in ARTEFACTS]
    models = [path for path in files if path.name not in ARTEFACTS]
    named: dict[str, Path] = {}
    for text in outputs:
        output, equals, file = text.partition("=")
        if not (output and equals and file):
            raise UsageError(f"--output {text!r}: expected NAME=FILE, as in 1d=model_1d.txt")
        if output in named:
            raise UsageError(f"--output {output}: given twice")
        named[output] = Path(file)
    if named and models:
        raise UsageError(f"{models[0]}: with --output each model needs a name: --output NAME={models[0]}")
    if named:
        return named, artefacts
    if not models:
        raise UsageError("no model file given: name one, or use --output NAME=FILE")
    if len(models) > 1:
        raise UsageError("several model files: name the output of each with --output NAME=FILE")
    return models[0], artefacts
