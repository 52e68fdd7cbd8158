"""References: what each form means, and what each refusal says."""

from __future__ import annotations

import pytest

from modelreg import ConflictError, NotFoundError, UsageError
from modelreg.refs import parse_ref, resolve


@pytest.fixture
def state(two):
    """1.1.0 in production after 1.0.0; nothing in shadow, which was emptied."""
    two.promote("momentum:1.0.0", reason="x")
    two.promote("momentum:1.1.0", reason="x")
    two.register(
        "momentum", two.version_dir("momentum", "1.0.0") / "model.txt", version="1.2.0", golden=False
    )
    two.promote("momentum:1.2.0", to="shadow", reason="x")
    two.archive("momentum:1.2.0")
    return two.state("momentum")


def test_each_form_finds_its_version(state):
    """A name alone, a version, a channel, the one before it, a digest that is long enough."""
    digest = state.versions["1.1.0"].digest
    for text, version in {
        "momentum": "1.1.0",
        "momentum:1.0.0": "1.0.0",
        "momentum:production": "1.1.0",
        "momentum:production~1": "1.0.0",
        "momentum:shadow~1": "1.2.0",
        f"momentum@{digest}": "1.1.0",
        f"momentum@{digest[:20]}": "1.1.0",
    }.items():
        assert resolve(parse_ref(text), state).version == version, text


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("momentum@sha256:12", UsageError, "6 to 64 hexadecimal digits"),
        ("momentum@md5:123456", UsageError, "6 to 64 hexadecimal digits"),
        ("momentum:production~x", UsageError, "how many holders back"),
        ("momentum:UP", UsageError, "neither a version nor a channel"),
        ("momentum:9.9.9", NotFoundError, "no version momentum:9.9.9"),
        ("momentum@sha256:000000000000", NotFoundError, "no version of momentum has the digest"),
        ("momentum:canary", NotFoundError, "nothing is in the channel 'canary'"),
        ("momentum:shadow", NotFoundError, "nothing is in the channel 'shadow'"),
        ("momentum:production~5", NotFoundError, "only 1 earlier"),
    ],
)
def test_what_isnt_there_is_told(state, text, error, says):
    """Malformed is a usage error, absent is not found; both say what was meant."""
    with pytest.raises(error, match=says):
        resolve(parse_ref(text), state)


def test_a_digest_that_fits_several_versions_is_ambiguous(registry, models):
    """Nothing is guessed: more digits are asked for."""
    import dataclasses

    registry.register("m", models["a"].path, version="1.0.0", golden=False)
    state = registry.state("m")
    found = state.versions["1.0.0"]
    twin = dataclasses.replace(found, version="1.0.1", digest=found.digest[:-1] + "x")
    both = dataclasses.replace(state, versions={"1.0.0": found, "1.0.1": twin})
    with pytest.raises(ConflictError, match="fits 2 versions"):
        resolve(parse_ref(f"m@{found.digest[:30]}"), both)


def test_a_model_without_a_usable_version_says_so(two):
    """A bare name means what may be promoted; failed ones may not."""
    for version in ("1.0.0", "1.1.0"):
        two.fail(f"momentum:{version}", reason="x")
    with pytest.raises(NotFoundError, match="no usable version"):
        two.resolve("momentum")
