"""The catalog is a projection: it answers as the files do, and can be lost at any time."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from modelreg import Registry, UsageError
from modelreg.catalogsearch import Search
from modelreg.listing import scan, select


@pytest.fixture
def varied(registry, models):
    """Twelve versions of three models with different metrics, tags, channels and statuses."""
    for index, name in itertools.product(range(4), ("m", "n", "o")):
        metrics = {"ic": index / 10, "max_drawdown": (-1) ** index * (index + 1), "1d": {"rmse": 5 - index}}
        registry.register(
            name, models["a"].path, version=f"1.{index}.0", golden=False, metrics=metrics if index != 2 else None,
            tags=["even"] if index % 2 == 0 else [],
            meta={"task_type": "regression" if index else None, "config": {"i": index % 2}},
        )  # fmt: skip
    registry.promote("m:1.1.0", reason="x")
    registry.promote("n:1.3.0", to="staging", reason="x")
    registry.fail("o:1.0.0", reason="x")
    registry.delete("o:1.1.0")
    registry.archive("m:1.3.0")
    return registry


def everything(registry):
    """All tables, row by row."""
    tables = ("models", "versions", "metrics", "channels", "tags")
    return {table: sorted(map(str, registry.query(f"select * from {table}")[1])) for table in tables}


def test_each_filter_and_order_answers_as_the_files_do(varied):
    """Every combination of a name and a filter, an order, a limit: the same rows in the same order."""
    digest = varied.metadata("m", "1.0.0").config_hash
    filters = [
        {}, {"channel": "production"}, {"status": "deleted"}, {"status": "failed"}, {"tag": "even"},
        {"config_hash": digest[:8]}, {"task_type": "regression"}, {"minima": [("ic", 0.1), ("1d.rmse", 3)]},
    ]  # fmt: skip
    orders = [None, "ic", "max_drawdown", "1d.rmse"]
    for name, wanted, sort, limit in itertools.product((None, "m"), filters, orders, (None, 2)):
        asked = {**wanted, "sort": sort, "limit": limit}
        assert select(varied, name, **asked) == scan(varied, Search(name, **asked)), (name, asked)


def test_pages_by_key_give_each_version_once(varied, run):
    """--after goes on where the page before ended, in every order."""
    for sort in (None, "ic", "max_drawdown"):
        whole = [row["ref"] for row in select(varied, sort=sort)]
        paged: list[str] = []
        while page := select(varied, sort=sort, limit=4, after=paged[-1] if paged else None):
            paged += [row["ref"] for row in page]
        assert paged == whole
        assert [r["ref"] for r in scan(varied, Search(sort=sort, limit=3, after=whole[2]))] == whole[3:6]
    assert run("list", "-q", "--limit", "2", "--after", "m:9.9.9").out == ""


def test_rebuild_equals_incremental_and_nothing_is_lost(varied, run, root):
    """The tables after many single steps are those made at once; a deleted or damaged file comes back."""
    step_by_step = everything(varied)
    assert varied.rebuild() == 12
    assert everything(varied) == step_by_step
    varied.catalog.close()
    for file in root.glob(".registry/catalog.db*"):
        file.unlink()
    assert everything(Registry(root)) == step_by_step
    (root / ".registry/catalog.db").write_bytes(b"not a database" * 1000)
    assert run("list", "m", "-q").status == 0
    assert run("rebuild").status == 0
    assert everything(Registry(root)) == step_by_step


def test_query_only_reads(varied, run):
    """SELECT gives rows; whatever would change something, attach a file or isn't SQL is refused."""
    found = run("query", "select version from versions where name = 'm' order by seq", "--json").json
    assert [row["version"] for row in found] == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    assert run("query", "select ref from versions", "-q", "--limit", "1").out.count("\n") == 1
    before = everything(varied)
    for statement in (
        "delete from versions", "update versions set status = 'x'", "attach 'x.db' as x", "selec", "",
        "pragma journal_mode=delete", "create table t (a)", "select 1; drop table versions",
    ):  # fmt: skip
        with pytest.raises(UsageError, match="query"):
            varied.query(statement)
    assert everything(varied) == before


def test_another_process_sees_and_projects_the_same(varied, run, models):
    """Two processes write and ask in turn; each sees what the other did."""
    assert len(select(varied, "m")) == 4
    run("register", "m", models["b"].path, "--version", "2.0.0", "--no-golden", "--tag", "new")
    assert [row["version"] for row in select(varied, "m", tag="new")] == ["2.0.0"]
    varied.tag("m:1.0.0", "new")
    assert run("list", "-q", "--tag", "new").out.split() == ["m:2.0.0", "m:1.0.0"]


def test_an_unusable_catalog_is_no_obstacle(varied, root):
    """Where it can't be made, the files answer."""
    whole = select(varied)
    varied.catalog.close()
    for file in root.glob(".registry/catalog.db*"):
        file.unlink()
    (root / ".registry/catalog.db").mkdir()
    other = Registry(root)
    assert select(other) == whole
    assert other.lineage("m:1.0.0").descendants == ()


def test_the_command_imports_sqlalchemy_only_for_the_catalog():
    """Start-up stays fast: promote and show don't pay for SQL."""
    code = "import sys, modelreg.cli, modelreg; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
