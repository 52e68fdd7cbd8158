"""The registry's settings: ``config/registry.yaml`` lists each with its default, its unit and a comment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from modelreg.yamlconf import load_yaml

Positive = Annotated[float, msgspec.Meta(gt=0)]
PositiveInt = Annotated[int, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class GoldenSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How golden rows are made when a trainer brings none."""

    #: Rows made up from the model's own feature ranges.
    rows: PositiveInt = 128
    #: The share of cells that are NaN.
    nan_fraction: Fraction = 0.02


class ProbeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the process that loads a model to prove it."""

    #: Wall time for loading and predicting, in seconds.
    deadline_s: Positive = 60.0
    #: Address space, in bytes.
    memory_bytes: PositiveInt = 8 << 30


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes above which files are refused."""

    #: All files of one version together, in bytes.
    version_bytes: PositiveInt = 2 << 30


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings; the defaults are those of ``config/registry.yaml``."""

    golden: GoldenSettings = GoldenSettings()
    probe: ProbeSettings = ProbeSettings()
    limits: LimitSettings = LimitSettings()


def load_settings(path: str | Path) -> Settings:
    """Read a settings file.

    Raises:
        ConfigError: see ``modelreg.yamlconf.load_yaml``.
    """
    return load_yaml(path, Settings)
