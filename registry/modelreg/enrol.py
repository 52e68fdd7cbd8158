"""Registration from request to record: which version, staged, proved, in place, committed by exactly one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelreg import bundle as bundles
from modelreg import environment, registration
from modelreg.clock import rfc3339
from modelreg.disk import Disk
from modelreg.errors import ConflictError, NotFoundError, StoreUnavailableError
from modelreg.modellog import Decision, ModelLog
from modelreg.names import check_tag, check_text, timestamp_version
from modelreg.records import KnownOp, RegisterOp, TagOp
from modelreg.settings import Settings
from modelreg.state import Fold, ModelState, VersionState

if TYPE_CHECKING:
    from modelreg.golden import Golden


@dataclass(frozen=True, slots=True)
class Store:
    """Where and with what a registration works."""

    root: Path
    settings: Settings
    clock: Callable[[], dt.datetime]
    disk: Disk


@dataclass(frozen=True, slots=True)
class Request:
    """What a trainer wants to register; see ``Registry.register``."""

    name: str
    files: Mapping[str, Path] | Path
    version: str | None
    features: Sequence[str] | None
    golden: Any
    scaler: Path | None
    allow_joblib: bool
    data_range: tuple[str | None, str | None] | None
    tags: tuple[str, ...]
    parent: str | None
    given: Mapping[str, Any]
    artefacts: Sequence[Path]
    actor: str
    reason: str | None
    dry_run: bool


def enrol(store: Store, model: ModelLog, request: Request) -> VersionState:
    """Seal and commit, or all but that; returns the version. Raises as ``Registry.register``."""
    if request.reason is not None:
        check_text(request.reason, "the reason")
    given = dict(request.given)
    tags = tuple(dict.fromkeys(check_tag(tag) for tag in (*_tags_of(given), *request.tags)))
    given["tags"] = list(tags)
    if request.data_range is not None:
        given["data_range"] = bundles.data_range(*request.data_range)
    if request.parent is not None:
        given["parent"] = request.parent
    limit = store.settings.limits.version_bytes
    features = request.features if request.features is not None else given.get("features")
    bundle = bundles.read_bundle(
        request.files,
        request.artefacts,
        features,
        scaler=request.scaler,
        allow_joblib=request.allow_joblib or store.settings.allow_joblib,
        needs_features=request.golden is not False,
        max_bytes=limit,
        disk=store.disk,
    )
    golden = _golden(request.golden, bundle.features, limit, store.disk)
    env = environment.capture(request.actor)
    tried: set[str] = set()
    while True:
        state = _present(model, request.version)
        version = request.version or timestamp_version(store.clock(), {*state.versions, *tried})
        tried.add(version)
        metadata = bundles.build_metadata(
            bundle, given, name=request.name, version=version, created_at=rfc3339(store.clock()), env=env
        )
        staged = registration.stage(
            store.root, bundle, metadata, golden, settings=store.settings, disk=store.disk
        )
        try:
            if request.dry_run:
                at = rfc3339(store.clock())
                return VersionState(version, staged.digest, "registered", state.seq + 1, at, tags=tags)
            if _settle(store, model, request, staged, version, tags):
                return model.refresh().versions[version]
        finally:
            store.disk.remove_flat_dir(staged.directory)


def _settle(
    store: Store,
    model: ModelLog,
    request: Request,
    staged: registration.Staged,
    version: str,
    tags: tuple[str, ...],
) -> bool:
    """Put a staged version into place and commit it; False where another timestamp has to be tried."""
    target = store.root / request.name / "versions" / version
    digest, ours, recovered = staged.digest, True, False
    try:
        store.disk.make_dirs(model.directory)
    except OSError as error:
        raise StoreUnavailableError(f"{model.directory}: can't be made: {error.strerror or error}") from error
    while not registration.move_into_place(staged, target, store.disk):
        if version in _present(model, request.version).versions or request.version is None:
            return False
        limit = store.settings.limits.version_bytes
        try:
            leftover = registration.inspect_leftover(target, staged, max_bytes=limit, disk=store.disk)
        except NotFoundError:
            continue  # set aside by somebody else meanwhile
        if leftover is not None:
            digest, ours, recovered = leftover.digest, False, not leftover.same
            break
        registration.set_aside(target, store.root, store.disk)

    def decide(state: ModelState) -> Decision:
        if version in state.versions:
            raise _duplicate(request.name, state.versions[version])
        marks: list[KnownOp] = [] if recovered else [TagOp(version, tag) for tag in tags]
        return Decision([RegisterOp(version, digest, recovered), *marks])

    try:
        model.commit(decide, actor=request.actor, reason=request.reason, clock=store.clock)
    except ConflictError:
        # Only the process that put the directory there may take a record made on its behalf for its own.
        if not (ours and _completed_by_another(model, version, digest)):
            raise
    if recovered:
        raise _duplicate(
            request.name, model.refresh().versions[version], "; an interrupted registration was completed"
        )
    return True


def _completed_by_another(model: ModelLog, version: str, digest: str) -> bool:
    """Whether another process took us for dead and committed our own registration on our behalf."""
    return any(
        isinstance(op, RegisterOp) and (op.version, op.digest, op.recovered) == (version, digest, True)
        for record in model.records()
        for op in record.ops
    )


def _present(model: ModelLog, version: str | None) -> ModelState:
    """The model's state, an empty one for a new model; refuses early what can't succeed."""
    try:
        state = model.refresh()
    except NotFoundError:
        return Fold(model.name).snapshot()
    model.refuse_if_broken(state)
    if version is not None and version in state.versions:
        raise _duplicate(model.name, state.versions[version])
    return state


def _duplicate(name: str, found: VersionState, more: str = "") -> ConflictError:
    return ConflictError(
        f"{name}:{found.version} exists already ({found.digest}, registered {found.at}){more}; "
        "versions are never reused, choose another"
    )


def _tags_of(given: Mapping[str, Any]) -> tuple[str, ...]:
    tags = given.get("tags") or ()
    return tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list | tuple) else ()


def _golden(golden: Any, features: Sequence[str], limit: int, disk: Disk) -> Golden | bool:
    if golden is None or isinstance(golden, bool):
        return golden is None or golden
    from modelreg import goldenrows

    if isinstance(golden, str | Path):
        path = Path(golden)
        return goldenrows.from_file(path, bundles.read_input(path, max_bytes=limit, disk=disk), features)
    return goldenrows.from_array(golden, features)
