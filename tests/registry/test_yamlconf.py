"""Settings files: the shipped one equals the defaults, and errors name file, line and key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from modelreg.errors import ConfigError
from modelreg.settings import Settings, load_settings
from modelreg.yamlconf import load_yaml

SHIPPED = Path(__file__).parents[2] / "config/registry.yaml"


class Item(msgspec.Struct, forbid_unknown_fields=True):
    size: int = 1


class Example(msgspec.Struct, forbid_unknown_fields=True):
    items: list[Item] = []
    table: dict[str, Item] = {}


def test_the_shipped_file_lists_every_setting_with_its_default():
    """config/registry.yaml is complete and changes nothing, but for the gates of production that it names."""
    import yaml

    shipped = load_settings(SHIPPED)
    assert msgspec.structs.replace(shipped, gates={}) == Settings()
    assert list(shipped.gates) == ["production"]
    told, defaults = yaml.safe_load(SHIPPED.read_text()), msgspec.to_builtins(Settings())
    assert {**told, "gates": {}} == defaults
    assert told["gates"]["production"].keys() == msgspec.to_builtins(shipped.gates["production"]).keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("items:\n- size: 1\n- size: big\n", ":3: items.1.size: expected 'int', got 'str'"),
        ("items: []\n\nitem: 2\n", ":3: item: unknown key"),
        ("items:\n- size: 1\n  sise: 2\n", ":3: items.0.sise: unknown key"),
        ("items: 3\n", ":1: items: expected 'array', got 'int'"),
        ("items: []\nitems: []\n", ":2: items: repeated, first set at line 1"),
        ("items: [\n", "not valid YAML"),
        ("3\n", ":1: the whole file: expected 'object', got 'int'"),
    ],
)
def test_errors_name_file_line_and_key(tmp_path, text, expected):
    """What is wrong can be found without searching."""
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path, Example)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)


def test_an_empty_file_means_defaults_and_a_missing_one_is_an_error(tmp_path):
    """Nothing set is fine; nothing there isn't."""
    (tmp_path / "empty.yaml").write_text("")
    assert load_yaml(tmp_path / "empty.yaml", Example) == Example()
    with pytest.raises(ConfigError, match="can't read"):
        load_yaml(tmp_path / "absent.yaml", Example)
