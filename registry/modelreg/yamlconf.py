"""Typed settings from a YAML file, with errors that name file, line and key.

``load_yaml(path, type)`` works for any msgspec type; declare structs with ``forbid_unknown_fields=True`` so
that a misspelt key is an error and not a silent default.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from modelreg.errors import ConfigError

T = TypeVar("T")

#: The largest settings file that is read, in bytes.
MAX_SETTINGS_BYTES = 1 << 20

_PATH_SUFFIX = re.compile(r"^(?P<problem>.*) - at `(?:key in )?\$(?P<path>.*)`$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<key>[^`]*)`")
_PATH_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def load_yaml(path: str | Path, type: type[T]) -> T:
    """Read ``path`` as YAML and convert it to ``type``; an empty file means all defaults.

    Raises:
        ConfigError: the file can't be read, isn't YAML, repeats a key, or doesn't fit ``type``; the message
            is ``file:line: key: problem``.

    Thread-safe: it keeps no state.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SETTINGS_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: can't read the settings: {error.strerror or error}") from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_SETTINGS_BYTES} bytes, which no settings file needs")
    return parse_yaml(data, type, source=str(path))


def parse_yaml(data: bytes | str, type: type[T], *, source: str) -> T:
    """Convert YAML text to ``type``; ``source`` stands in messages where the file's name would.

    Raises:
        ConfigError: as ``load_yaml``.
    """
    try:
        root = yaml.compose(data, Loader=yaml.SafeLoader)
        _refuse_repeated_keys(root, source, ())
        value = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}: not valid YAML: {problem}") from error
    try:
        return msgspec.convert({} if value is None else value, type)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), root, source)) from error


def _explain(message: str, root: yaml.Node | None, source: str) -> str:
    match = _PATH_SUFFIX.match(message)
    problem, dotted = (match["problem"], match["path"]) if match else (message, "")
    steps: list[str | int] = []
    for name, index in _PATH_STEP.findall(dotted):
        if index != "...":
            steps.append(int(index) if index else name)
    unknown = _UNKNOWN_FIELD.search(problem)
    if unknown:
        steps.append(unknown["key"])
        problem = "unknown key; remove it or correct its spelling"
    else:
        problem = problem.replace("`", "'").replace("Expected", "expected", 1)
    line = _line_of(root, steps)
    key = ".".join(str(step) for step in steps) or "the whole file"
    return f"{source}:{line}: {key}: {problem}"


def _line_of(node: yaml.Node | None, steps: list[str | int]) -> int:
    """The line, from 1, of the deepest node that ``steps`` reaches."""
    line = 1 if node is None else node.start_mark.line + 1
    for step in steps:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _refuse_repeated_keys(node: Any, source: str, above: tuple[str, ...]) -> None:
    """YAML lets the last of two equal keys win in silence; for settings that is a trap."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in seen:
                    dotted = ".".join((*above, key.value))
                    raise ConfigError(
                        f"{source}:{line}: {dotted}: repeated, first set at line {seen[key.value]}"
                    )
                seen[key.value] = line
                _refuse_repeated_keys(value, source, (*above, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _refuse_repeated_keys(value, source, (*above, str(index)))
