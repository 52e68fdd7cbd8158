"""The command `modeld`."""

from __future__ import annotations

from modeld.cli.app import main

__all__ = ["main"]
