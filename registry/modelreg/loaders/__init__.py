"""Model formats: a small table from format to the module that loads it. Only for processes that may die.

Adding a format is one module with ``load(sealed) -> LoadedModel`` and one line in ``LOADERS``.
"""

from __future__ import annotations

import importlib

from modelreg.errors import LoadError
from modelreg.loaders.base import LoadedModel, estimators
from modelreg.sealed import Sealed

#: Format → module. The modules import their libraries, so they are imported when they are needed.
LOADERS = {
    "lightgbm-text": "modelreg.loaders.lightgbm_text",
    "joblib": "modelreg.loaders.joblib_file",
    "onnx": "modelreg.loaders.onnx_file",
}

__all__ = ["LOADERS", "LoadedModel", "estimators", "load", "preload"]


def preload() -> None:
    """Import what is worth importing once, for processes that are forked from this one.

    ONNX isn't: its runtime starts a thread, and a process with threads mustn't fork.
    """
    for module in ("modelreg.loaders.lightgbm_text", "modelreg.loaders.joblib_file"):
        importlib.import_module(module)


def load(sealed: Sealed) -> LoadedModel:
    """Build the model of a verified version, its scaler in front. May kill the process: native parsers do.

    Raises:
        LoadError: an unknown format, or files that aren't a model.
    """
    module = LOADERS.get(sealed.metadata.format)
    if module is None:
        raise LoadError(
            f"no loader for the format {sealed.metadata.format!r} of {sealed.metadata.name}; "
            f"known: {', '.join(LOADERS)}"
        )
    loaded: LoadedModel = importlib.import_module(module).load(sealed)
    if any(info.role == "scaler" for info in sealed.metadata.files.values()):
        scaled: LoadedModel = importlib.import_module("modelreg.loaders.scaled").load(sealed, loaded)
        return scaled
    return loaded
