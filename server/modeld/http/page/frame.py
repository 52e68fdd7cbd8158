"""What every view has: the bar with the views, light or dark, notices, tables, and calls that may fail said plainly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar
from urllib.parse import quote

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement
from starlette.concurrency import run_in_threadpool

from modeld import log
from modeld.client.errors import ModeldError
from modeld.http.gateway import Gateway
from modeld.http.page.plain import ROOT
from modeld.http.page.sampler import Sampler
from modeld.http.page.session import Visitor
from modeld.http.page.style import STYLE, THEME_COOKIE
from modeld.http.problems import ApiError, problem_of
from modeld.http.tokens import OPERATE, READ, Caller
from modelreg.errors import RegistryError

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: The views: path and name.
_VIEWS = (("/", "Live"), ("/registry", "Registry"), ("/history", "History"), ("/operate", "Operate"))
#: What the button shows, and what comes next.
_THEMES = {
    "auto": ("Theme: system", "dark"),
    "dark": ("Theme: dark", "light"),
    "light": ("Theme: light", "auto"),
}

#: What a call may refuse with; anything else is our fault.
REFUSALS = (ApiError, RegistryError, ModeldError)


class Refused(Exception):
    """A call that didn't work, in words for people."""


class Visit:
    """One view shown to one visitor."""

    def __init__(self, gateway: Gateway, sampler: Sampler, visitor: Visitor) -> None:
        self.gateway = gateway
        self.sampler = sampler
        self.visitor = visitor

    async def read(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """`call` in a thread, if the visitor may (still) read. Raises Refused."""
        try:
            self.visitor.check(READ)
            return await run_in_threadpool(call, *args, **kwargs)
        except REFUSALS as error:
            raise Refused(problem_of(error).detail) from error

    async def act(
        self, scope: str, op: str, model: str, reason: str, call: Callable[[Caller], Awaitable[_T]]
    ) -> _T:
        """Do what changes something, in the visitor's name; the gateway's log has who, what and why. Raises Refused."""
        try:
            caller = self.visitor.check(scope)
            done = await call(caller)
        except REFUSALS as error:
            raise Refused(problem_of(error).detail) from error
        log.get().info(log.OPERATION, op=op, actor=caller.subject, model=model, reason=reason)
        return done

    @contextmanager
    def frame(self, title: str, view: str) -> Iterator[None]:
        """The page around a view's content; what the content can't read is said in its place."""
        ui.add_head_html(f"<style>{STYLE}</style>")
        theme = self.visitor.theme
        ui.add_head_html(f'<script>document.documentElement.dataset.theme = "{theme}";</script>')
        ui.dark_mode({"auto": None, "dark": True, "light": False}[theme])
        ui.page_title(f"{title} · modeld")
        self._bar(view)
        with element("div", "page", id="content"):
            if not self.visitor.signed_in:
                notice(
                    "Read-only: no key for tokens is configured (http.jwt.key_file), so nobody can sign in and change "
                    "anything.",
                    "",
                )
            try:
                yield
            except Refused as refused:
                notice(str(refused), "bad")

    def _bar(self, view: str) -> None:
        with element("header", "bar"):
            text("a", "To the content", "skip", href="#content")
            text("span", "modeld", "name")
            with element("nav", **{"aria-label": "Views"}):
                for path, name in _VIEWS:
                    if name == "Operate" and not self.visitor.may(OPERATE):
                        continue
                    here = {"aria-current": "page"} if name == view else {}
                    text("a", name, href=f"{ROOT}{path}", **here)
            with element("div", "right"):
                shown, following = _THEMES[self.visitor.theme]
                theme = text("button", shown, "plainbtn", type="button")
                cookie = f"{THEME_COOKIE}={following}; path={ROOT}; max-age=31536000; samesite=strict"
                theme.on("click", js_handler=f"() => {{ document.cookie = '{cookie}'; location.reload(); }}")
                if self.visitor.signed_in:
                    text("span", self.visitor.check(READ).subject, "quiet")
                    with element("form", method="post", action=f"{ROOT}/logout"):
                        text("button", "Sign out", "plainbtn", type="submit")


#: What a table's cell shows: a text, or what draws it.
Cell = object | Callable[[], object]


def element(tag: str, classes: str = "", **attributes: str) -> ui.element:
    made = ui.element(tag).classes(classes)
    made.props.update(attributes)
    return made


def text(tag: str, content: object, classes: str = "", **attributes: str) -> TextElement:
    """An element with a text in it, which is never read as HTML."""
    made = TextElement(tag=tag, text=str(content)).classes(classes)
    made.props.update(attributes)
    return made


def notice(content: str, kind: str = "bad") -> TextElement:
    return text("p", content, f"notice {kind}", role="alert" if kind == "bad" else "status")


def link(content: object, *path: str) -> Callable[[], object]:
    """A cell that leads to a view below the page's root."""
    target = "/".join((ROOT, *(quote(part, safe="") for part in path)))
    return lambda: text("a", content, href=target)


def tag(content: object, kind: str = "plain") -> Callable[[], object]:
    return lambda: text("span", content, f"tag {kind}")


@contextmanager
def panel(title: str, classes: str = "") -> Iterator[None]:
    with element("section", f"panel {classes}"):
        text("h2", title)
        yield


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Cell]], empty: str) -> None:
    """`columns`: heading and classes (`num`, `keep`) each. On a phone each row is a list of headings and cells."""
    shown = list(rows)
    if not shown:
        text("p", empty, "quiet")
        return
    with element("div", "wide-scroll"), element("table", "rows"):
        with element("thead"), element("tr"):
            for heading, classes in columns:
                text("th", heading, classes, scope="col")
        with element("tbody"):
            for row in shown:
                with element("tr"):
                    for (heading, classes), cell in zip(columns, row, strict=True):
                        attributes = {"data-label": heading}
                        if callable(cell):
                            with element("td", classes, **attributes), element("div"):
                                cell()
                        else:
                            text("td", "" if cell is None else cell, classes, **attributes)


def facts(pairs: Mapping[str, object]) -> None:
    """Names and values; what is None or empty is left out."""
    with element("dl", "facts"):
        for name, value in pairs.items():
            if value not in (None, "", (), [], {}):
                with element("div"):
                    text("dt", name)
                    text("dd", value)


def when(moment: str | None) -> str:
    """A moment of the log, to the second: 2026-01-15 12:30:00Z."""
    return "" if not moment else f"{moment[:19].replace('T', ' ')}Z"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
