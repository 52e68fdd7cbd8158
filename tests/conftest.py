"""Options of the whole test run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", type=int, default=1, help="How many times as long random campaigns run.")


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> int:
    """How many times as long random campaigns run."""
    return int(request.config.getoption("--campaign"))
