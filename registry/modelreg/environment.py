"""Where and with what a version was registered: Python, platform, library versions, git commit."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import socket
import subprocess
from collections.abc import Iterable
from typing import Any

#: Libraries whose versions matter for a model's answers.
LIBRARIES = ("lightgbm", "numpy", "scikit-learn", "joblib", "onnxruntime", "modeld")

#: How long git may take, in seconds.
GIT_TIMEOUT_S = 5.0


def library_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """The versions of those libraries that are installed; nothing is imported."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def default_actor() -> str:
    """Who acts when nobody is named: ``MODELREG_ACTOR``, else user@host."""
    named = os.environ.get("MODELREG_ACTOR", "").strip()
    if named:
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def capture(created_by: str) -> dict[str, Any]:
    """The ``env`` of metadata.json.

    ``git_commit`` and ``git_dirty`` are of the working directory, or None.
    """
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": library_versions(),
        "git_commit": commit,
        "git_dirty": None if status is None else bool(status),
        "created_by": created_by,
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
