"""`modeld install-units` into an image's root, and its way back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MODELD = Path(sys.executable).with_name("modeld")


def modeld(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MODELD, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root with what install-units puts there, for a virtual environment in /srv/venv."""
    venv = tmp_path / "srv/venv"
    venv.mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    done = modeld("install-units", "--root", tmp_path, "--prefix", "/srv/venv")
    assert done.returncode == 0, done.stderr
    assert "enable --now modeld" in done.stdout
    return tmp_path


def files(root: Path) -> set[str]:
    found = {
        str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    return found - {"srv/venv/pyvenv.cfg"}


def test_everything_is_in_its_place(image: Path) -> None:
    """Units that run the named environment, the user's and the directories' declarations, configuration, commands."""
    system = "usr/local/lib/systemd/system/"
    assert files(image) == {
        *(system + f"{name}.service" for name in ("modeld", "modeld@", "modeld-http")),
        *(system + f"modelreg-{job}.{kind}" for job in ("backup", "gc") for kind in ("service", "timer")),
        "usr/local/lib/sysusers.d/modeld.conf",
        "usr/local/lib/tmpfiles.d/modeld.conf",
        "etc/modeld/modeld.yaml",
        "usr/local/bin/modeld",
        "usr/local/bin/modelreg",
    }
    unit = (image / system / "modeld.service").read_text()
    assert "ExecStart=/srv/venv/bin/modeld " in unit
    assert "/opt/modeld" not in unit
    assert str((image / "usr/local/bin/modeld").readlink()) == "/srv/venv/bin/modeld"


def test_installing_again_keeps_what_people_wrote(image: Path) -> None:
    """An edited configuration stays, units are renewed, and a command of somebody else's isn't replaced."""
    config = image / "etc/modeld/modeld.yaml"
    config.write_text("workers: 2\n")
    unit = image / "usr/local/lib/systemd/system/modeld.service"
    unit.write_text("old")
    command = image / "usr/local/bin/modelreg"
    command.unlink()
    command.write_text("theirs")
    done = modeld("install-units", "--root", image, "--prefix", "/srv/venv")
    assert done.returncode == 0
    assert "kept /etc/modeld/modeld.yaml" in done.stdout
    assert "kept /usr/local/bin/modelreg, which isn't ours" in done.stdout
    assert config.read_text() == "workers: 2\n"
    assert unit.read_text() != "old"
    assert command.read_text() == "theirs"


def test_uninstalling_leaves_configuration_and_state(image: Path) -> None:
    """--purge takes those of every instance too, backups never, and nothing that only has a name like ours."""
    for name in ("var/lib/modeld/models", "var/lib/modeld-b", "var/lib/modeldb", "var/backups/modeld"):
        (image / name).mkdir(parents=True)
    (image / "var/backups/modeld/modelreg-1.tar").touch()
    assert modeld("uninstall-units", "--root", image).returncode == 0
    assert files(image) == {"etc/modeld/modeld.yaml", "var/backups/modeld/modelreg-1.tar"}
    assert (image / "var/lib/modeld/models").is_dir()
    (image / "etc/modeld/b.yaml").touch()
    done = modeld("uninstall-units", "--root", image, "--purge")
    assert done.returncode == 0
    assert "kept /var/backups/modeld" in done.stdout
    assert files(image) == {"var/backups/modeld/modelreg-1.tar"}
    assert not (image / "var/lib/modeld").exists()
    assert not (image / "var/lib/modeld-b").exists()
    assert (image / "var/lib/modeldb").exists()


def test_a_running_daemon_is_not_pulled_from_under_its_clients(image: Path) -> None:
    """Uninstalling says what to stop first, and takes nothing away."""
    sock = image / "run/modeld/admin/admin.sock"
    sock.parent.mkdir(parents=True)
    sock.touch()
    before = files(image)
    done = modeld("uninstall-units", "--root", image)
    assert done.returncode == 1
    assert "systemctl disable --now modeld" in done.stderr
    assert files(image) == before


def test_an_environment_that_services_cannot_see_is_refused() -> None:
    """ProtectHome hides /root and /home: said before anything is written."""
    done = modeld("install-units", "--prefix", "/home/ann/venv")
    assert done.returncode == 1
    assert "/home/ann/venv: services don't see" in done.stderr
