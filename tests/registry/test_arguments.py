"""The little languages of the command line, and how results are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelreg import NotFoundError, UsageError, render
from modelreg.arguments import json_object, name_list, span, split_files
from modelreg.history import HistoryEntry


def test_json_comes_inline_or_from_a_file(tmp_path):
    """An object and nothing else; a file that isn't there or isn't UTF-8 is told by name."""
    (tmp_path / "m.json").write_text('{"ic": 0.1}')
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    assert json_object('{"a": [1]}', "--meta") == {"a": [1]}
    assert json_object(f"@{tmp_path}/m.json", "--metrics") == {"ic": 0.1}
    for wrong in ("[1]", "{", '{"a": "\udcff"}'):
        with pytest.raises(UsageError, match="--meta: not a JSON object"):
            json_object(wrong, "--meta")
    with pytest.raises(NotFoundError, match="nosuch: can't be read"):
        json_object(f"@{tmp_path}/nosuch", "--meta")
    with pytest.raises(UsageError, match="latin: not UTF-8"):
        json_object(f"@{tmp_path}/latin", "--meta")


def test_names_come_as_a_list_in_any_of_its_forms(tmp_path):
    """Commas, lines, a JSON array; none at all is a mistake."""
    (tmp_path / "names").write_text("a, b\n\nc\n")
    assert (
        name_list("a,b , c", "--features") == name_list(f"@{tmp_path}/names", "--features") == ["a", "b", "c"]
    )
    assert name_list('["x,y", "z"]', "--features") == ["x,y", "z"]
    for wrong, problem in (("[1]", "not a JSON array of names"), (" , ", "no names given")):
        with pytest.raises(UsageError, match=problem):
            name_list(wrong, "--features")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2015-01-01:2022-12-31", ("2015-01-01", "2022-12-31")),
        (":2022-12-31", (None, "2022-12-31")),
        ("2015-01-01:", ("2015-01-01", None)),
        ("2015-01-01T10:00:2015-01-02T11:30", ("2015-01-01T10:00", "2015-01-02T11:30")),
        ("2015-01-01T10:00:00:", ("2015-01-01T10:00:00", None)),
        (":2015-01-01T10:00:00", (None, "2015-01-01T10:00:00")),
    ],
)
def test_a_span_is_cut_at_its_own_colon(text, expected):
    """Moments have colons too."""
    assert span(text) == expected


def test_a_span_that_cant_be_cut_is_refused():
    """Without a colon there is no telling."""
    with pytest.raises(UsageError, match="expected START:END"):
        span("2015-01-01")


def test_files_are_sorted_into_estimators_and_artefacts():
    """One file, or one for each output; tables beside them."""
    table = Path("feature_importance.csv")
    assert split_files([Path("m.txt"), table], [], False) == (Path("m.txt"), [table])
    assert split_files([table], ["1d=a.txt", "7d=b=c.txt"], False) == (
        {"1d": Path("a.txt"), "7d": Path("b=c.txt")},
        [table],
    )


@pytest.mark.parametrize(
    ("files", "outputs", "both", "problem"),
    [
        ([], [], False, "no model file"),
        (["a.txt", "b.txt"], [], False, "several model files"),
        (["a.txt"], ["1d=b.txt"], False, "needs a name: --output NAME=a.txt"),
        ([], ["1d"], False, "expected NAME=FILE"),
        ([], ["=a.txt"], False, "expected NAME=FILE"),
        ([], ["1d=a.txt", "1d=b.txt"], False, "1d: given twice"),
        (["a.txt"], [], True, "contradict"),
    ],
)
def test_files_that_dont_fit_together_are_refused(files, outputs, both, problem):
    """Each with what to do about it."""
    with pytest.raises(UsageError, match=problem):
        split_files([Path(file) for file in files], outputs, both)


def test_facts_are_shown_short(capsys):
    """Many features are counted, empty fields are left out, and nothing is cut off where stdout is a file."""
    features = [f"feature_{index}" for index in range(12)]
    row = {
        "ref": "m:1.0.0",
        "tags": ["a", "b"],
        "reason": None,
        "metadata": {
            "features": features,
            "metrics": {"1d": {"ic": 0.5}},
            "config": {"b": 1},
            "ref": "not this",
        },
    }
    facts = dict(render.version_facts(row))
    assert facts["features"].endswith("feature_7, … (12 in all)")
    assert (facts["metrics"], facts["tags"], facts["config"]) == ("1d.ic=0.5", "a, b", '{"b": 1}')
    assert facts["ref"] == "m:1.0.0"
    assert "reason" not in facts
    assert (render.cell(None), render.cell(3), render.cell("x")) == ("-", "3", "x")
    render.print_table(("A",), [("x" * 500,)])
    assert "x" * 500 in capsys.readouterr().out


def test_records_are_told_in_words():
    """Each kind of operation; one that isn't known by its name."""
    ops = [
        {"op": "register", "version": "1.0.0"},
        {"op": "status", "version": "1.0.0", "status": "failed"},
        {"op": "tag", "version": "1.0.0", "tag": "x"},
        {"op": "quantum"},
    ]
    fields = {"name": "m", "seq": 1, "at": "t", "actor": "a", "reason": None, "ops": ops, "changes": ()}
    known = {key: value for key, value in fields.items() if key in HistoryEntry.__dataclass_fields__}
    blank = dict.fromkeys(set(HistoryEntry.__dataclass_fields__) - set(known))
    entry = HistoryEntry(**known, **blank)
    assert render.what_happened(entry) == "register 1.0.0; 1.0.0 failed; tag 1.0.0 x; quantum"


def test_the_progress_bar_keeps_stdout_clean(capsys):
    """It counts on stderr."""
    with render.progress_bar(2) as tick:
        tick("one")
        tick("two")
    assert capsys.readouterr().out == ""
