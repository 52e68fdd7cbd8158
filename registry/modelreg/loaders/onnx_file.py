"""ONNX files, through onnxruntime (the extra ``onnx``), on one thread."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelreg.errors import LoadError
from modelreg.loaders.base import estimators
from modelreg.sealed import Sealed

#: In the process that may die its last line tells which file it died of; elsewhere nobody asks for it.
log = logging.getLogger("modelreg.loaders")

_INPUTS = {"tensor(float)": np.float32, "tensor(double)": np.float64}


class OnnxModel:
    """One session for each output; its last float tensor is the answer. Not thread-safe."""

    def __init__(self, sessions: dict[str, Any], n_features: int) -> None:
        self._sessions = sessions
        self.outputs = tuple(sessions)
        self.n_features = n_features
        self.boosters: dict[str, Any] = {}

    def predict(self, rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """See ``LoadedModel.predict``; in the precision of the file's input, mostly float32."""
        answers = []
        for session in self._sessions.values():
            source = session.get_inputs()[0]
            target = _answer_of(session)
            answer = session.run([target], {source.name: rows.astype(_INPUTS[source.type])})[0]
            found = np.asarray(answer, dtype=np.float64)
            answers.append(found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found)
        return answers


def load(sealed: Sealed) -> OnnxModel:
    """Start a session for each file.

    Raises:
        LoadError: onnxruntime isn't installed or refuses a file, or its input isn't one matrix of the features.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise LoadError("ONNX files need onnxruntime: pip install 'modeld[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    expected = len(sealed.metadata.features)
    sessions = {}
    for output, file in estimators(sealed).items():
        log.debug("loading %s", file)
        try:
            session = onnxruntime.InferenceSession(
                sealed.files[file], sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise LoadError(f"{file}: onnxruntime refuses it: {error}") from error
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _INPUTS or len(inputs[0].shape) != 2:
            raise LoadError(f"{file}: its input isn't one float matrix [n, features]")
        width = inputs[0].shape[1]
        if isinstance(width, int) and width != expected:
            raise LoadError(f"{file}: takes {width} features, metadata.json lists {expected}")
        _answer_of(session)
        sessions[output] = session
    return OnnxModel(sessions, expected)


def _answer_of(session: Any) -> str:
    tensors = [output.name for output in session.get_outputs() if output.type in _INPUTS]
    if not tensors:
        raise LoadError("an ONNX file has no float tensor as its output (convert without zipmap)")
    return str(tensors[-1])
