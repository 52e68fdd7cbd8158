"""`modeld install-units` and `modeld uninstall-units`: what systemd needs, on a machine or in an image of one.

Only files are written; nothing is enabled or started. A configuration that is there is never touched.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from modeld.errors import ModeldError

#: The virtual environment that the units in the source tree name.
_NAMED_PREFIX = "/opt/modeld/venv"
#: What ProtectHome= and PrivateTmp= hide from the services.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp")
#: The distribution's own files are elsewhere, and so are drop-ins: those in /etc survive an upgrade.
_LIB = "usr/local/lib"
_COMMANDS = ("modeld", "modelreg")
_NEXT = """\
Next, as root, but for the three lines of modelreg, which an operator may run:
  systemd-sysusers modeld.conf && systemd-tmpfiles --create modeld.conf
  systemctl daemon-reload
  usermod -aG modeld NAME                # for each operator; holds from their next login
  export MODELREG_ROOT=/var/lib/modeld/models
  modelreg init
  modelreg register MODEL FILE --version 1.0.0
  modelreg promote MODEL:1.0.0 --reason first
  systemctl enable --now modeld modelreg-backup.timer modelreg-gc.timer"""

RootOption = Annotated[
    Path, typer.Option("--root", metavar="DIR", help="An image's root directory, instead of this machine's.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    app.command("install-units")(install_units)
    app.command("uninstall-units")(uninstall_units)


def install_units(
    root: RootOption = Path("/"),
    prefix: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The virtual environment that the units run; default: this one."),
    ] = None,
) -> None:
    """Put units, the user, directories, a first configuration and commands in place; enables nothing."""
    venv = Path(os.path.abspath(prefix or sys.prefix))
    if re.search(r"[\s%]", str(venv)):
        raise ModeldError(
            f"{str(venv)!r}: a unit can't name a path with blanks or %; choose another --prefix"
        )
    for place in (venv, Path(sys.base_prefix).resolve()):
        for hidden in map(Path, _HIDDEN):
            if root == Path("/") and hidden in place.parents:
                raise ModeldError(
                    f"{place}: services don't see what is below {hidden}; use the system's Python and a virtual "
                    f"environment elsewhere: make install PYTHON=/usr/bin/python3"
                )
    share = _share()
    try:
        for source, target in _units(share):
            text = source.read_text().replace(_NAMED_PREFIX, str(venv))
            _write(root, target, text)
        config = root / "etc/modeld/modeld.yaml"
        if config.exists():
            typer.echo(f"kept /{config.relative_to(root)}; the defaults are in {share}/config/modeld.yaml")
        else:
            _write(root, "etc/modeld/modeld.yaml", (share / "config/modeld.yaml").read_text())
        for name in _COMMANDS:
            _link(root, name, venv)
    except OSError as e:
        raise ModeldError(f"{e.filename}: {e.strerror}; install-units writes below {root} as root") from e
    typer.echo(_NEXT)


def uninstall_units(
    root: RootOption = Path("/"),
    purge: Annotated[
        bool, typer.Option("--purge", help="The configuration, the registry and all other state too.")
    ] = False,
) -> None:
    """Take away what install-units put there; configuration and state stay unless --purge. Backups always stay."""
    if (running := next(root.glob("run/modeld*/admin/*.sock"), None)) is not None:
        raise ModeldError(f"{running} is there: a daemon runs; first: systemctl disable --now modeld")
    share = _share()
    state = _state(root)
    try:
        for _, target in _units(share):
            if (path := root / target).exists():
                path.unlink()
                typer.echo(f"removed /{target}")
        for name in _COMMANDS:
            path = root / "usr/local/bin" / name
            if path.is_symlink() and _is_ours(root, path):
                path.unlink()
                typer.echo(f"removed /usr/local/bin/{name}")
        for path in (root / "etc/modeld", *state) if purge else ():
            if path.exists():
                shutil.rmtree(path)
                typer.echo(f"removed /{path.relative_to(root)}")
    except OSError as e:
        raise ModeldError(f"{e.filename}: {e.strerror}") from e
    kept = [p for p in (root / "etc/modeld", *state, root / "var/backups/modeld") if p.exists()]
    if kept:
        typer.echo(f"kept {', '.join(f'/{path.relative_to(root)}' for path in kept)}")
    typer.echo("Next, as root: systemctl daemon-reload; the user modeld stays (userdel modeld)")


def _state(root: Path) -> list[Path]:
    """The state directories of this machine's instances; others may have names that begin like ours."""
    instances = [path.stem for path in sorted((root / "etc/modeld").glob("*.yaml")) if path.stem != "modeld"]
    return [root / "var/lib" / name for name in ("modeld", *(f"modeld-{name}" for name in instances))]


def _share() -> Path:
    """Units and configuration: of the source tree, or those that the wheel brought."""
    tree = Path(__file__).parents[3]
    share = tree if (tree / "systemd/modeld.service").exists() else Path(sys.prefix) / "share/modeld"
    if not (share / "systemd/modeld.service").exists():
        raise ModeldError(f"{share}: no units there; install modeld into a virtual environment of its own")
    return share


def _units(share: Path) -> Iterator[tuple[Path, str]]:
    """Each file, and where it goes, relative to the root."""
    for path in sorted((share / "systemd").glob("*.*")):
        if path.is_file():
            yield path, f"{_LIB}/systemd/system/{path.name}"
    for folder in ("sysusers.d", "tmpfiles.d"):
        yield share / "systemd" / folder / "modeld.conf", f"{_LIB}/{folder}/modeld.conf"


def _write(root: Path, target: str, text: str) -> None:
    path = root / target
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    typer.echo(f"wrote /{target}")


def _link(root: Path, name: str, venv: Path) -> None:
    path, target = root / "usr/local/bin" / name, venv / "bin" / name
    if path.is_symlink() and _is_ours(root, path):
        path.unlink()
    elif path.is_symlink() or path.exists():
        typer.echo(f"kept /usr/local/bin/{name}, which isn't ours; the command is {target}")
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.symlink_to(target)
    typer.echo(f"wrote /usr/local/bin/{name} -> {target}")


def _is_ours(root: Path, path: Path) -> bool:
    """Whether a link leads into a virtual environment, as those do that `_link` makes."""
    target = path.readlink()
    config = Path("/") / target.parent.parent / "pyvenv.cfg"
    return target.name == path.name and (config.exists() or (root / config.relative_to("/")).exists())
