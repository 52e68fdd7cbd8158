"""LightGBM text to ONNX, in a process that may die: ``python -m modelreg.onnxconvert DIR SCRATCH``.

Each output becomes a TreeEnsembleRegressor (ai.onnx.ml 3) and what its objective does to the sum. The result is
float32: rows are rounded to it first, leaves are summed in it. Thresholds are rounded down to float32, so that a row
that float32 can hold takes the same way through every tree: among float32 numbers, x ≤ t just where x ≤ that.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelreg.errors import LoadError
from modelreg.probe import ONNX_FILE, main

#: How far an answer may be off: this times the largest one of its output.
TOLERANCE = 1e-5

#: Objectives whose answer is the sum itself.
_PLAIN = frozenset(
    {
        "",
        "custom",
        "regression",
        "regression_l1",
        "huber",
        "fair",
        "quantile",
        "mape",
        "lambdarank",
        "rank_xendcg",
    }
)
_EXPONENTIAL = frozenset({"poisson", "gamma", "tweedie"})


class Trees:
    """The attributes of a TreeEnsembleRegressor, filled tree by tree.

    ``where`` names the output in messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._tree = -1
        self.nodes: dict[str, list[Any]] = {
            key: []
            for key in (
                "treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
                "missing_value_tracks_true",
            )
        }  # fmt: skip
        self.leaves: dict[str, list[Any]] = {key: [] for key in ("treeids", "nodeids", "ids", "weights")}

    def add(self, structure: Mapping[str, Any], target: int, share: float) -> None:
        """Take a tree of ``Booster.dump_model`` in; its leaves count times ``share`` for ``target``.

        Raises:
            LoadError: it splits in a way that has no counterpart here.
        """
        self._tree += 1
        count = 0
        # No recursion: a tree may be deeper than Python's stack.
        waiting: list[tuple[Mapping[str, Any], int | None, str]] = [(structure, None, "")]
        first = len(self.nodes["nodeids"])
        while waiting:
            node, parent, side = waiting.pop()
            if parent is not None:
                self.nodes[side][first + parent] = count
            if "split_feature" in node:
                self._branch(node, count)
                waiting.append((node["right_child"], count, "falsenodeids"))
                waiting.append((node["left_child"], count, "truenodeids"))
            else:
                self._leaf(node, count, target, share)
            count += 1

    def _branch(self, node: Mapping[str, Any], number: int) -> None:
        if node["decision_type"] != "<=":
            raise LoadError(
                f"{self._where}: splits by categories can't be converted; see: modelreg add-export"
            )
        threshold, left = float(node["threshold"]), bool(node["default_left"])
        zero_left = threshold >= 0.0
        if node["missing_type"] == "Zero" and left != zero_left:
            raise LoadError(
                f"{self._where}: zeros that count as missing can't be converted; see: modelreg add-export"
            )
        # Where NaN isn't what is missing, LightGBM takes it for zero.
        nan_left = zero_left if node["missing_type"] == "None" else left
        self._node(number, int(node["split_feature"]), "BRANCH_LEQ", round_down(threshold), nan_left)

    def _leaf(self, node: Mapping[str, Any], number: int, target: int, share: float) -> None:
        if node.get("leaf_coeff"):
            raise LoadError(f"{self._where}: linear trees can't be converted; see: modelreg add-export")
        self._node(number, 0, "LEAF", 0.0, False)
        for key, value in (
            ("treeids", self._tree),
            ("nodeids", number),
            ("ids", target),
            ("weights", float(node["leaf_value"]) * share),
        ):
            self.leaves[key].append(value)

    def _node(self, number: int, feature: int, mode: str, value: float, nan_left: bool) -> None:
        for key, told in (
            ("treeids", self._tree), ("nodeids", number), ("featureids", feature), ("modes", mode),
            ("values", value), ("truenodeids", 0), ("falsenodeids", 0),
            ("missing_value_tracks_true", int(nan_left)),
        ):  # fmt: skip
            self.nodes[key].append(told)


def round_down(threshold: float) -> float:
    """The largest float32 number that isn't more than ``threshold``."""
    with np.errstate(over="ignore"):
        nearest = np.float32(threshold)
    if float(nearest) > threshold:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    return float(nearest)


def convert(dumped: Mapping[str, Mapping[str, Any]], n_features: int) -> bytes:
    """One ONNX graph: ``rows`` float32 [n, f] in, each output float32 [n, k] out, under its own name.

    ``dumped``: output → ``Booster.dump_model()``.

    Raises:
        LoadError: an objective or a split has no counterpart.
    """
    from onnx import TensorProto, helper

    nodes, outputs = [], []
    for output, model in dumped.items():
        width = int(model["num_tree_per_iteration"])
        trees = Trees(output)
        told = model["tree_info"]
        share = width / len(told) if model.get("average_output") and told else 1.0
        for index, tree in enumerate(told):
            trees.add(tree["tree_structure"], index % width, share)
        attributes: dict[str, Any] = {f"nodes_{key}": value for key, value in trees.nodes.items()}
        attributes.update({f"target_{key}": value for key, value in trees.leaves.items()})
        nodes.append(
            helper.make_node(
                "TreeEnsembleRegressor", ["rows"], [f"{output}/sum"], domain="ai.onnx.ml",
                n_targets=width, aggregate_function="SUM", post_transform="NONE", **attributes,
            )
        )  # fmt: skip
        nodes += _answer(output, str(model.get("objective") or ""))
        outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, width]))
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, n_features])
    model_proto = helper.make_model(
        helper.make_graph(nodes, "modelreg", [rows], outputs),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)],
        producer_name="modelreg",
    )
    model_proto.ir_version = 8
    return bytes(model_proto.SerializeToString())


def _answer(output: str, objective: str) -> list[Any]:
    """What LightGBM's objective makes of the sum of leaves (``ConvertOutput`` of its sources)."""
    from onnx import helper

    name, *words = objective.split() or [""]
    told = dict(word.partition(":")[::2] for word in words)
    total = f"{output}/sum"
    if name == "regression" and "sqrt" in told:
        absolute = helper.make_node("Abs", [total], [f"{output}/abs"])
        return [absolute, helper.make_node("Mul", [total, f"{output}/abs"], [output])]
    if name in _PLAIN:
        return [helper.make_node("Identity", [total], [output])]
    if name in _EXPONENTIAL:
        return [helper.make_node("Exp", [total], [output])]
    if name == "cross_entropy_lambda":
        return [helper.make_node("Softplus", [total], [output])]
    if name == "multiclass":
        return [helper.make_node("Softmax", [total], [output], axis=1)]
    if name in ("binary", "multiclassova", "cross_entropy"):
        factor = helper.make_node(
            "Constant", [], [f"{output}/factor"], value_float=float(told.get("sigmoid", 1))
        )
        scaled = helper.make_node("Mul", [total, f"{output}/factor"], [f"{output}/scaled"])
        return [factor, scaled, helper.make_node("Sigmoid", [f"{output}/scaled"], [output])]
    raise LoadError(f"{output}: the objective {name!r} can't be converted; see: modelreg add-export")


def compare(data: bytes, boosters: Mapping[str, Any], rows: NDArray[np.float64]) -> None:
    """Check a conversion against the Boosters, on rows [n, f] rounded to float32.

    Raises:
        LoadError: an answer is off by more than float32 explains.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, sess_options=options, providers=["CPUExecutionProvider"])
    single = rows.astype(np.float32)
    for output, booster in boosters.items():
        expected = np.asarray(booster.predict(single.astype(np.float64), num_threads=1))
        found = np.asarray(session.run([output], {"rows": single})[0], dtype=np.float64)
        difference = np.abs(found.reshape(expected.shape) - expected)
        allowed = TOLERANCE * max(float(np.abs(expected).max()), 1e-30)
        if not bool((difference <= allowed).all()):
            raise LoadError(
                f"{output}: the converted model is off by {difference.max():.3g} on the golden rows, more than float32 "
                f"explains ({allowed:.3g}); it isn't exported"
            )


def _work(directory: Path, scratch: Path, limits: dict[str, Any]) -> dict[str, Any]:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise LoadError("ONNX files need onnx and onnxruntime: pip install 'modeld[onnx]'") from error
    from modelreg import golden, goldenrows, loaders
    from modelreg.lgbtext import parse_header
    from modelreg.sealed import read_sealed

    sealed = read_sealed(directory, expect_digest=limits["digest"], max_bytes=int(limits["version_bytes"]))
    model = loaders.load(sealed)
    if not model.boosters:
        raise LoadError("only LightGBM text without a scaler can be converted; see: modelreg add-export")
    if golden.GOLDEN_FILE in sealed.files:
        rows = golden.load(sealed.files[golden.GOLDEN_FILE]).rows
    else:
        infos = [parse_header(sealed.files[f], where=f).infos for f in loaders.estimators(sealed).values()]
        rows = goldenrows.synthesise(
            list(zip(*infos, strict=True)), rows=128, nan_fraction=0.02, seed=b"onnx"
        )
    print("predicting golden rows", file=sys.stderr, flush=True)
    data = convert({output: b.dump_model() for output, b in model.boosters.items()}, model.n_features)
    compare(data, model.boosters, rows)
    (scratch / ONNX_FILE).write_bytes(data)
    return {"memory_bytes": None, "n_features": model.n_features}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], _work))
