"""Settings: the file, then the environment, then `--set`; every mistake is named with its key.

`config/modeld.yaml` in the source tree explains each setting; the names and defaults here are the same, and a test
compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from modelreg.settings import DatasetSettings
from modelreg.yamlconf import Document

DEFAULT_PATH = Path("/etc/modeld/modeld.yaml")
ENV_FILE = "MODELD_CONFIG"
_ENV_PREFIX = "MODELD_"
#: Environment names with our prefix that are not settings.
_ENV_OTHERS = frozenset(
    {
        *("MODELD_CONFIG", "MODELD_ENDPOINT", "MODELD_NO_KERNEL"),
        # What clients take their CURVE keys from, our commands and the examples.
        *("MODELD_KEY_FILE", "MODELD_SERVER_KEY", "MODELD_PUBLIC_KEY", "MODELD_SECRET_KEY"),
    }
)

#: No time is longer than this: infinity isn't one. Seconds (31 years).
_LONGEST = 1e9
_Positive = Annotated[float, msgspec.Meta(gt=0, le=_LONGEST)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_NonNegative = Annotated[float, msgspec.Meta(ge=0, le=_LONGEST)]


class Source(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where pointers come from."""

    kind: Literal["registry", "path"] = "registry"
    root: str = "/var/lib/modeld/models"
    channel: str = "production"
    models: list[str] = []
    require_model: bool = True


class Endpoints(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """ZeroMQ endpoints to bind; `{runtime_dir}` stands for that setting."""

    data: Annotated[list[str], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["ipc://{runtime_dir}/data/predict.sock", "tcp://127.0.0.1:5555"]
    )
    admin: str = "ipc://{runtime_dir}/admin/admin.sock"
    events: str = "ipc://{runtime_dir}/data/events.sock"


class Watch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    inotify: bool = True
    poll_interval_s: Annotated[float, msgspec.Meta(ge=0.01, le=_LONGEST)] = 1.0


class TrialSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    timeout_s: _Positive = 30
    golden_rtol: _NonNegative = 1.0e-9
    memory_limit_mb: Annotated[int, msgspec.Meta(ge=512)] = 4096
    max_version_mb: _Count = 1024
    max_row_us: _Positive = 50_000
    live_rows: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 128
    max_mean_abs_diff: _NonNegative | None = None
    min_rank_correlation: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None
    allow_schema_change: bool = False
    allow_joblib: list[str] | Literal["signed"] = []
    require_signature: list[str] = []


class Probation(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    seconds: _NonNegative = 30
    requests: Annotated[int, msgspec.Meta(ge=0)] = 1000
    max_error_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01
    max_p99_us: Annotated[int, msgspec.Meta(ge=0)] = 0


class Limits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    max_rows: _Count = 65536
    max_message_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 16 * 1024 * 1024
    queue_requests: _Count = 4096
    queue_bytes: Annotated[int, msgspec.Meta(ge=65536)] = 64 * 1024 * 1024
    predict_timeout_s: _Positive = 5
    drain_timeout_s: _NonNegative = 10


class PlanSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    inline_rows: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 32


class LoopSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    busy_poll_us: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    lock_memory: bool = False


class Security(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Who gets at the sockets. `modeld.front.exposure` checks what these settings leave open."""

    curve_secret_file: str = ""
    allow_list: str = ""
    group: str = ""
    admin_group: str = ""


class Logging(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    format: Literal["auto", "journal", "json", "text"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class JwtSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Tokens of the HTTP gateway; without a key it changes nothing for anybody."""

    algorithm: Literal["HS256", "RS256", "EdDSA"] = "HS256"
    key_file: str = ""
    audience: str = "modeld"
    leeway_s: _NonNegative = 10
    required: Literal["auto", "always"] = "auto"


class HttpSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The HTTP gateway, a process of its own."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    allowed_hosts: list[str] = []
    allowed_origins: list[str] = []
    tls_cert: str = ""
    tls_key: str = ""
    behind_proxy: bool = False
    timeout_s: _Positive = 5
    request_timeout_s: _Positive = 20
    max_upload_mb: _Count = 512
    page: bool = False
    jwt: JwtSettings = JwtSettings()


class Config(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The effective configuration. Immutable; safe to share."""

    runtime_dir: str = "/run/modeld"
    state_dir: str = "/var/lib/modeld"
    source: Source = Source()
    endpoints: Endpoints = Endpoints()
    watch: Watch = Watch()
    trial: TrialSettings = TrialSettings()
    datasets: DatasetSettings = DatasetSettings()
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    keep_warm: Annotated[int, msgspec.Meta(ge=0, le=16)] = 1
    probation: Probation = Probation()
    on_reject: Literal["rollback", "hold"] = "rollback"
    plan: PlanSettings = PlanSettings()
    limits: Limits = Limits()
    loop: LoopSettings = LoopSettings()
    security: Security = Security()
    logging: Logging = Logging()
    http: HttpSettings = HttpSettings()

    def resolve(self, endpoint: str) -> str:
        """`endpoint` with `{runtime_dir}` replaced."""
        return endpoint.replace("{runtime_dir}", self.runtime_dir)

    @property
    def data_endpoints(self) -> list[str]:
        return [self.resolve(endpoint) for endpoint in self.endpoints.data]

    @property
    def admin_endpoint(self) -> str:
        return self.resolve(self.endpoints.admin)

    @property
    def events_endpoint(self) -> str:
        return self.resolve(self.endpoints.events)


def load(
    path: str | Path | None = None,
    overrides: list[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """The effective configuration.

    Args:
        path: The file; None means `MODELD_CONFIG`, else /etc/modeld/modeld.yaml if there is one, else the defaults.
        overrides: `key.key=value` each, the value in YAML. They win over the environment, which wins over the file.
        environ: The environment; None means this process's.

    Raises:
        modelreg.errors.ConfigError: with one line for each mistake: source (file and line, variable or option), key,
            problem.
    """
    environ = os.environ if environ is None else environ
    named = path or environ.get(ENV_FILE)
    if named is None and not DEFAULT_PATH.exists():
        document = Document("", "the defaults")
    else:
        document = Document.read(Path(named or DEFAULT_PATH))
    for name, value in sorted(environ.items()):
        if name.startswith(_ENV_PREFIX) and name not in _ENV_OTHERS:
            document.set(name[len(_ENV_PREFIX) :].lower().replace("__", "."), value, name)
    for override in overrides or []:
        key, equals, value = override.partition("=")
        document.set(key.strip(), value if equals else None, f"--set {override}")
    return document.convert(Config)


def effective(config: Config) -> str:
    """The configuration as YAML, endpoints resolved."""
    import yaml

    plain = msgspec.to_builtins(config)
    plain["endpoints"] = {
        "data": config.data_endpoints,
        "admin": config.admin_endpoint,
        "events": config.events_endpoint,
    }
    return yaml.safe_dump(plain, sort_keys=False)
