"""Compiles the scoring kernel into the wheel, where there is a C compiler; without one the wheel has none and says so.

An editable install gets it beside the sources. The wheel is tied to the platform, not to a Python: ctypes loads it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "server/modeld/forest"
#: -ffp-contract=off: a fused multiply-add rounds once where LightGBM rounds twice.
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden"]


class KernelHook(BuildHookInterface):
    """The hook that pyproject.toml names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        folder = Path(self.root, FOLDER)
        # A wheel's kernel is made elsewhere: an editable install's, beside the sources, may be in use.
        self._made = tempfile.mkdtemp(prefix="modeld-kernel-")
        target = folder / "_kernel.so" if version == "editable" else Path(self._made, "_kernel.so")
        why = build(folder / "kernel.c", target)
        if why is not None:
            target.unlink(missing_ok=True)
            print(f"modeld: no scoring kernel in this install, workers will predict: {why}", file=sys.stderr)
            return
        if version != "editable":
            build_data["force_include"][str(target)] = "modeld/forest/_kernel.so"
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        shutil.rmtree(self._made, ignore_errors=True)


def build(source: Path, target: Path) -> str | None:
    """Compile; None, or why not. A process that has the old file loaded keeps it."""
    named = os.environ.get("CC")
    command = shlex.split(named) if named else [next(filter(shutil.which, ("cc", "gcc", "clang")), "cc")]
    if shutil.which(command[0]) is None:
        return f"there is no C compiler ({command[0]})"
    fresh = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        done = subprocess.run(
            [*command, *FLAGS, str(source), "-o", str(fresh), "-lm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return f"{command[0]} failed:\n{done.stderr}"
        os.replace(fresh, target)
    finally:
        fresh.unlink(missing_ok=True)
    return None
