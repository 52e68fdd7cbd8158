"""Settings: complete in the shipped file, overridden in order, and wrong ones named with their place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from modeld.config import Config, effective, load
from modelreg.errors import ConfigError

SHIPPED = Path(__file__).parents[1] / "config/modeld.yaml"


def keys(value: dict[str, Any], above: str = "") -> list[str]:
    return [
        key
        for name, inner in value.items()
        for key in (keys(inner, f"{above}{name}.") if isinstance(inner, dict) else [f"{above}{name}"])
    ]


def test_the_shipped_file_lists_every_setting_with_its_default():
    """config/modeld.yaml is complete and changes nothing."""
    assert load(SHIPPED, environ={}) == Config()
    shipped, defaults = yaml.safe_load(SHIPPED.read_text()), msgspec.to_builtins(Config())
    assert shipped == defaults
    assert keys(shipped) == keys(defaults), "in the order of the code"


def test_every_setting_has_a_comment():
    """On its own line, or for the endpoints on the line of their group."""
    lines = SHIPPED.read_text().splitlines()
    bare = [
        line.strip()
        for line in lines
        if re.match(r"\s*\w+: *\S", line) and "#" not in line and "{runtime_dir}" not in line
    ]
    assert not bare
    assert any(line.startswith("endpoints:") and "#" in line for line in lines)


def test_the_option_wins_over_the_environment_and_that_over_the_file(tmp_path):
    """Each layer changes single keys and leaves the others."""
    path = tmp_path / "modeld.yaml"
    path.write_text("watch: {poll_interval_s: 5, inotify: false}\nlimits: {max_rows: 10}\n")
    environ = {"MODELD_WATCH__POLL_INTERVAL_S": "4", "MODELD_LIMITS__MAX_ROWS": "20", "OTHER": "x"}
    config = load(path, ["limits.max_rows=30"], environ)
    assert (config.watch.poll_interval_s, config.watch.inotify, config.limits.max_rows) == (4, False, 30)
    assert load(None, [], {**environ, "MODELD_CONFIG": str(path)}).limits.max_rows == 20


def test_values_from_outside_are_yaml():
    """Lists, booleans and strings as in the file."""
    config = load(
        None, ["source.models=[alpha, beta]", "watch.inotify=false"], {"MODELD_RUNTIME_DIR": "/tmp/x"}
    )
    assert (config.source.models, config.watch.inotify) == (["alpha", "beta"], False)
    assert config.data_endpoints[0] == "ipc:///tmp/x/data/predict.sock"


def test_the_endpoint_of_the_commands_is_no_setting():
    """MODELD_ENDPOINT and MODELD_CONFIG have our prefix and other readers."""
    assert load(None, [], {"MODELD_ENDPOINT": "ipc:///x"}) == Config()


@pytest.mark.parametrize(
    ("text", "overrides", "environ", "expected"),
    [
        ("pool: 1\n", [], {}, "modeld.yaml:1: pool: unknown key"),
        ("watch:\n  inotify: true\n  pol: 1\n", [], {}, "modeld.yaml:3: watch.pol: unknown key"),
        (
            "\nlimits:\n  max_rows: many\n",
            [],
            {},
            "modeld.yaml:3: limits.max_rows: expected 'int', got 'str'",
        ),
        ("limits: {max_rows: 0}\n", [], {}, "modeld.yaml:1: limits.max_rows: expected 'int' >= 1"),
        ("on_reject: panic\n", [], {}, "on_reject"),
        ("endpoints:\n  data: []\n", [], {}, "endpoints.data"),
        ("", ["watch.pol=1"], {}, "--set watch.pol=1: watch.pol: unknown key"),
        ("", ["limits.max_rows=many"], {}, "--set limits.max_rows=many: limits.max_rows: expected 'int'"),
        ("", ["limits.max_rows"], {}, "--set limits.max_rows: expected KEY=VALUE"),
        ("", ["on_reject.x=1"], {}, "on_reject"),
        (
            "",
            [],
            {"MODELD_LIMITS__MAX_ROWS": "x"},
            "MODELD_LIMITS__MAX_ROWS: limits.max_rows: expected 'int'",
        ),
        ("", [], {"MODELD_LIMITS__ROWS": "1"}, "MODELD_LIMITS__ROWS: limits.rows: unknown key"),
        ("", ["trial.timeout_s=.nan"], {}, "trial.timeout_s"),
        ("", ["trial.timeout_s=.inf"], {}, "trial.timeout_s"),
        ("", ["probation.seconds=1e300"], {}, "probation.seconds"),
        ("", ["limits.drain_timeout_s=-1"], {}, "limits.drain_timeout_s"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, text, overrides, environ, expected):
    """The file and line, the variable or the option; the key; the problem."""
    path = tmp_path / "modeld.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, overrides, environ)
    assert expected in str(caught.value)


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODELD_")}
    return subprocess.run(
        [str(Path(sys.executable).with_name("modeld")), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**inherited, **environ},
        check=False,
    )


def test_check_config_prints_what_is_in_effect(tmp_path):
    """The output is a settings file that means the same, endpoints resolved."""
    path = tmp_path / "modeld.yaml"
    path.write_text(f"runtime_dir: {tmp_path}\n")
    done = command(
        "--config", str(path), "--set", "limits.max_rows=5", "check-config", MODELD_ON_REJECT="hold"
    )
    assert (done.returncode, done.stderr) == (0, "")
    again = load(path, ["limits.max_rows=5"], {"MODELD_ON_REJECT": "hold"})
    assert done.stdout == effective(again)
    assert yaml.safe_load(done.stdout)["endpoints"]["admin"] == f"ipc://{tmp_path}/admin/admin.sock"


def test_check_config_names_every_mistake_and_exits_2(tmp_path):
    """One run shows all that is wrong, whether it comes from the file, a variable or an option."""
    path = tmp_path / "modeld.yaml"
    path.write_text("limits:\n  max_rows: many\nwatch:\n  pol: 1\nstate_dir: [1]\n")
    done = command(
        "--config",
        str(path),
        "--set",
        "trial.timeout_s=soon",
        "check-config",
        MODELD_PROBATION__REQUESTS="-1",
    )
    assert (done.returncode, done.stdout) == (2, "")
    for place in (
        f"{path}:2: limits.max_rows",
        f"{path}:4: watch.pol",
        f"{path}:5: state_dir",
        "MODELD_PROBATION__REQUESTS: probation.requests",
        "--set trial.timeout_s=soon: trial.timeout_s",
    ):
        assert f"modeld: {place}: " in done.stderr
    assert len(done.stderr.splitlines()) == 5


def test_a_file_that_was_named_must_be_there(tmp_path):
    """A misspelt path isn't the defaults."""
    done = command("--config", str(tmp_path / "absent.yaml"), "check-config")
    assert done.returncode == 2
    assert "can't read the settings" in done.stderr
