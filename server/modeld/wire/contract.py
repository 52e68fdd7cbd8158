"""What one served version takes and gives, as the front knows it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Contract:
    """The inputs and outputs of one version. Immutable; safe to share.

    `outputs` has (name, width) for each estimator: width 0 means shape [n], k means [n, k].
    """

    model: str
    version: str
    features: tuple[str, ...]
    schema: str
    outputs: tuple[tuple[str, int], ...]
    nan_allowed: bool = True
    platform: str = "lightgbm"
    #: Rows of several requests may be predicted as one matrix.
    row_independent: bool = True
    index: dict[str, int] = field(init=False, repr=False, compare=False)
    n_features: int = field(init=False)
    label: str = field(init=False)
    #: float64 values that one row's outputs take together.
    row_width: int = field(init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "index", {name: at for at, name in enumerate(self.features)})
        put(self, "n_features", len(self.features))
        put(self, "label", f"{self.model} {self.version}")
        put(self, "row_width", sum(width or 1 for _, width in self.outputs))
