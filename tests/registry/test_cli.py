"""The command as outsiders use it: processes, exit statuses, stdout and stderr."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_whole_life_of_two_versions(run, root, models):
    """init, register, list, promote, rollback, history and show tell one consistent story."""
    assert run("init").status == 0
    assert run("init").status == 0
    first = run(
        "register", "momentum", models["a"].path, "--version", "1.0.0",
        "--metrics", '{"ic": 0.04, "1d": {"rmse": 0.1}}',
        "--tag", "nightly", "--data-range", "1990-01-02:1993-08-01", "--notes", "first", "--meta",
        '{"task_type": "regression", "config": {"b": 1, "a": 2}, "desk": "fx"}',
    )  # fmt: skip
    assert (first.status, first.out, first.err) == (0, "momentum:1.0.0\n", "")
    second = run("register", "momentum", models["b"].path, "--version", "v1.1.0",
                 "--parent", "momentum:1.0.0",
                 "--metrics", '{"ic": 0.06}')  # fmt: skip
    assert second.out == "momentum:v1.1.0\n"
    assert run("promote", "momentum:1.0.0", "--reason", "go").status == 0
    promoted = run("promote", "momentum:v1.1.0", "--reason", "better", "--json").json
    assert (promoted["from_version"], promoted["to_version"], promoted["seq"]) == ("1.0.0", "v1.1.0", 4)
    assert os.readlink(root / "production/momentum") == "../momentum/versions/v1.1.0"
    assert os.readlink(root / "production/latest") == "../momentum/versions/v1.1.0"
    assert run("rollback", "momentum", "--mark-failed", "--reason", "loses money").status == 0
    assert (root / "production/latest").resolve().name == "1.0.0"
    assert [row["version"] for row in run("list", "--json").json] == ["v1.1.0", "1.0.0"]
    assert run("list", "--quiet", "--status", "failed").out == "momentum:v1.1.0\n"
    assert run("list", "-q", "--min", "ic=0.05").out == "momentum:v1.1.0\n"
    assert run("list", "-q", "--sort", "ic", "--limit", "1").out == "momentum:v1.1.0\n"
    assert run("list", "-q", "--tag", "nightly", "--channel", "production", "--task-type", "regression").out
    shown = run("show", "momentum:production", "--json").json
    assert (shown["stage"], shown["status"], shown["metadata"]["desk"]) == ("production", "registered", "fx")
    assert shown["metadata"]["data_range"] == {"start": "1990-01-02", "end": "1993-08-01"}
    history = run("history", "momentum", "--json").json
    assert [entry["seq"] for entry in history] == [5, 4, 3, 2, 1]
    assert (history[0]["actor"], history[0]["reason"]) == ("cli-tester", "loses money")
    assert history[0]["changes"] == [
        {"channel": "production", "from_version": "v1.1.0", "to_version": "1.0.0"}
    ]
    assert "v1.1.0 → 1.0.0" in run("history").out
    assert "momentum" in run("list").out


def test_exit_statuses_tell_what_was_wrong(run, models, tmp_path):
    """Each kind of refusal has its own status and says something on stderr and nothing on stdout."""
    model = models["a"].path
    assert run("list").status == 3  # no registry yet
    run("init")
    assert run("register", "m", model, "--version", "1.0.0", "--no-golden").status == 0
    run("register", "m", models["b"].path, "--version", "1.1.0", "--no-golden")
    run("fail", "m:1.1.0", "--reason", "wrong")
    for status, arguments in [
        (2, ["nonsense"]),
        (2, ["promote", "m:1.0.0"]),
        (2, ["promote", "m:1.0.0", "--reason", " "]),
        (2, ["register", "../m", model]),
        (2, ["register", "m", model, "--metrics", "[]"]),
        (2, ["register", "m", model, "--metrics", '{"ic": "high"}']),
        (2, ["register", "m", model, "--meta", '{"digest": 1, "files": {}}']),
        (2, ["register", "m", model, "--features", "one,two"]),
        (2, ["register", "m"]),
        (3, ["show", "m:9.9.9"]),
        (3, ["show", "m:staging"]),
        (3, ["show", "nobody"]),
        (3, ["register", "m", tmp_path / "absent.txt"]),
        (4, ["register", "m", model, "--version", "1.0.0"]),
        (4, ["promote", "m:1.1.0", "--reason", "again"]),
        (4, ["promote", "m:1.0.0", "--reason", "x", "--expect", "7.7.7"]),
        (4, ["rollback", "m", "--reason", "nothing there"]),
    ]:
        done = run(*arguments)
        assert (done.status, done.out, bool(done.err)) == (status, "", True), (arguments, done)
    assert "m:1.0.0 exists already" in run("register", "m", model, "--version", "1.0.0").err


def test_an_unreadable_root_is_status_7(run, root):
    """A store that can't be reached is told apart from one that isn't there."""
    run("init")
    (root / ".registry/registry.json").unlink()
    (root / ".registry/registry.json").symlink_to("registry.json")
    assert run("list").status == 7


def test_a_truncated_model_is_refused_unless_nothing_is_loaded(run, root, models, tmp_path):
    """Truncated at many places: exit 6 and nothing left behind.

    With --no-golden it is sealed, and validate says 6.
    """
    run("init")
    data = models["a"].path.read_bytes()
    short = tmp_path / "short.txt"
    trees = data.index(b"Tree=0")
    for end in (10, trees - 5, trees + 100, (trees + len(data)) // 2, data.index(b"end of trees") - 2):
        short.write_bytes(data[:end])
        done = run("register", "m", short, "--version", "1.0.0")
        assert (done.status, done.out) == (6, ""), (end, done)
        assert "txt" in done.err
    assert not (root / "m").exists()
    assert list((root / ".registry/staging").iterdir()) == []
    short.write_bytes(data[: (trees + len(data)) // 2])
    assert run("register", "m", short, "--version", "1.0.0", "--no-golden").status == 0
    assert (root / "m/versions/1.0.0/model.txt").read_bytes() == short.read_bytes()
    assert run("validate", "m:1.0.0").status == 6
    assert run("show", "m:1.0.0", "--json").json["status"] == "registered"


def test_validate_replays_the_golden_rows(run, models):
    """A sound version passes, is marked as validated, and says how many rows were replayed."""
    run("init")
    run("register", "m", models["a"].path, "--version", "1.0.0")
    report = run("validate", "m", "--json").json
    assert (report["ok"], report["golden_rows"]) == (True, 128)
    assert run("show", "m", "--json").json["status"] == "validated"


def test_sealed_files_satisfy_sha256sum_and_survive_a_move(run, root, models, tmp_path):
    """`sha256sum -c --strict` passes; a registry that was tarred elsewhere validates and promotes there."""
    run("init")
    run("register", "m", models["a"].path, "--version", "1.0.0")
    run("promote", "m:1.0.0", "--reason", "go")
    sealed = root / "m/versions/1.0.0"
    check = ["sha256sum", "-c", "--strict", "--quiet", "checksum.sha256"]
    subprocess.run(check, cwd=sealed, check=True, timeout=10)
    listed = {line.split("  ")[1] for line in (sealed / "checksum.sha256").read_text().splitlines()}
    assert listed == {path.name for path in sealed.iterdir()} - {"checksum.sha256"}
    subprocess.run(["tar", "-C", root.parent, "-cf", tmp_path / "r.tar", root.name], check=True, timeout=10)
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "elsewhere", "-xf", tmp_path / "r.tar"], check=True, timeout=10)
    shutil.rmtree(root)
    moved = tmp_path / "elsewhere" / root.name
    assert run("validate", "m", "--root", moved).status == 0
    assert (moved / "production/latest/model.txt").read_bytes() == models["a"].path.read_bytes()


def test_several_outputs_and_artefacts(run, root, models, tmp_path):
    """One estimator per horizon is sealed as <output>.txt, artefacts under their own names."""
    run("init")
    table = tmp_path / "feature_importance.csv"
    table.write_text("feature,gain\nret_1d,1\n")
    done = run("register", "m", table, "--output", f"1d={models['a'].path}",
               "--output", f"7d={models['b'].path}",
               "--version", "1.0.0")  # fmt: skip
    assert done.status == 0, done
    names = {path.name for path in (root / "m/versions/1.0.0").iterdir()}
    assert {"1d.txt", "7d.txt", "feature_importance.csv", "golden.npz"} < names
    assert run("show", "m", "--json").json["metadata"]["outputs"] == ["1d", "7d"]
    assert run("validate", "m").status == 0


def test_every_verb_and_option_has_help_and_is_documented(request):
    """No verb, option or argument is without a text, and docs/registry.md names each verb and option."""
    import typer

    from modelreg.cli import app

    group = typer.main.get_command(app)
    documented = (request.config.rootpath / "docs/registry.md").read_text()
    for parameter in group.params:
        assert parameter.help or parameter.name == "help", parameter
    for verb, command in group.commands.items():
        assert command.help, verb
        assert f"`{verb}" in documented, verb
        row = next((line for line in documented.splitlines() if line.startswith(f"| `{verb}")), None)
        assert row, f"{verb} has no row in the table of verbs"
        for parameter in command.params:
            if parameter.name == "help":
                continue
            assert parameter.help, (verb, parameter)
            if parameter.param_type_name == "option":
                assert any(name in row for name in parameter.opts), (verb, parameter.opts)


def test_help_works_after_a_verb(run):
    """-h prints the verb's own help."""
    done = run("promote", "-h")
    assert done.status == 0
    assert "--override-gates" in done.out


def test_the_command_tells_its_version_and_completes(run):
    """--version, and what a shell asks for when somebody presses the tab key."""
    assert run("--version").out == f"modelreg {importlib.metadata.version('modeld')}\n"
    asked = {
        "_MODELREG_COMPLETE": "complete_bash",
        "COMP_WORDS": "modelreg promote --over",
        "COMP_CWORD": "2",
    }
    assert run(env=asked).out == "--override-gates\n"


def test_the_command_never_imports_heavy_libraries():
    """Neither lightgbm nor numpy is loaded by the command's imports."""
    code = "import sys, modelreg.cli; sys.exit(bool({'lightgbm', 'numpy', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


def test_settings_errors_name_file_line_and_key(run, tmp_path):
    """A misspelt key in --config is exit 2 with its line."""
    settings = tmp_path / "registry.yaml"
    settings.write_text("golden:\n  rows: 64\n  nan_fractoin: 0.1\n")
    done = run("init", options=["--config", str(settings)])
    assert done.status == 2
    assert f"{settings}:3: golden.nan_fractoin: unknown key" in done.err


def test_environment_names_the_root(run, root):
    """MODELREG_ROOT stands where --root isn't given."""
    run("init")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("modelreg")), "list", "--json"],
        capture_output=True, timeout=30, env={**os.environ, "MODELREG_ROOT": str(root)}, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    "name", ["..", "a/b", "production", "latest", "-x", "A", "", "a" * 65, "a%2f", "ä", "manifest.json"]
)
def test_names_that_are_refused(run, root, models, name):
    """A name that isn't one is exit 2, and nothing is written for it."""
    run("init")
    before = sorted(root.rglob("*"))
    assert run("register", "--", name, models["a"].path).status == 2
    assert sorted(root.rglob("*")) == before
