"""Files that aren't what they should be, and machines that fail: refused with the file's name, the rest goes on."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import tempfile
from pathlib import Path

import joblib
import numpy as np
import onnx
import onnx.helper
import onnxruntime
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import StandardScaler
from tests.registry.conftest import FEATURES
from tests.registry.faults import FailsAt

from modelreg import (
    IntegrityError,
    LoadError,
    NotFoundError,
    ProductionModelLoader,
    Registry,
    StoreUnavailableError,
    environment,
    loaders,
)
from modelreg.backup import restore
from modelreg.clock import seconds_between
from modelreg.disk import Disk
from modelreg.golden import MAX_GOLDEN_BYTES, Golden, dump, first_difference, load
from modelreg.importing import discover
from modelreg.lgbtext import check_complete, parse_header
from modelreg.metadata import FileInfo, Metadata
from modelreg.records import (
    ChannelOp,
    RegisterOp,
    StatusOp,
    decode_record,
    encode_record,
    record_name,
    sha256,
)
from modelreg.sealed import CHECKSUM_FILE, MAX_FILES, Sealed, read_file, read_sealed, read_sums

# -- records


def record(seq: int, prev: str | None, *ops: object, **more: object) -> bytes:
    data = encode_record(
        seq=seq,
        prev=prev,
        id="id",
        at="2024-01-01T00:00:00Z",
        actor="a",
        reason="r",
        ops=list(ops),
        expect={},
    )  # type: ignore[arg-type]
    if not more:
        return data
    body = {k: v for k, v in {**json.loads(data), **more}.items() if k != "digest"}
    from modelreg.records import canonical_json

    return canonical_json({**body, "digest": sha256(canonical_json(body))})


REGISTERED = RegisterOp("1.0.0", "sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "not a record"),
        (record(2, None, REGISTERED), "says that it is record 2"),
        (record(1, "x", REGISTERED), "doesn't follow"),
        (record(1, None, REGISTERED).replace(b'"a"', b'"b"'), "don't fit its digest"),
        (record(1, None, ops=[{"what": 1}]), "without a kind"),
        (record(1, None, ops=[{"op": "register", "version": 1}]), "operation 'register'"),
    ],
)
def test_a_record_that_is_none(data, told):
    """Numbers, chain, digest and operations are each checked."""
    with pytest.raises(IntegrityError, match=told):
        decode_record(data, seq=1, prev=None, where="1.json")


@pytest.mark.parametrize(
    ("op", "told"),
    [
        (REGISTERED, "a second time"),
        (StatusOp("1.0.0", "lost"), "unknown status 'lost'"),
        (StatusOp("9.0.0", "failed"), "9.0.0"),
        (ChannelOp("production", "9.0.0"), "9.0.0"),
    ],
)
def test_a_record_that_cannot_follow_makes_the_model_read_only(registry, root, models, op, told):
    """A log that fits together and says what can't be: the state is that before, and nothing is written."""
    registry.register("m", models["a"].path, version="1.0.0", golden=False)
    first = root / "m/log" / record_name(1)
    (root / "m/log" / record_name(2)).write_bytes(record(2, sha256(first.read_bytes()), op))
    broken = Registry(root)
    assert told in str(broken.state("m").broken)
    with pytest.raises(IntegrityError):
        broken.fail("m:1.0.0", reason="x")


# -- sealed directories


@pytest.fixture
def sealed_dir(two) -> Path:
    return two.version_dir("momentum", "1.0.0")


def rewrite(path: Path, data: bytes) -> None:
    path.parent.chmod(0o755)
    path.unlink(missing_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("sums", "told"),
    [
        (b"\xff\n", "not UTF-8"),
        (b"".join(b"%064x  f%d\n" % (n, n) for n in range(MAX_FILES + 1)), "lists more than"),
        (b"", "doesn't belong there"),
        (b"x" * (2 << 20), "larger than the limit"),
    ],
)
def test_checksum_files_that_seal_nothing(sealed_dir, sums, told):
    """Encoding, number of files, size: refused before anything else is read."""
    rewrite(sealed_dir / CHECKSUM_FILE, sums)
    with pytest.raises(IntegrityError, match=told):
        read_sealed(sealed_dir)


def test_a_directory_without_its_own_files(sealed_dir, tmp_path):
    """No checksum.sha256, no metadata.json, a file that isn't listed, a file instead of the directory."""
    with pytest.raises(IntegrityError, match=r"doesn't list scaler\.joblib"):
        read_file(sealed_dir, "scaler.joblib")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(IntegrityError, match="missing; this isn't a sealed version"):
        read_sealed(empty)
    (empty / CHECKSUM_FILE).write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"metadata\.json: missing"):
        read_sealed(empty)
    for reader in (read_sealed, read_sums):
        with pytest.raises(IntegrityError, match="not a directory of its own"):
            reader(empty / CHECKSUM_FILE)
        with pytest.raises(NotFoundError, match="no such version directory"):
            reader(tmp_path / "absent")
        with pytest.raises(StoreUnavailableError, match="can't be read"):
            reader(sealed_dir, disk=Disk(Refuses("open")))
    with pytest.raises(StoreUnavailableError, match="can't be read"):
        read_file(sealed_dir, "metadata.json", disk=Disk(Refuses("open")))


class Refuses:
    """An os one of whose calls always fails."""

    def __init__(self, *calls: str, code: int = errno.EACCES) -> None:
        self._calls, self._code = calls, code

    def __getattr__(self, name):
        if name not in self._calls:
            return getattr(os, name)

        def refuse(*_, **__):
            raise OSError(self._code, os.strerror(self._code))

        return refuse


# -- models


@pytest.fixture(autouse=True, scope="module")
def _a_file_that_onnxruntime_keeps_open() -> None:
    """Its record of what it was used for: opened by the first session, and no test's leak."""
    onnxruntime.InferenceSession(graph(["n", 2]))


def of(format: str, files: dict[str, bytes], **facts) -> Sealed:
    """A version as it would have been read, with one estimator called ``p`` and a scaler if there is one."""
    roles = {
        name: FileInfo("scaler" if "scaler" in name else "estimator", len(d), "p")
        for name, d in files.items()
    }
    known = {"outputs": ["p"], "features": ["a", "b"], "files": roles, **facts}
    return Sealed("sha256:x", files, Metadata(format=format, name="m", version="1.0.0", **known))


def pickled(thing: object) -> bytes:
    stream = io.BytesIO()
    joblib.dump(thing, stream)
    return stream.getvalue()


class Answers:
    """An estimator that answers anything."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def predict(self, _: object) -> object:
        return self.answer


class Halves(StandardScaler):
    """A scaler that loses a column."""

    def transform(self, rows):
        return rows[:, :1]


class Raises(StandardScaler):
    """A scaler that can't."""

    def transform(self, rows):
        raise ValueError(len(rows))


FITTED = LinearRegression().fit(np.eye(2), [0.0, 1.0])


@pytest.mark.parametrize(
    ("sealed", "told"),
    [
        (of("tensorflow", {}), "no loader for the format"),
        (of("joblib", {}, outputs=["p"]), "no file for the output 'p'"),
        (of("joblib", {}, outputs=[]), "names no outputs"),
        (of("joblib", {"m.joblib": b"nonsense"}), "can't be unpickled"),
        (of("joblib", {"m.joblib": pickled({"a": 1})}), "has no predict, it is a dict"),
        (
            of("joblib", {"m.joblib": pickled(FITTED)}, features=["a"]),
            r"takes 2 features, metadata\.json lists 1",
        ),
        (of("onnx", {"m.onnx": b"nonsense"}), "onnxruntime refuses it"),
        (of("lightgbm-text", {"m.txt": b"tree\n"}), "truncated within the header"),
    ],
)
def test_files_that_are_no_model(sealed, told):
    """Each loader says which file it is and what is wrong with it."""
    with pytest.raises(LoadError, match=told):
        loaders.load(sealed)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (["up", "down"], "aren't numbers"),
        ([1.0], r"answers of shape \[1\] for 2 rows"),
        (np.zeros((2, 1, 1)), r"answers of shape \[2, 1, 1\]"),
    ],
)
def test_answers_that_are_none(answer, told):
    """One number or one row of numbers for each row, or it isn't an answer."""
    model = loaders.load(of("joblib", {"m.joblib": pickled(Answers(answer))}))
    with pytest.raises(LoadError, match=told):
        model.predict(np.zeros((2, 2)))


def test_a_column_is_a_vector():
    """Estimators that answer [n, 1] are as good as those that answer [n]."""
    model = loaders.load(of("joblib", {"m.joblib": pickled(Answers([[1.0], [2.0]]))}))
    assert model.predict(np.zeros((2, 2)))[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("scaler", "told"), [(Halves(), r"makes \[2, 1\] out of \[2, 2\]"), (Raises(), "raised")]
)
def test_scalers_that_change_what_a_row_is(scaler, told):
    """A scaler transforms; it neither drops columns nor raises."""
    files = {"m.joblib": pickled(FITTED), "scaler.joblib": pickled(scaler.fit(np.eye(2)))}
    with pytest.raises(LoadError, match=told):
        loaders.load(of("joblib", files)).predict(np.zeros((2, 2)))


def graph(shape: list[object], kind: int = onnx.TensorProto.FLOAT) -> bytes:
    given = onnx.helper.make_tensor_value_info("x", kind, shape)
    made = onnx.helper.make_tensor_value_info("y", kind, shape)
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [given], [made]),
        opset_imports=[onnx.helper.make_opsetid("", 15)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (graph(["n", 3]), "takes 3 features"),
        (graph(["n"]), "isn't one float matrix"),
        (graph(["n", 2], onnx.TensorProto.STRING), "isn't one float matrix"),
    ],
)
def test_onnx_graphs_of_another_shape(data, told):
    """The input is one matrix of the sealed features."""
    with pytest.raises(LoadError, match=told):
        loaders.load(of("onnx", {"m.onnx": data}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((b"tree\n", b"forest\n"), "the first line isn't 'tree'"),
        ((b"tree\n", b"tree\n\xff"), "not UTF-8"),
        ((b"tree_sizes=", b"tree_sizes=many "), "aren't numbers"),
        ((b"feature_infos=", b"feature_infos=[0:1] "), "4 feature names, but 5 feature_infos"),
        ((b"tree_sizes=", b"tree_sizes=-1 "), "tree 0 isn't where"),
        ((b"end of trees", b"end of tr33s"), "'end of trees' isn't where"),
        ((b"end of parameters", b"end of p4rameters"), "'end of parameters' is missing"),
    ],
)
def test_lightgbm_text_that_was_edited(models, change, told):
    """The outline shows it before LightGBM has to."""
    data = models["a"].path.read_bytes().replace(*change, 1)
    with pytest.raises(LoadError, match=told):
        check_complete(data, where="model.txt")


def test_lightgbm_text_without_sizes_is_searched_for_its_end(models):
    """Older files have no tree_sizes: their end is looked for."""
    lines = models["a"].path.read_bytes().splitlines(keepends=True)
    data = b"".join(line for line in lines if not line.startswith(b"tree_sizes="))
    assert check_complete(data, where="model.txt").tree_sizes is None
    with pytest.raises(LoadError, match="'end of trees' is missing"):
        check_complete(data[: data.index(b"end of trees")], where="model.txt")
    assert parse_header(data, where="model.txt").features == FEATURES


def test_a_model_whose_answers_are_not_finite_is_refused(registry, models, tmp_path):
    """Infinity loads and predicts; it never gets in."""
    text = models["a"].path.read_text()
    line = next(line for line in text.splitlines() if line.startswith("leaf_value="))
    size = len(line) - len("leaf_value=")
    leaves = line.count(" ") + 1
    values = " ".join(["1e999"] * leaves)
    assert len(values) <= size
    (tmp_path / "bad.txt").write_text(text.replace(line, f"leaf_value={values}".ljust(len(line)), 1))
    with pytest.raises(LoadError, match=r"isn't finite|LightGBM refuses"):
        registry.register("m", tmp_path / "bad.txt")


# -- golden rows


def test_a_golden_file_that_would_not_fit_into_memory(monkeypatch):
    """What it would unpack to is known beforehand."""
    monkeypatch.setattr("modelreg.golden.MAX_GOLDEN_BYTES", 100)
    assert MAX_GOLDEN_BYTES > 100
    with pytest.raises(IntegrityError, match="larger than 100 bytes unpacked"):
        load(dump(Golden(np.zeros((50, 2)), {})))


def test_golden_arrays_in_fortran_order_and_of_another_shape():
    """numpy's other memory order is read as what it means; an output of another shape differs."""
    stream = io.BytesIO()
    rows = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    np.savez(stream, rows=rows)
    assert np.array_equal(load(stream.getvalue()).rows, rows)
    golden = Golden(rows, {"p": np.zeros(3)}, {})
    assert "the golden one [3]" in str(first_difference(golden, {"p": np.zeros((3, 2))}, {}))


# -- machines


def test_a_probe_that_has_nowhere_to_write(two, monkeypatch, tmp_path):
    """No temporary directory: the store's trouble, not the model's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(StoreUnavailableError, match="can't run the probe"):
        two.validate("momentum:1.0.0")


@pytest.mark.parametrize("at", ["versions/1.2.0", ".onnx"])
def test_a_version_that_vanishes_while_it_is_backed_up_comes_from_the_trash(two, root, tmp_path, at):
    """Deleted between the reading of the log and of its files, or of its exports: the backup has all of them."""
    two.register(
        "momentum", two.version_dir("momentum", "1.0.0") / "model.txt", version="1.2.0", golden=False
    )
    (tmp_path / "c.onnx").write_bytes(b"converted")
    two.add_export("momentum:1.2.0", tmp_path / "c.onnx", format="onnx")
    state = two.state("momentum")
    other = Registry(root)

    class Late:
        """An os in which the version is deleted right before something of it is opened."""

        def __getattr__(self, name):
            return getattr(os, name)

        def open(self, path, *arguments, **options):
            if str(path).endswith(at) and other.state("momentum").seq == state.seq:
                other.delete("momentum:1.2.0")
            return os.open(path, *arguments, **options)

    path, _ = Registry(root, disk=Disk(Late())).backup(tmp_path / "b.tar")
    restore(path, tmp_path / "back")
    assert Registry(tmp_path / "back").state("momentum") == state
    assert Registry(tmp_path / "back").doctor() == []


def test_a_version_that_is_nowhere_is_not_backed_up(two, tmp_path):
    """Neither in its place nor in the trash: the backup says which one, and isn't written."""
    away = two.version_dir("momentum", "1.0.0")
    away.rename(tmp_path / "away")
    with pytest.raises(IntegrityError, match="missing, though it is registered"):
        two.backup(tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()
    with pytest.raises(IntegrityError, match="restore it from a backup"):
        two.promote("momentum:1.0.0", reason="x")


def test_a_backup_has_signatures_and_needs_no_settings(two, root, tmp_path):
    """Into a directory that is given, out into one that is empty; signatures are in it, other files aren't."""
    (root / ".registry/registry.yaml").unlink()
    signatures = root / "momentum/signatures"
    signatures.mkdir()
    (signatures / "1.0.0.sig").write_bytes(b"s" * 64)
    (signatures / "notes.txt").write_text("x")
    (tmp_path / "into").mkdir()
    (tmp_path / "back").mkdir()
    path, _ = two.backup(tmp_path / "into")
    assert path.parent == tmp_path / "into"
    restore(path, tmp_path / "back")
    assert [file.name for file in (tmp_path / "back/momentum/signatures").iterdir()] == ["1.0.0.sig"]
    assert not (tmp_path / "back/.registry/registry.yaml").exists()
    fails = FailsAt(errno.ENOSPC)
    fails.arm(0)
    with pytest.raises(StoreUnavailableError, match="No space left"):
        restore(path, tmp_path / "again", disk=Disk(fails))
    assert not (tmp_path / "again").exists()


def test_a_disk_that_fills_up_while_signing_and_exporting(two, root, tmp_path):
    """The store's trouble, told with the file; neither signature nor export is half there."""
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, timeout=20)
    (tmp_path / "c.pmml").write_bytes(b"converted")
    full = Registry(root, disk=Disk(Refuses("write", code=errno.ENOSPC)))
    with pytest.raises(StoreUnavailableError, match=r"1\.0\.0\.sig: can't be written: No space left"):
        full.sign("momentum:1.0.0", key)
    with pytest.raises(StoreUnavailableError, match=r"pmml: can't be written: No space left"):
        full.add_export("momentum:1.0.0", tmp_path / "c.pmml", format="pmml")
    assert not list(root.glob("momentum/signatures/*"))
    assert two.state("momentum").versions["1.0.0"].exports == ()


@pytest.mark.usefixtures("two")
def test_directories_that_cannot_be_listed(root, tmp_path):
    """Another tool's, the root, the leases: the store is unavailable, and nothing is taken for empty."""
    with pytest.raises(StoreUnavailableError, match="can't be read"):
        discover(root, None, Disk(Refuses("listdir")))
    blind = Registry(root, disk=Disk(Refuses("listdir")), heal=False)
    for look in (blind.models, blind.leases):
        with pytest.raises(StoreUnavailableError, match="can't be read"):
            look()
    with pytest.raises(NotFoundError, match=r"no model 'absent'; .*can't be read"):
        blind.state("absent")
    with pytest.raises(StoreUnavailableError, match="can't be read"):
        Registry(root, disk=Disk(Refuses("open")))
    with pytest.raises(StoreUnavailableError, match="can't make a registry"):
        Registry.init(tmp_path / "new", disk=Disk(Refuses("mkdir")))


@pytest.mark.usefixtures("two")
def test_a_registry_of_a_newer_format_or_a_damaged_one(root):
    """A newer modelreg is asked for; damage is told; neither is written over."""
    home = root / ".registry/registry.json"
    told = json.loads(home.read_bytes())
    home.write_text(json.dumps({**told, "format": 2}))
    with pytest.raises(StoreUnavailableError, match="format 2 is newer"):
        Registry(root)
    home.write_text("{}")
    with pytest.raises(IntegrityError, match="damaged"):
        Registry.init(root)


def test_a_machine_without_git_and_without_names(monkeypatch):
    """No git, no passwd entry: versions are registered all the same."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MODELREG_ACTOR", raising=False)
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(OSError("no such user")))
    seen = environment.capture("me")
    assert (seen["git_commit"], seen["git_dirty"]) == (None, None)
    assert environment.default_actor().startswith(f"{os.getuid()}@")
    assert environment.library_versions(["no-such-library"]) == {}


def test_clocks_that_disagree_never_give_negative_hours():
    """Machines that share a disk have their own clocks, and a damaged moment counts as none."""
    assert seconds_between("2024-01-02T00:00:00Z", "2024-01-01T00:00:00Z") == 0.0
    assert seconds_between("then", "2024-01-01T00:00:00Z") == 0.0


def test_a_loader_in_a_process_of_its_own_is_started_twice_and_told_what_is_wrong(two, caplog):
    """Starting twice follows once; without a model it says so; a callback that raises doesn't end it."""
    loader = ProductionModelLoader(two, "momentum", channel="staging", poll_s=60, prove=False)
    with pytest.raises(NotFoundError, match="nothing is in the channel"):
        loader.current()
    with loader, loader:
        two.promote("momentum:1.0.0", to="staging", reason="x")
        assert loader.current().version == "1.0.0"
        assert not loader.reload()
    assert caplog.text.count("the last good model stays") == 1

    def fails(*_: object) -> None:
        raise ValueError("not mine")

    with ProductionModelLoader(
        two, "momentum", channel="staging", prove=False, watch=False, on_change=fails
    ) as other:
        assert other.current().version == "1.0.0"
    assert "on_change raised" in caplog.text
