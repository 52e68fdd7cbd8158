"""Typed settings from a YAML file, with errors that name file, line and key.

``load_yaml(path, type)`` works for any msgspec type; declare structs with ``forbid_unknown_fields=True`` so that a
misspelt key is an error and not a silent default. ``Document`` is the same in steps, for a program that lets single
settings be overridden from outside.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from modelreg.errors import ConfigError

T = TypeVar("T")

#: The largest settings file that is read, in bytes.
MAX_SETTINGS_BYTES = 1 << 20

#: Mistakes of one document that are told at once.
_MAX_PROBLEMS = 50

#: The one in C where PyYAML has it: a registry's settings are read each time that one is opened.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_PATH_SUFFIX = re.compile(r"^(?P<problem>.*) - at `(?:key in )?\$(?P<path>.*)`$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<key>[^`]*)`")
_PATH_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def load_yaml(path: str | Path, type: type[T]) -> T:
    """Read ``path`` as YAML and convert it to ``type``; an empty file means all defaults.

    Raises:
        ConfigError: the file can't be read, isn't YAML, repeats a key, or doesn't fit ``type``; one line for each
            mistake: ``file:line: key: problem``.

    Thread-safe: it keeps no state.
    """
    return Document.read(Path(path)).convert(type)


class Document:
    """A YAML mapping, where its keys stand, and single values that were set over it. Not thread-safe.

    Raises:
        ConfigError: not YAML, not a mapping, or a key is repeated.
    """

    def __init__(self, data: bytes | str, source: str) -> None:
        self._source = source
        #: Dotted key → who set it, for values that aren't from the text.
        self._set_by: dict[str, str] = {}
        try:
            loader = _Loader(data)
            self._root = loader.get_single_node()
            _refuse_repeated_keys(self._root, source, ())
            value = None if self._root is None else loader.construct_document(self._root)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            mark = getattr(error, "problem_mark", None)
            where = f"{source}:{mark.line + 1}" if mark is not None else source
            problem = getattr(error, "problem", None) or str(error)
            raise ConfigError(f"{where}: not valid YAML: {problem}") from error
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{source}:1: the whole file: expected 'object', got '{type(value).__name__}'")
        self._values: dict[str, Any] = value or {}

    @classmethod
    def read(cls, path: Path) -> Document:
        """The document in a file.

        Raises:
            ConfigError: it can't be read, or as the constructor.
        """
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_SETTINGS_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{path}: can't read the settings: {error.strerror or error}") from error
        if len(data) > MAX_SETTINGS_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_SETTINGS_BYTES} bytes, which no settings file needs")
        return cls(data, str(path))

    def set(self, key: str, text: str | None, by: str) -> None:
        """Set the value at a dotted ``key`` to ``text``, read as YAML; ``by`` stands in messages about it.

        Raises:
            ConfigError: no value, not YAML, or the key leads through a value that has no keys.
        """
        if text is None or not key:
            raise ConfigError(f"{by}: expected KEY=VALUE")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{by}: {key}: the value isn't valid YAML") from error
        *above, last = key.split(".")
        into = self._values
        for name in above:
            into = into.setdefault(name, {})
            if not isinstance(into, dict):
                raise ConfigError(f"{by}: {key}: {name} has no keys")
        into[last] = value
        self._set_by[key] = by

    def convert(self, type: type[T]) -> T:
        """The values as ``type``.

        Raises:
            ConfigError: with a line for every mistake, not only for the first.
        """
        values = copy.deepcopy(self._values)
        problems: list[str] = []
        while True:
            try:
                converted = msgspec.convert(values, type)
            except msgspec.ValidationError as error:
                steps, problem = _parse_problem(str(error))
                problems.append(self._place(steps, problem))
                # Without the wrong value the next mistake shows.
                if not _remove(values, steps) or len(problems) >= _MAX_PROBLEMS:
                    raise ConfigError("\n".join(problems)) from error
                continue
            if problems:
                raise ConfigError("\n".join(problems))
            return converted

    def _place(self, steps: list[str | int], problem: str) -> str:
        key = ".".join(str(step) for step in steps) or "the whole file"
        for length in range(len(steps), 0, -1):
            by = self._set_by.get(".".join(str(step) for step in steps[:length]))
            if by is not None:
                return f"{by}: {key}: {problem}"
        if not _has(self._root, steps):
            for name, by in self._set_by.items():
                if name.startswith(f"{key}."):
                    return f"{by}: {key}: {problem}"
        return f"{self._source}:{_line_of(self._root, steps)}: {key}: {problem}"


def _has(node: yaml.Node | None, steps: list[str | int]) -> bool:
    """Whether the text itself has that key."""
    for step in steps:
        if not isinstance(node, yaml.MappingNode):
            return isinstance(node, yaml.SequenceNode)
        node = next((value for key, value in node.value if key.value == str(step)), None)
        if node is None:
            return False
    return True


def _parse_problem(message: str) -> tuple[list[str | int], str]:
    """The path to the wrong value, and what is wrong with it."""
    match = _PATH_SUFFIX.match(message)
    problem, dotted = (match["problem"], match["path"]) if match else (message, "")
    steps: list[str | int] = []
    for name, index in _PATH_STEP.findall(dotted):
        if index != "...":
            steps.append(int(index) if index else name)
    unknown = _UNKNOWN_FIELD.search(problem)
    if unknown:
        steps.append(unknown["key"])
        return steps, "unknown key; remove it or correct its spelling"
    return steps, problem.replace("`", "'").replace("Expected", "expected", 1)


def _remove(values: Any, steps: list[str | int]) -> bool:
    try:
        for step in steps[:-1]:
            values = values[step]
        del values[steps[-1]]
    except (LookupError, TypeError):
        return False
    return True


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
