"""The command ``modelreg``, its verbs by group; exit statuses as in ``modelreg.errors``."""

from modelreg.cli import care, catalog, exchange, lifecycle, promoting, reading, registering
from modelreg.cli.app import app, hoist_globals, main

__all__ = [
    "app",
    "care",
    "catalog",
    "exchange",
    "hoist_globals",
    "lifecycle",
    "main",
    "promoting",
    "reading",
    "registering",
]
