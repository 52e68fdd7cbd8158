"""Where the demo keeps things, and the configuration that it gives the daemon."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from modeld.demo.processes import DemoError

#: The one model's name.
MODEL = "alpha"
#: Marks a directory as the demo's own, so that a second run may clear it.
MARKER = ".modeld-demo"
#: The daemon's sockets, below its runtime directory.
DATA_SOCKET, ADMIN_SOCKET, EVENTS_SOCKET = "data/predict.sock", "admin/admin.sock", "data/events.sock"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one run: `out` holds what stays, `runtime` the sockets."""

    out: Path
    runtime: Path

    @property
    def models(self) -> Path:
        """What the training writes: models, metrics and held-out rows."""
        return self.out / "models"

    @property
    def registry(self) -> Path:
        """The registry's root."""
        return self.out / "registry"

    @property
    def held_out(self) -> Path:
        """The rows that are streamed and predicted offline."""
        return self.models / "held_out.npz"

    @property
    def records(self) -> Path:
        """The model's commit log in the registry."""
        return self.registry / MODEL / "log"

    @property
    def data_endpoint(self) -> str:
        """For predictions."""
        return f"ipc://{self.runtime}/{DATA_SOCKET}"

    @property
    def admin_endpoint(self) -> str:
        """For operators."""
        return f"ipc://{self.runtime}/{ADMIN_SOCKET}"

    def model_file(self, version: str) -> Path:
        """A version's model as the training wrote it."""
        return self.models / f"{version}.txt"

    def write_config(self) -> Path:
        """Write the daemon's configuration: unix sockets only, so that two demos don't meet on a port."""
        path = self.out / "modeld.yaml"
        settings = {
            "runtime_dir": str(self.runtime),
            "state_dir": str(self.out / "state"),
            "source": {"kind": "registry", "root": str(self.registry), "channel": "production"},
            "endpoints": {
                "data": [self.data_endpoint],
                "admin": self.admin_endpoint,
                "events": f"ipc://{self.runtime}/{EVENTS_SOCKET}",
            },
            "on_reject": "rollback",
        }
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path


def clear(out: Path) -> Path:
    """Make `out` an empty directory of the demo's own, and return it as an absolute path.

    Raises:
        DemoError: there is something in it that no demo wrote, or it can't be made.
    """
    out = out.absolute()
    try:
        if out.exists() and any(out.iterdir()):
            if not (out / MARKER).is_file():
                raise DemoError(f"{out} isn't empty and isn't an earlier demo's: name another with --out")
            for directory, _, _ in os.walk(out):
                # Sealed versions may be read-only.
                os.chmod(directory, 0o755)
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).touch()
        (out / "state").mkdir()
    except OSError as error:
        raise DemoError(f"can't use {out} for the demo's files: {error}") from error
    return out
