"""Models kept in somebody's own process; data-set versions; the cache of factors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest

from modelreg import (
    ConfigError,
    DiskExpressionCache,
    PromotionGateError,
    Registry,
    StoreUnavailableError,
    UsageError,
    VersionCompatibilityChecker,
    compute_config_hash,
)
from modelreg.settings import DatasetSettings, Settings

HOST = """
import sys, threading, logging
import numpy as np
from modelreg import ProductionModelLoader, RegistryError
logging.basicConfig(stream=sys.stdout, format="%(message)s")
poll_s, watch = float(sys.argv[2]), sys.argv[3] == "watch"
def changed(now, before):
    print("changed", before and before.version, now.version, flush=True)
with ProductionModelLoader(sys.argv[1], "m", poll_s=poll_s, watch=watch, on_change=changed) as loader:
    for line in sys.stdin:
        try:
            current = loader.current()
            print(current.version, float(current.model.predict(np.zeros((1, 4)))[0][0]), flush=True)
        except RegistryError as error:
            print("error", error, flush=True)
"""


@pytest.mark.parametrize(("poll_s", "how"), [(0, "watch"), (0.05, "poll")])
def test_a_loader_follows_production_and_keeps_the_last_good_model(registry, root, models, flip, poll_s, how):
    """A promotion is loaded by watchdog or poll; a damaged version is told, and the one before goes on answering."""
    for version, model in (("1.0.0", "a"), ("1.1.0", "b"), ("1.2.0", "c")):
        registry.register(
            "m", models[model].path, version=version, golden=None if version == "1.0.0" else False
        )
    registry.promote("m:1.0.0", reason="x")
    process = subprocess.Popen(
        [sys.executable, "-c", HOST, root, str(poll_s), how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:

        def ask() -> str:
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert process.stdout.readline() == "changed None 1.0.0\n"
        expected = float(models["a"].booster.predict([[0.0] * 4], num_threads=1)[0])
        assert ask() == f"1.0.0 {expected}"
        registry.promote("m:1.1.0", reason="x")
        assert process.stdout.readline() == "changed 1.0.0 1.1.0\n"
        assert ask().startswith("1.1.0 ")
        registry.promote("m:1.2.0", reason="x")
        assert process.stdout.readline() == "changed 1.1.0 1.2.0\n"
        flip(root / "m/versions/1.1.0/model.txt")
        registry._verify = lambda *_: registry.metadata("m", "1.1.0")  # promoted by somebody who doesn't look
        registry.promote("m:1.1.0", reason="x")
        told = process.stdout.readline()
        assert "the last good model stays" in told
        assert "model.txt" in told
        assert ask().startswith("1.2.0 ")
    finally:
        process.stdin.close()
        process.wait(timeout=20)
        process.stdout.close()
    assert process.returncode == 0


def test_a_loader_with_nothing_to_load_says_so(registry, root, models):
    """current() raises until something is in the channel."""
    registry.register("m", models["a"].path, version="1.0.0", golden=False)
    code = (
        "import sys; from modelreg import *\n"
        "try: ProductionModelLoader(sys.argv[1], 'm').current()\n"
        "except NotFoundError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, root], capture_output=True, text=True, timeout=60, check=True
    )
    assert "nothing is in the channel" in done.stdout


@pytest.mark.parametrize(
    ("strict", "current", "compatible", "level"),
    [
        (True, {"prices": "7", "fx": "1"}, True, "exact"),
        (True, {"prices": "8", "fx": "1"}, False, "drift"),
        (False, {"prices": "8", "fx": "1"}, True, "drift"),
        (False, {"prices": "7"}, False, "missing"),
        (True, {"fx": "2"}, False, "missing"),
    ],
)
def test_data_set_versions(strict, current, compatible, level):
    """Strict: drift blocks; lenient: it warns; a missing data set always blocks."""
    found = VersionCompatibilityChecker(strict).check(["prices@7", "fx:1"], current)
    assert (found.compatible, found.level) == (compatible, level)
    assert bool(found.warnings) is (level != "exact")


def test_promote_compares_data_sets(root, models, tmp_path, caplog):
    """From a file or a command: drift is a gate that isn't passed, a warning where lenient, or overridden."""
    told = tmp_path / "current.json"
    told.write_text('{"prices": "8"}')
    command = [sys.executable, "-c", 'print(\'{"prices": "7"}\')']

    def opened(**datasets) -> Registry:
        return Registry.init(root, settings=Settings(datasets=DatasetSettings(**datasets)))

    opened().register(
        "m", models["a"].path, version="1.0.0", golden=False, meta={"dataset_version_ids": ["prices@7"]}
    )
    with pytest.raises(PromotionGateError, match="'prices' is at 8"):
        opened(file=str(told)).promote("m:1.0.0", reason="x")
    assert opened(file=str(told)).promote("m:1.0.0", reason="x", override_gates=True).overridden
    opened(file=str(told), strict=False).promote("m:1.0.0", to="staging", reason="x")
    assert "is at 8" in caplog.text
    opened(command=command).promote("m:1.0.0", reason="x")
    for wrong in ({"file": "absent.json"}, {"command": ["false"]}, {"command": ["echo", "[]"]}):
        with pytest.raises(ConfigError, match="datasets"):
            opened(**wrong).promote("m:1.0.0", to="shadow", reason="x")


def test_the_configuration_hash_ignores_the_order_of_keys():
    """Nested keys too; another value is another hash, and it is the one that register seals."""
    assert compute_config_hash({"a": 1, "b": {"c": 2, "d": 3}}) == compute_config_hash(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert compute_config_hash({"a": 1}) != compute_config_hash({"a": 2})


@pytest.fixture
def cache(tmp_path):
    now = [1e9]
    cache = DiskExpressionCache(tmp_path / "cache", ttl_s=60, max_bytes=20_000, clock=lambda: now[0])
    cache.now = now
    return cache


def frame(value: int, rows: int = 3) -> pa.Table:
    return pa.table({"value": [value] * rows})


def test_the_cache_computes_once_and_forgets_in_time(cache):
    """get_or_compute tells whether it was there; too old is missing; keys can't be confused."""
    key = cache.key("momentum", "2024-01-31", "prices@7", "s1", "abc")
    assert key == "momentum:2024-01-31:prices@7:s1:abc"
    assert cache.get_or_compute(key, lambda: frame(1)) == (frame(1), False)
    assert cache.get_or_compute(key, lambda: frame(2)) == (frame(1), True)
    assert cache.get(key + "x") is None
    cache.now[0] += 61
    assert cache.get(key) is None
    assert cache.get_or_compute(key, lambda: frame(2)) == (frame(2), False)
    with pytest.raises(UsageError, match="colon"):
        cache.key("a:b", "", "", "", "")
    with pytest.raises(UsageError, match="isn't a frame"):
        cache.put(key, 7)
    assert cache.clear() == 1


def test_damaged_entries_are_computed_again(cache, tmp_path):
    """A truncated or foreign file is no entry."""
    cache.put("k", frame(1))
    path = next((tmp_path / "cache").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:50])
    os.utime(path, (1e9, 1e9))
    assert cache.get_or_compute("k", lambda: frame(2)) == (frame(2), False)


def test_the_cache_takes_other_frames_and_says_where_it_cant_write(cache, tmp_path):
    """polars comes back as a pyarrow Table; a directory that went away, or can't be made, is an error of ours."""
    import polars

    cache.put("k", polars.DataFrame({"v": [1.0, 2.0]}))
    assert cache.get("k").to_pydict() == {"v": [1.0, 2.0]}
    (tmp_path / "cache").rename(tmp_path / "away")
    with pytest.raises(StoreUnavailableError, match="can't be written"):
        cache.put("k", frame(1))
    with pytest.raises(StoreUnavailableError, match="can't be made"):
        DiskExpressionCache(next((tmp_path / "away").iterdir()) / "below")


def test_the_cache_stays_below_its_size(cache, tmp_path):
    """What was used longest ago goes first."""
    for index in range(40):
        cache.now[0] += 1
        cache.put(str(index), frame(index))
        assert cache.get("0") == frame(0)
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 20_000
    assert cache.get("39") == frame(39)
    assert cache.get("1") is None


def test_what_a_killed_process_left_in_the_cache_goes(cache, tmp_path):
    """An unfinished file of long ago would never be counted; one that is being written stays."""
    for name, age_s in (("old", 7200), ("new", 0)):
        path = tmp_path / "cache" / f".tmp-{name}"
        path.write_bytes(b"PAR1")
        os.utime(path, (time.time() - age_s,) * 2)
    cache.put("k", frame(1))
    assert {path.name for path in (tmp_path / "cache").glob(".tmp-*")} == {".tmp-new"}


def test_processes_share_a_cache(tmp_path):
    """Processes and threads that compute the same at once all get a whole frame, and leave no litter."""
    code = (
        "import sys, pyarrow as pa; from modelreg import DiskExpressionCache\n"
        "cache = DiskExpressionCache(sys.argv[1])\n"
        "for i in range(30):\n"
        "    table, _ = cache.get_or_compute(str(i % 5), lambda: pa.table({'v': [i % 5] * 1000}))\n"
        "    assert table.column('v').to_pylist() == [i % 5] * 1000\n"
    )
    done: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: done.append(
                subprocess.run(
                    [sys.executable, "-c", code, tmp_path / "c"], timeout=60, check=False
                ).returncode
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [0] * 4
    assert all(path.suffix == ".parquet" for path in (tmp_path / "c").iterdir())
    assert json.dumps(sorted(os.listdir(tmp_path / "c"))).count("parquet") == 5
