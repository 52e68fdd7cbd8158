"""The root of the command line: options that every verb shares, the verbs, and errors to exit statuses.

Exit status: 0 done, 1 error or degraded, 2 usage or configuration, 3 not found or nothing to serve, 4 conflict or
endpoint in use, 7 daemon or source unavailable, 9 a candidate was rejected.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modeld import __version__
from modeld.cli import http, install, observe, operate
from modeld.cli.keygen import keygen
from modeld.client.errors import ModeldError as ClientError
from modeld.client.errors import RequestTimeout, ServerError
from modeld.errors import ModeldError
from modelreg.errors import RegistryError

if TYPE_CHECKING:
    from modeld.client import Curve
    from modeld.config import Config

app = typer.Typer(
    help="Serve the promoted model over ZeroMQ, swap it live, roll a bad one back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: Exit status for an error reply of the daemon, by its code; others are 1.
_STATUS = {
    "MODEL_NOT_FOUND": 3,
    "VERSION_NOT_AVAILABLE": 3,
    "CONFLICT": 4,
    "MALFORMED": 2,
    "SOURCE_UNAVAILABLE": 7,
    "NOT_READY": 7,
    "REJECTED": 9,
}


@dataclass
class Common:
    """The options before the verb."""

    config_path: Path | None
    overrides: list[str] = field(default_factory=list)
    endpoint: str | None = None
    key_file: Path | None = None
    server_key: str | None = None

    def curve(self) -> Curve | None:
        """The keys for a daemon's tcp endpoints. Raises ValueError where one of the two is given alone."""
        from modeld.client import Curve

        if self.key_file is None and self.server_key is None:
            return None
        if self.key_file is None or self.server_key is None:
            raise ValueError("--key-file and --server-key go together: who asks, and who may answer")
        return Curve.from_files(self.key_file, self.server_key)

    def config(self) -> Config:
        from modeld.config import load

        return load(self.config_path, self.overrides)


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="Settings; else MODELD_CONFIG, else /etc/modeld/modeld.yaml."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="One setting, as watch.poll_interval_s=0.2; repeatable."
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            envvar="MODELD_ENDPOINT",
            help="The daemon's endpoint, instead of the configured one.",
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            metavar="FILE",
            envvar="MODELD_KEY_FILE",
            help="Your CURVE secret key, for a daemon's tcp endpoint.",
        ),
    ] = None,
    server_key: Annotated[
        str | None,
        typer.Option(
            "--server-key",
            metavar="KEY",
            envvar="MODELD_SERVER_KEY",
            help="The daemon's public key, or a file with it.",
        ),
    ] = None,
) -> None:
    context.obj = Common(config, list(set_ or []), endpoint, key_file, server_key)


@app.command()
def serve(context: typer.Context) -> None:
    """Run the daemon in the foreground until SIGTERM."""
    # numpy's own threads have nothing to do in the front: one core less to fight for.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings = context.obj.config()
    from modeld import log
    from modeld.front.daemon import Daemon

    log.configure(settings.logging.format, settings.logging.level)
    Daemon(settings).run()


@app.command("check-config")
def check_config(context: typer.Context) -> None:
    """Print the effective configuration, or every mistake in it (exit status 2)."""
    from modeld.config import effective
    from modeld.front.guard import Guard

    settings = context.obj.config()
    Guard.open(settings)
    typer.echo(effective(settings), nl=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory for the models, the account and the picture.")] = Path(
        "demo-output"
    ),
    seconds_per_phase: Annotated[
        float, typer.Option(help="Length of each phase of the stream, seconds.")
    ] = 2.0,
) -> None:
    """Train on real prices, serve, swap, break and roll back; print what happened."""
    from modeld.demo.run import run_demo

    raise typer.Exit(run_demo(out, seconds_per_phase))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(context: typer.Context) -> None:
    """Measure latency and throughput beside a bare ZeroMQ echo; `modeld bench --help` lists the options."""
    from modeld.bench.run import main as run_bench

    raise typer.Exit(run_bench(context.args))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


app.command()(keygen)
operate.register(app)
observe.register(app)
install.register(app)
http.register(app)


def main() -> None:
    """The entry point: one clear line on stderr and the documented exit status for whatever goes wrong."""
    try:
        app()
    except (ModeldError, RegistryError) as e:
        for line in str(e).splitlines():
            print(f"modeld: {line}", file=sys.stderr)
        sys.exit(e.exit_status)
    except RequestTimeout as e:
        print(f"modeld: {e}", file=sys.stderr)
        sys.exit(7)
    except ServerError as e:
        print(f"modeld: {e}", file=sys.stderr)
        sys.exit(_STATUS.get(e.code, 1))
    except ClientError as e:
        print(f"modeld: {e}", file=sys.stderr)
        sys.exit(1)
    except ValueError as e:
        print(f"modeld: {e}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
