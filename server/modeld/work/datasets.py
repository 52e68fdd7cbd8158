"""Do the data sets that a version was trained on still fit the current ones? Asked before it serves for the first time.

What tells the current ones (a file, a command) is the operator's: it is asked before the worker gives up its rights,
and before it has read a byte of the version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from modeld.work import prctl
from modelreg.compatibility import COMMAND_TIMEOUT_S, VersionCompatibilityChecker, current_versions
from modelreg.errors import ConfigError, StoreUnavailableError
from modelreg.settings import DatasetSettings


class DriftError(Exception):
    """The version doesn't fit the current data sets; the message says which."""


@dataclass(frozen=True, slots=True)
class CurrentDatasets:
    """Data set → its version now; or why that isn't known."""

    strict: bool
    versions: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def tell(cls, settings: DatasetSettings, limit_s: float) -> Self:
        """Ask the file or the command; the command has `limit_s` seconds at most."""
        try:
            timeout_s = min(limit_s, COMMAND_TIMEOUT_S)
            return cls(
                settings.strict,
                current_versions(
                    settings.file,
                    settings.command,
                    timeout_s=timeout_s,
                    before_exec=prctl.die_with_parent,  # the front kills a worker whose trial is over
                ),
            )
        except ConfigError as e:
            return cls(settings.strict, problem=str(e))

    def check(self, trained_on: Sequence[str]) -> list[str]:
        """What is to be warned of.

        Raises:
            DriftError: the version is too far from the current data.
            StoreUnavailableError: the current data sets aren't known; no fault of the version's.
        """
        if not trained_on:
            return []
        if self.problem:
            raise StoreUnavailableError(self.problem)
        found = VersionCompatibilityChecker(self.strict).check(trained_on, self.versions)
        if not found.compatible:
            raise DriftError("; ".join(found.warnings))
        return list(found.warnings)
