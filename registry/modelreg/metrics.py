"""Metrics: which way is better, names that mean the same, nested ones flattened as ``1d.rmse``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelreg.settings import MetricSettings

#: Names that mean the same metric.
ALIASES = {
    "sharpe": "sharpe_ratio",
    "direction_accuracy": "directional_accuracy",
    "annual_return": "annualized_return",
}

HIGHER_IS_BETTER = frozenset(
    {
        "ic",
        "sharpe_ratio",
        "directional_accuracy",
        "profit_factor",
        "r_squared",
        "annualized_return",
        "total_return",
    }
    | {"win_rate", "f1_score", "precision", "recall", "auc_roc", "accuracy", "quantile_coverage"}
)
LOWER_IS_BETTER = frozenset({"rmse", "mae", "loss", "log_loss", "max_drawdown", "volatility"})

#: Stored with either sign, so compared by magnitude.
BY_MAGNITUDE = frozenset({"max_drawdown"})


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested metrics as one level: ``{"1d": {"rmse": 0.1}}`` → ``{"1d.rmse": 0.1}``.

    What isn't a number is left out.
    """
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + name] = float(value)
    return flat


def problem_with(metrics: Any, path: str = "metrics") -> str | None:
    """What keeps ``metrics`` from being numbers, nestable; None if nothing does."""
    if isinstance(metrics, Mapping):
        for name, value in metrics.items():
            if not isinstance(name, str):
                return f"{path}: the name {name!r} isn't a text"
            if found := problem_with(value, f"{path}.{name}"):
                return found
        return None
    if isinstance(metrics, int | float) and not isinstance(metrics, bool) and path != "metrics":
        return None if abs(metrics) < float("inf") else f"{path}: {metrics} isn't finite"
    return f"{path}: {metrics!r} is neither a number nor an object of numbers"


def value_of(metrics: Mapping[str, Any], name: str) -> float | None:
    """A metric by its name or an alias of it (``sharpe`` finds ``sharpe_ratio``), nested ones with dots."""
    flat = flatten(metrics)
    if name in flat:
        return flat[name]
    wanted = canonical(name)
    return next((value for key, value in flat.items() if canonical(key) == wanted), None)


def direction(name: str, more: MetricSettings | None = None) -> str | None:
    """``higher``, ``lower`` or ``magnitude`` (lower without the sign): what is better. None: nobody knows."""
    full, last = name, canonical(name).rpartition(".")[2]
    if more is not None:
        for way, names in (
            ("higher", more.higher_is_better),
            ("magnitude", more.by_magnitude),
            ("lower", more.lower_is_better),
        ):
            if full in names or last in names or full.rpartition(".")[2] in names:
                return way
    if last in HIGHER_IS_BETTER:
        return "higher"
    if last in LOWER_IS_BETTER:
        return "magnitude" if last in BY_MAGNITUDE else "lower"
    return None


def goodness(name: str, value: float, more: MetricSettings | None = None) -> float | None:
    """A number that is larger where the metric is better; None for an unknown metric, which has no winner."""
    match direction(name, more):
        case "higher":
            return value
        case "lower":
            return -value
        case "magnitude":
            return -abs(value)
        case _:
            return None


def canonical(name: str) -> str:
    """The one name of a metric that has several."""
    prefix, dot, last = name.rpartition(".")
    return prefix + dot + ALIASES.get(last, last)
