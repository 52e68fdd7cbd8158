"""joblib and ONNX files, scalers, several estimators, and a trainer's whole result in one call."""

from __future__ import annotations

import datetime as dt

import joblib
import lightgbm
import numpy as np
import onnx
import onnx.helper
import pandas
import polars
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.preprocessing import StandardScaler
from tests.registry.conftest import FEATURES, features_and_returns

from modelreg import LoadError, TrainingResult, UsageError, compute_config_hash
from modelreg.golden import load
from modelreg.sealed import read_sealed


def golden_of(version):
    return load(read_sealed(version.path).files["golden.npz"])


@pytest.fixture(scope="module")
def data():
    return features_and_returns("AAPL", 400)


@pytest.fixture
def saved(tmp_path):
    def save(name, thing):
        path = tmp_path / name
        joblib.dump(thing, path)
        return path

    return save


def test_joblib_is_code_and_has_to_be_allowed(run, saved, data):
    """Without --allow-joblib exit 2 and nothing is unpickled; with it the estimator is sealed and answers."""
    run("init")
    path = saved("model.joblib", LinearRegression().fit(*data))
    arguments = ("register", "m", path, "--version", "1.0.0", "--features", ",".join(FEATURES))
    refused = run(*arguments)
    assert refused.status == 2
    assert "--allow-joblib" in refused.err
    assert run(*arguments, "--allow-joblib").status == 0
    assert run("show", "m", "--json").json["metadata"]["format"] == "joblib"
    assert run("validate", "m").status == 0
    assert run("register", "m", path, "--allow-joblib").status == 2  # features have to be named


def test_estimators_answer_as_they_do_for_their_trainer(registry, saved, data):
    """A regressor, a classifier's probabilities and a LightGBM wrapper: the sealed answers are theirs."""
    rows, target = data
    linear = LinearRegression().fit(rows, target)
    classes = LogisticRegression().fit(rows, np.digitize(target, [-0.01, 0.01]))
    wrapper = lightgbm.LGBMRegressor(n_estimators=10, num_threads=1, verbosity=-1).fit(rows, target)
    files = {
        "1d": saved("a.joblib", linear),
        "up": saved("b.pkl", classes),
        "lgb": saved("c.joblib", wrapper),
    }
    golden = golden_of(registry.register("m", files, features=FEATURES, allow_joblib=True))
    assert list(golden.outputs) == ["1d", "up", "lgb"]
    assert np.array_equal(golden.outputs["1d"], linear.predict(golden.rows))
    assert np.array_equal(golden.outputs["up"], classes.predict_proba(golden.rows))
    assert np.array_equal(golden.outputs["lgb"], wrapper.booster_.predict(golden.rows, num_threads=1))


def test_the_scaler_comes_before_the_estimators(run, root, models, saved, data):
    """Rows go through the scaler's transform; the file is sealed as scaler.joblib, whatever it was called."""
    run("init")
    scaler = StandardScaler().fit(data[0])
    path = saved("my-scaler.pkl", scaler)
    assert run("register", "m", models["a"].path, "--scaler", path).status == 2
    done = run("register", "m", models["a"].path, "--version", "1.0.0", "--scaler", path, "--allow-joblib")
    assert done.status == 0, done.err
    golden = load((root / "m/versions/1.0.0/golden.npz").read_bytes())
    expected = models["a"].booster.predict(scaler.transform(golden.rows), num_threads=1)
    assert np.array_equal(golden.outputs["predictions"], expected)
    assert (root / "m/versions/1.0.0/scaler.joblib").exists()
    assert run("validate", "m").status == 0


class Kills:
    """Unpickled, it ends the process."""

    def __reduce__(self):
        import os

        return os._exit, (7,)


@pytest.mark.parametrize("thing", [Kills(), {"not": "an estimator"}, LinearRegression(), b"text"])
def test_joblib_files_that_arent_models_are_refused(registry, saved, thing):
    """What kills, can't predict, isn't fitted or takes other features is a LoadError, and nothing is registered."""
    path = saved("model.joblib", thing)
    with pytest.raises(LoadError, match=r"m:1\.0\.0"):
        registry.register("m", path, version="1.0.0", features=FEATURES, allow_joblib=True)
    path.write_bytes(b"\x80no pickle")
    with pytest.raises(LoadError, match="unpickled"):
        registry.register("m", path, version="1.0.0", features=FEATURES, allow_joblib=True)
    assert registry.models() == []


def test_scalers_that_dont_fit_are_refused(registry, models, saved, data):
    """Another number of features, no transform."""
    for thing in (StandardScaler().fit(data[0][:, :3]), LinearRegression(), StandardScaler()):
        with pytest.raises(LoadError, match=r"scaler\.joblib"):
            registry.register("m", models["a"].path, scaler=saved("s.joblib", thing), allow_joblib=True)


def onnx_linear(path, weights):
    """A linear model [n, 4] → [n, 1] in float32."""
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [len(weights), 1], weights)
    shape = [("x", [None, len(weights)]), ("y", [None, 1])]
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shape)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [tensor]
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_onnx_files_need_no_permission(run, root, tmp_path):
    """There is no code in them; the answers are the file's, a truncated file is refused."""
    run("init")
    path = onnx_linear(tmp_path / "model.onnx", [1.0, 2.0, 3.0, 4.0])
    features = ",".join(FEATURES)
    done = run("register", "m", path, "--version", "1.0.0", "--features", features)
    assert done.status == 0, done.err
    golden = load((root / "m/versions/1.0.0/golden.npz").read_bytes())
    assert golden.outputs["predictions"] == pytest.approx(
        golden.rows @ [1.0, 2.0, 3.0, 4.0], rel=1e-5, abs=1e-5
    )
    assert golden.libraries.keys() == {"onnxruntime"}
    assert run("validate", "m").status == 0
    assert run("register", "m", path, "--features", "a,b").status == 6
    path.write_bytes(path.read_bytes()[:40])
    assert run("register", "m", path, "--features", features).status == 6


def test_a_training_result_is_saved_loaded_and_registered(registry, models, data, tmp_path):
    """One call seals models, metrics, tables, parameters and the scaler; saved and loaded it says the same."""
    result = TrainingResult(
        models={"1d": models["a"].booster, "7d": models["b"].booster},
        metrics={"1d": {"ic": 0.03}},
        feature_importance={"ret_1d": 1.0, "ret_5d": 2.0},
        validation_predictions={"y": [1.0, 2.0], "p": [1.5, 2.5]},
        scaler=StandardScaler().fit(data[0]),
        parameters={"leaves": 15},
        config={"seed": 1},
    )
    with pytest.raises(UsageError, match="allow-joblib"):
        result.register(registry, "m")
    made = result.register(registry, "m", version="1.0.0", allow_joblib=True, tags=["nightly"])
    facts = registry.metadata("m", "1.0.0")
    assert (facts.trained_at, facts.parameters, facts.config) == (
        result.trained_at,
        {"leaves": 15},
        {"seed": 1},
    )
    assert facts.outputs == ["1d", "7d"]
    assert (made.path / "feature_importance.csv").read_text().splitlines()[1] == "ret_1d,1.0"
    directory = result.save(tmp_path / "saved")
    again = TrainingResult.load(directory)
    assert again.feature_importance == result.feature_importance
    assert again.validation_predictions == {"y": ["1.0", "2.0"], "p": ["1.5", "2.5"]}
    assert again.register(registry, "m", version="1.1.0", allow_joblib=True).version == "1.1.0"
    assert registry.diff("m:1.0.0", "m:1.1.0") != []
    with pytest.raises(UsageError, match="already"):
        result.save(directory)
    with pytest.raises(UsageError, match="no training result"):
        TrainingResult.load(tmp_path)


def test_a_training_result_takes_what_trainers_have_in_their_hands(registry, models, tmp_path):
    """Data frames, a Series, numpy's numbers, moments: sealed as plain values; what has no JSON is refused."""
    ended = dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC)
    result = TrainingResult(
        models=models["a"].path,
        metrics={"ic": np.float32(0.5), "1d": {"rows": np.int64(3)}},
        feature_importance=pandas.Series({"ret_1d": 2.5, "ret_5d": 1.0}),
        validation_predictions=pandas.DataFrame({"y": [1.0, 2.0], "p": [1.5, 2.5]}),
        test_predictions=polars.DataFrame({"p": [3.5]}),
        trained_at=ended,
        parameters={"leaves": np.int32(15)},
        config={"days": (1, 5), "until": ended.date(), "weights": np.array([0.5, 0.5])},
    )
    made = result.register(registry, "m", golden=False)
    facts = registry.metadata("m", made.version)
    assert (facts.metrics, facts.parameters) == ({"ic": 0.5, "1d": {"rows": 3}}, {"leaves": 15})
    assert facts.config == {"days": [1, 5], "until": "2024-01-31", "weights": [0.5, 0.5]}
    assert facts.config_hash == compute_config_hash(result.config)
    assert facts.trained_at == ended.isoformat()
    assert (made.path / "validation_predictions.csv").read_text().split() == ["y,p", "1.0,1.5", "2.0,2.5"]
    assert (made.path / "test_predictions.csv").read_text().split() == ["p", "3.5"]
    loaded = TrainingResult.load(result.save(tmp_path / "run"))
    assert loaded.feature_importance == {"ret_1d": 2.5, "ret_5d": 1.0}
    for config in (object(), {"x": float("nan")}):
        with pytest.raises(UsageError, match="can't be written as JSON"):
            TrainingResult(models=models["a"].path, config=config).save(tmp_path / str(id(config)))
        with pytest.raises(UsageError, match="metadata"):
            registry.register("m", models["a"].path, golden=False, meta={"odd": config})


def test_estimators_of_different_formats_are_refused(registry, models, saved):
    """One format for all outputs; a suffix that nobody knows is refused too."""
    files = {"1d": models["a"].path, "7d": saved("m.joblib", 1)}
    with pytest.raises(UsageError, match="different formats"):
        registry.register("m", files, allow_joblib=True)
    with pytest.raises(UsageError, match="unknown model format"):
        registry.register("m", models["a"].path.with_suffix(".h5"))


def test_the_models_own_features_in_another_order_are_refused(registry, models):
    """Its columns would be exchanged in silence; other names for them are the trainer's affair."""
    exchanged = ["ret_5d", "ret_1d", "ret_20d", "vol_20d"]
    with pytest.raises(UsageError, match="in another order: ret_1d, ret_5d, ret_20d, vol_20d"):
        registry.register("m", models["a"].path, features=exchanged, golden=False)
    for version, names in (
        ("1.0.0", ["ret_1d", "ret_5d", "ret_20d", "vol_20d"]),
        ("1.1.0", ["a", "b", "c", "d"]),
    ):
        made = registry.register("m", models["a"].path, version=version, features=names, golden=False)
        assert registry.metadata("m", made.version).features == names
