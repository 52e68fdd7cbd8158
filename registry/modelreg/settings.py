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


class MetricGate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a metric must be; each limit that is given holds. No limit: the metric must be there."""

    #: More than this.
    above: float | None = None
    #: At least this.
    min: float | None = None
    #: Less than this.
    below: float | None = None
    #: At most this.
    max: float | None = None


class ChannelGates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a version must have shown before a channel may point at it."""

    #: Metric (nested ones with dots: ``1d.rmse``) → limits.
    metrics: dict[str, MetricGate] = {}
    #: Channel → hours that the version must have been in it, by the log's clock.
    hours_in: dict[str, Positive] = {}
    #: How many actors other than the registrant must have approved.
    approvals: Annotated[int, msgspec.Meta(ge=0)] = 0
    #: Whose approval counts; empty: everybody's.
    approvers: list[str] = []


class MetricSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which way is better, for metrics that the registry doesn't know by itself."""

    higher_is_better: list[str] = []
    lower_is_better: list[str] = []
    #: Compared without their sign; lower is better.
    by_magnitude: list[str] = []


class DatasetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the current versions of data sets are told, for what models were trained on."""

    #: A JSON file: data set → version.
    file: str | None = None
    #: A command that prints such JSON; goes before the file.
    command: list[str] = []
    #: Whether another version of a data set blocks a promotion; a missing data set always does.
    strict: bool = True


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings; the defaults are those of ``config/registry.yaml``, but gates hold only where they are written."""

    golden: GoldenSettings = GoldenSettings()
    probe: ProbeSettings = ProbeSettings()
    limits: LimitSettings = LimitSettings()
    #: Whether joblib files (code) may be registered without saying so each time.
    allow_joblib: bool = False
    metrics: MetricSettings = MetricSettings()
    datasets: DatasetSettings = DatasetSettings()
    #: Channel → its gates.
    gates: dict[str, ChannelGates] = {}


def load_settings(path: str | Path) -> Settings:
    """Read a settings file.

    Raises:
        ConfigError: see ``modelreg.yamlconf.load_yaml``.
    """
    return load_yaml(path, Settings)


#: A registry's own settings, within ``.registry``.
SETTINGS_FILE = "registry.yaml"

#: What ``init`` writes there: gates belong to a registry, not to whoever calls.
TEMPLATE = """\
# Settings of this registry, for everybody who uses it; `modelreg --config FILE` and MODELREG_CONFIG go before.
# Every setting is optional. Gates hold only where they are written: remove the signs in front of these.

# gates:
#   production:
#     metrics:
#       ic: {above: 0.02}
#       sharpe: {above: 0.5}
#     # Hours in another channel (paper trading), by the log's clock.
#     hours_in: {staging: 24}
#     # Actors other than the registrant who have to `modelreg approve` it.
#     approvals: 0
"""
