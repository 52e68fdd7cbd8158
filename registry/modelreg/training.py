"""What a trainer has in its hands at the end of a run, saved, loaded and registered in one call."""

from __future__ import annotations

import csv
import datetime as dt
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelreg.clock import rfc3339, utc_now
from modelreg.errors import UsageError
from modelreg.metadata import plain
from modelreg.results import Version

if TYPE_CHECKING:
    from modelreg.registry import Registry

#: The files of a saved result that are sealed with a version.
_TABLES = {
    "feature_importance": "feature_importance.csv",
    "validation_predictions": "validation_predictions.csv",
    "test_predictions": "test_predictions.csv",
}
_FACTS_FILE = "training.json"
_MODELS_DIR = "models"

#: A table: column → values, all of one length. A data frame of pandas or polars is one too; its index isn't kept.
Table = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """One run. ``models``: a model, or output → model: lightgbm.Booster, an estimator, or a path to a file.

    Boosters become LightGBM text, other objects joblib files. ``features`` may be None for Boosters. Tables are data
    frames or column → values; numbers may be numpy's. ``feature_importance``: name → number, or a Series.
    """

    models: Any
    metrics: Mapping[str, Any] = field(default_factory=dict)
    features: Sequence[str] | None = None
    feature_importance: Mapping[str, float] | None = None
    validation_predictions: Table | Any = None
    test_predictions: Table | Any = None
    trained_at: str | dt.datetime = field(default_factory=lambda: rfc3339(utc_now()))
    scaler: Any = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    config: Any = None

    def save(self, directory: str | Path) -> Path:
        """Write everything into a new or empty directory; returns it.

        Raises:
            UsageError: the directory isn't empty, a table's columns differ in length, or a value has no JSON.
        """
        directory = Path(directory)
        (directory / _MODELS_DIR).mkdir(parents=True, exist_ok=True)
        if any((directory / _MODELS_DIR).iterdir()) or (directory / _FACTS_FILE).exists():
            raise UsageError(f"{directory}: a result is there already; save into an empty directory")
        named = self.models if isinstance(self.models, Mapping) else {"": self.models}
        outputs = {}
        for output, model in named.items():
            outputs[output] = _write_model(directory / _MODELS_DIR, output or "model", model)
        facts = {
            "outputs": outputs,
            "metrics": self.metrics,
            "features": None if self.features is None else list(self.features),
            "trained_at": self.trained_at,
            "scaler": None
            if self.scaler is None
            else _write_model(directory / _MODELS_DIR, "scaler", self.scaler),
            "parameters": self.parameters,
            "config": self.config,
        }
        if self.feature_importance is not None:
            importance = self.feature_importance
            names, values = zip(*importance.items(), strict=True) if len(importance) else ((), ())
            columns: Table = {"feature": names, "importance": values}
            _write_table(directory / _TABLES["feature_importance"], columns)
        for name in ("validation_predictions", "test_predictions"):
            table = getattr(self, name)
            if table is not None:
                _write_table(directory / _TABLES[name], table)
        try:
            text = json.dumps(plain(facts), indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the training result can't be written as JSON: {error}") from error
        (directory / _FACTS_FILE).write_text(text)
        return directory

    @classmethod
    def load(cls, directory: str | Path) -> TrainingResult:
        """Read a saved result; its models are paths, nothing is unpickled. Cells of tables are texts.

        Raises:
            UsageError: no result was saved there.
        """
        directory = Path(directory)
        try:
            facts = json.loads((directory / _FACTS_FILE).read_text())
            files = {output: directory / _MODELS_DIR / file for output, file in facts["outputs"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{directory}: no training result was saved here: {error}") from error
        importance = _read_table(directory / _TABLES["feature_importance"])
        scaler = facts.get("scaler")
        return cls(
            models=files[""] if set(files) == {""} else files,
            metrics=facts.get("metrics") or {},
            features=facts.get("features"),
            feature_importance=None
            if importance is None
            else dict(zip(importance["feature"], map(float, importance["importance"]), strict=True)),
            validation_predictions=_read_table(directory / _TABLES["validation_predictions"]),
            test_predictions=_read_table(directory / _TABLES["test_predictions"]),
            trained_at=facts["trained_at"],
            scaler=None if scaler is None else directory / _MODELS_DIR / scaler,
            parameters=facts.get("parameters") or {},
            config=facts.get("config"),
        )

    def register(self, registry: Registry, name: str, **arguments: Any) -> Version:
        """Register the run's models, metrics and tables; ``arguments`` as of ``Registry.register``.

        Raises as ``Registry.register``.
        """
        with tempfile.TemporaryDirectory(prefix="modelreg-training-") as scratch:
            directory = self.save(Path(scratch) / "result")
            saved = TrainingResult.load(directory)
            meta = {"trained_at": self.trained_at, "parameters": dict(self.parameters)}
            if self.config is not None:
                meta["config"] = self.config
            given = {
                "features": self.features,
                "metrics": dict(self.metrics),
                "scaler": saved.scaler,
                "artefacts": [directory / file for file in _TABLES.values() if (directory / file).exists()],
                **arguments,
                "meta": {**meta, **(arguments.get("meta") or {})},
            }
            return registry.register(name, saved.models, **given)


def _write_model(directory: Path, stem: str, model: Any) -> str:
    if isinstance(model, str | Path):
        source = Path(model)
        target = directory / f"{stem}{source.suffix}"
        target.write_bytes(source.read_bytes())
        return target.name
    if type(model).__name__ == "Booster" and hasattr(model, "save_model"):
        model.save_model(str(directory / f"{stem}.txt"))
        return f"{stem}.txt"
    import joblib

    joblib.dump(model, directory / f"{stem}.joblib")
    return f"{stem}.joblib"


def _write_table(path: Path, given: Table | Any) -> None:
    names = given.columns if hasattr(given, "columns") else given
    table = {str(name): list(given[name]) for name in names}
    lengths = {len(values) for values in table.values()}
    if len(lengths) > 1:
        raise UsageError(f"{path.name}: the columns have different lengths: {sorted(lengths)}")
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        rows: Iterable[tuple[Any, ...]] = zip(*table.values(), strict=True)
        writer.writerows(rows)


def _read_table(path: Path) -> dict[str, list[str]] | None:
    if not path.exists():
        return None
    with path.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    return {name: [row[index] for row in rows] for index, name in enumerate(header)}
