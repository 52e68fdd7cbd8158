"""The real daemon of tests/e2e, for attacks on it."""

from tests.e2e.conftest import free_port, make_daemon, rows, template, trained

__all__ = ["free_port", "make_daemon", "rows", "template", "trained"]
