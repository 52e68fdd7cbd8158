"""Do the data sets that a model was trained on still fit those that are current?"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelreg.errors import ConfigError

#: How long the command that tells the current versions may take, in seconds.
COMMAND_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Compatibility:
    """``level``: ``exact``, ``drift`` (another version of a data set) or ``missing`` (no such data set any more)."""

    compatible: bool
    level: str
    warnings: tuple[str, ...]


class VersionCompatibilityChecker:
    """Compares data-set versions. Strict: any drift blocks; lenient: drift warns. A missing data set always blocks.

    Data sets are written ``name@version`` or ``name:version``; one without a version fits every version.
    """

    def __init__(self, strict_mode: bool = True) -> None:
        self.strict_mode = strict_mode

    def check(self, trained_on: Sequence[str], current: Mapping[str, str]) -> Compatibility:
        """``trained_on``: the version's ``dataset_version_ids``; ``current``: data set → its version now."""
        missing, drifted = [], []
        for dataset in trained_on:
            name, version = split_dataset(dataset)
            if name not in current:
                missing.append(f"data set {name!r} is missing now; the model was trained on {dataset}")
            elif version is not None and current[name] != version:
                drifted.append(f"data set {name!r} is at {current[name]}; the model was trained on {version}")
        level = "missing" if missing else "drift" if drifted else "exact"
        compatible = not missing and not (drifted and self.strict_mode)
        return Compatibility(compatible, level, (*missing, *drifted))


def split_dataset(text: str) -> tuple[str, str | None]:
    """``prices@2024-01`` or ``prices:2024-01`` as (prices, 2024-01)."""
    for separator in ("@", ":"):
        name, found, version = text.partition(separator)
        if found and name and version:
            return name, version
    return text, None


def current_versions(
    file: str | None,
    command: Sequence[str],
    *,
    timeout_s: float = COMMAND_TIMEOUT_S,
    before_exec: Callable[[], None] | None = None,
) -> dict[str, str]:
    """The current data sets: a JSON object name → version, from a file, or from what a command prints in time.

    `before_exec` is called in the command's process before it becomes the command; only where there is one thread.

    Raises:
        ConfigError: neither, or it isn't such an object.
    """
    try:
        if command:
            done = subprocess.run(
                list(command),
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=timeout_s,
                check=True,
                preexec_fn=before_exec,
            )
            told, where = json.loads(done.stdout), " ".join(command)
        else:
            told, where = json.loads(Path(str(file)).read_bytes()), str(file)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"datasets: the current versions can't be told: {error}; see datasets.file and datasets.command"
        ) from error
    if not isinstance(told, dict) or not all(isinstance(version, str) for version in told.values()):
        raise ConfigError(f"datasets: {where}: expected a JSON object of data sets and their versions")
    return told
