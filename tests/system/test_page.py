"""The page, as a person has it: a real Chromium before a real gateway, daemon and registry."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.e2e.conftest import rows, rows_for_golden, template, trained
from tests.http.conftest import Gateway, _maker, _take_down
from tests.registry.conftest import FEATURES, Trained
from tests.support import wait_until

from modeld.http.tokens import READ
from modelreg import Registry

__all__ = ["rows", "template", "trained"]

pytestmark = pytest.mark.system

#: A busy machine paints slowly. Milliseconds.
_PATIENCE_MS = 30_000
#: Where screenshots go, if they are wanted.
_SHOTS = os.environ.get("PAGE_SCREENSHOTS", "")
_VIEWS = ("/", "/registry", "/registry/alpha", "/registry/alpha/1.4.0", "/history", "/operate")

expect.set_options(timeout=_PATIENCE_MS)


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, template: Path, trained: dict[str, Trained]) -> Path:
    """The registry with two versions more that have everything a trainer can give, and a gate."""
    directory = tmp_path_factory.mktemp("furnished")
    root = shutil.copytree(template, directory / "models", symlinks=True)
    (root / ".registry" / "registry.yaml").write_text("gates: {production: {metrics: {ic: {min: 0.02}}}}\n")
    registry = Registry(root, actor="tester")
    importance = directory / "feature_importance.csv"
    importance.write_text("feature,importance\n" + "".join(f"{f},{n}\n" for n, f in enumerate(FEATURES, 1)))
    predictions = directory / "validation_predictions.csv"
    predictions.write_text(
        "date,y,p\n" + "".join(f"2026-01-{d:02},{d / 100},{d / 90}\n" for d in range(1, 29))
    )
    card = directory / "MODEL_CARD.md"
    card.write_text("# Momentum\n\nFor large caps.\n\n<img src=x onerror=\"document.title='owned'\">\n")
    for version, ic, parent in (("1.3.0", 0.01, "alpha:1.0.0"), ("1.4.0", 0.05, "alpha:1.3.0")):
        registry.register(
            "alpha", trained["1.1.0"].path, version=version, metrics={"ic": ic, "sharpe": 1 + ic}, parent=parent,
            golden=rows_for_golden(), artefacts=[importance, predictions, card],
        )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def gateway(furnished: Path) -> Iterator[Gateway]:
    """A gateway with the page before a daemon."""
    directories: list[Path] = []
    made: list[Gateway] = []
    try:
        yield _maker(directories, made, furnished)("http.page=true")
    finally:
        _take_down(directories, made)


@pytest.fixture
def open_to_all(furnished: Path) -> Iterator[Gateway]:
    """A gateway without a key for tokens; its daemon isn't started."""
    directories: list[Path] = []
    made: list[Gateway] = []
    try:
        yield _maker(directories, made, furnished)("http.page=true", key=False, start=False)
    finally:
        _take_down(directories, made)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, gateway: Gateway) -> Iterator[Open]:
    """Opens a tab; in the end nothing was asked of another host, and the browser had nothing to complain about."""
    complaints: list[str] = []
    contexts = []

    def make(
        *scopes: str, at: Gateway = gateway, sign_in: bool = True, width: int = 1280, dark: bool = False
    ) -> Page:
        context = browser.new_context(
            base_url=at.url,
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
        )
        contexts.append(context)
        context.set_default_timeout(_PATIENCE_MS)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        own = (at.url, at.url.replace("http:", "ws:"), "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(own) else complaints.append(r.url))
        page.on("websocket", lambda s: None if s.url.startswith(own) else complaints.append(s.url))
        if sign_in:
            page.goto("/ui/login")
            page.get_by_label("Token").fill(at.bearer(*scopes)["Authorization"].removeprefix("Bearer "))
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/ui/")
        return page

    yield make
    for context in contexts:
        context.close()
    assert not complaints


def shoot(page: Page, name: str) -> None:
    if _SHOTS:
        (Path(_SHOTS) / f"{name}.png").write_bytes(page.screenshot(full_page=True))


def log_of(gateway: Gateway) -> Registry:
    return Registry(gateway.daemon.directory / "models", actor="tester")


def test_a_token_opens_the_page(browser: Browser, gateway: Gateway) -> None:
    """Without a token there is only the login; a wrong one is refused in words; a right one becomes a strict cookie."""
    context = browser.new_context(base_url=gateway.url)
    page = context.new_page()
    page.goto("/")
    expect(page).to_have_url(re.compile("/ui/login$"))
    page.get_by_label("Token").fill("not.a.token")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("the token isn't valid")
    token = gateway.bearer()["Authorization"].removeprefix("Bearer ")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Live")).to_be_visible()
    (cookie,) = [each for each in context.cookies() if each["name"] == "modeld_session"]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/ui")
    assert token not in page.content()
    page.get_by_role("button", name="Sign out").click()
    page.goto("/ui/registry")
    expect(page).to_have_url(re.compile("/ui/login$"))
    context.close()


def test_live_shows_what_serves(open_page: Open, gateway: Gateway, rows: np.ndarray) -> None:
    """Version, rates and events come from the daemon."""
    page = open_page()
    panel = page.locator("section", has=page.get_by_role("heading", name="alpha", exact=True))
    expect(panel).to_contain_text("1.0.0")
    rate = panel.locator("dd").nth(2)
    with gateway.daemon.client() as client:

        def answered() -> bool:
            client.predict(rows[:1])
            return (rate.text_content() or "0") not in ("0", "–")

        wait_until(answered, 30)
    expect(page.locator("table.rows").last).to_contain_text("first")
    expect(panel.locator("canvas")).to_have_count(2)
    shoot(page, "live")


def test_the_registry_is_shown_as_it_is(open_page: Open) -> None:
    """Models, versions with their gates, one version with card, lineage and charts; what a card brings doesn't run."""
    page = open_page()
    page.get_by_role("link", name="Registry").click()
    page.get_by_role("link", name="alpha").click()
    table = page.locator("table.rows").first
    expect(table.get_by_role("row", name="1.4.0")).to_contain_text("1 passed")
    expect(table.get_by_role("row", name="1.3.0")).to_contain_text("ic is 0.01, required >= 0.02")
    shoot(page, "model")
    for version in ("1.3.0", "1.4.0"):
        page.get_by_label(f"compare {version}").click()
    page.get_by_role("button", name="Compare the chosen").click()
    expect(page.get_by_role("row", name=re.compile("^ic "))).to_contain_text("0.05 ★")
    expect(page.locator("canvas")).to_have_count(4)
    shoot(page, "compare")
    page.goto("/ui/registry/alpha/1.4.0")
    expect(page.locator(".prose")).to_contain_text("For large caps")
    expect(page.get_by_role("link", name="alpha:1.3.0")).to_be_visible()
    expect(page.locator("canvas")).to_have_count(3)
    expect(page).to_have_title("alpha 1.4.0 · modeld")
    shoot(page, "version")
    page.goto("/ui/registry/alpha/9.9.9")
    expect(page.get_by_role("alert")).to_contain_text("9.9.9")


def test_history_answers_who_and_what_ran_when(open_page: Open) -> None:
    """The audit trail can be narrowed down; a moment has the versions that the channels held then."""
    page = open_page()
    page.get_by_role("link", name="History").click()
    trail = page.locator("section", has_text="Audit trail")
    expect(trail.get_by_role("row", name="production: none → 1.0.0")).to_be_visible()
    page.get_by_label("Words").fill("registered 1.4.0")
    expect(trail).to_contain_text("1 record")
    page.get_by_label("From (UTC)").fill("some day")
    expect(page.get_by_role("alert")).to_contain_text("isn't a time")
    moment = page.locator("section", has_text="What ran at this time?")
    expect(moment.get_by_role("row", name="alpha")).to_contain_text("1.0.0")
    page.get_by_label("Moment (UTC)").fill("2001-01-01")
    page.get_by_role("button", name="Look").click()
    expect(moment).to_contain_text("No channel held a version then.")
    shoot(page, "history")


def test_a_promotion_arrives_in_the_log_with_its_reason(open_page: Open, gateway: Gateway) -> None:
    """The change and the gates are shown first, a reason is wanted, the daemon follows; a gate's refusal stands."""
    page = open_page()
    page.get_by_role("link", name="Operate").click()
    page.get_by_role("button", name="Promote…").click()
    dialog = page.locator(".q-dialog")
    expect(dialog.get_by_role("row", name="production")).to_contain_text("1.4.0")
    go = dialog.get_by_role("button", name="Promote", exact=True)
    expect(go).to_be_disabled()
    dialog.get_by_label("Reason").fill("<b>better</b> on large caps")
    shoot(page, "promote")
    go.click()
    expect(page.get_by_role("status")).to_contain_text("production holds alpha:1.4.0")
    newest = log_of(gateway).history("alpha")[0]
    assert (newest.actor, newest.reason) == ("trader", "<b>better</b> on large caps")
    wait_until(lambda: gateway.daemon.model()["version"] == "1.4.0", 30)
    page.get_by_role("button", name="Promote…").click()
    dialog.get_by_label("Version").click()
    page.get_by_role("option", name="1.3.0").click()
    expect(dialog.get_by_role("alert")).to_contain_text("doesn't pass the gates of production")
    dialog.get_by_label("Reason").fill("whatever")
    expect(go).to_be_disabled()
    shoot(page, "promote-gate")


def test_the_other_actions_do_what_they_say(open_page: Open, gateway: Gateway) -> None:
    """Hold, release, validate and roll back through their dialogs; the gateway's log has who and why."""
    log_of(gateway).promote("alpha:1.4.0", reason="for the test")
    page = open_page()
    page.goto("/ui/operate?model=alpha")

    def act(action: str, reason: str) -> None:
        page.get_by_role("button", name=f"{action}…").click()
        dialog = page.locator(".q-dialog")
        dialog.get_by_label("Reason").fill(reason)
        dialog.get_by_role("button", name=action, exact=True).click()
        expect(dialog).to_have_count(0)

    act("Hold", "earnings week")
    assert "earnings week" in gateway.daemon.model()["held"]
    act("Release", "over")
    assert gateway.daemon.model()["held"] is None
    act("Validate", "to be sure")
    expect(page.get_by_role("status")).to_contain_text("passed: checksums")
    act("Roll back", "worse")
    newest = log_of(gateway).history("alpha")[0]
    assert (newest.reason, newest.changes[0].from_version) == ("worse", "1.4.0")
    done = [(each["op"], each["actor"], each["reason"]) for each in gateway.logged("operation")]
    assert ("hold", "trader", "earnings week") in done
    assert ("validate", "trader", "to be sure") in done


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(open_page: Open, dark: bool) -> None:
    """At 390 pixels no view scrolls sideways; the system's choice of colours holds until the visitor's own."""
    page = open_page(width=390, dark=dark)
    for view in _VIEWS:
        page.goto(f"/ui{view}")
        expect(page.locator("main h1").first).to_be_visible()
        expect(page.locator("main section").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
        shoot(page, f"phone{'-dark' if dark else ''}{view.replace('/', '-')}")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == ("rgb(18, 22, 29)" if dark else "rgb(246, 247, 249)")
    page.get_by_role("button", name="Theme: system").click()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert page.evaluate(background) == "rgb(18, 22, 29)"


def test_the_keyboard_is_enough(open_page: Open) -> None:
    """Tab reaches the views and the actions, Enter opens them, Escape closes a dialog."""
    page = open_page()
    expect(page.get_by_role("heading", name="Live")).to_be_visible()
    focused = "document.activeElement.textContent"

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == name:
                return
        raise AssertionError(f"Tab doesn't reach {name}")

    tab_to("Operate")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Promote…")).to_be_visible()
    tab_to("Promote…")
    page.keyboard.press("Enter")
    expect(page.locator(".q-dialog").get_by_label("Reason")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".q-dialog")).to_have_count(0)


def test_a_reader_can_only_read(open_page: Open) -> None:
    """Without the scope to operate the view isn't offered, and says why where it is asked for."""
    page = open_page(READ)
    expect(page.get_by_role("heading", name="Live")).to_be_visible()
    expect(page.get_by_role("link", name="Operate")).to_have_count(0)
    page.goto("/ui/operate")
    expect(page.get_by_role("alert")).to_contain_text("lacks the scope model:operate")


def test_a_page_that_isnt_there_leads_back(open_to_all: Gateway, browser: Browser) -> None:
    """In the page's own style, without what the framework would say."""
    page = browser.new_page(base_url=open_to_all.url)
    answer = page.goto("/ui/nothing")
    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_role("alert")).to_contain_text("Nothing is at /ui/nothing")
    page.get_by_role("link", name="To the live view").click()
    expect(page.get_by_role("heading", name="Live")).to_be_visible()
    page.close()


def test_without_a_key_everybody_may_look_and_a_daemon_that_comes_is_noticed(
    open_to_all: Gateway, open_page: Open
) -> None:
    """No login, nothing to operate; no daemon is said plainly, and what it serves is there once it is."""
    page = open_page(at=open_to_all, sign_in=False)
    page.goto("/")
    expect(page.get_by_role("alert")).to_contain_text("The daemon doesn't answer")
    expect(page.get_by_role("status")).to_contain_text("Read-only")
    shoot(page, "live-no-daemon")
    open_to_all.daemon.start()
    expect(page.get_by_role("heading", name="alpha", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.goto("/ui/operate")
    expect(page.get_by_role("alert")).to_contain_text("read-only")
    expect(page.get_by_role("button", name="Promote…")).to_have_count(0)
