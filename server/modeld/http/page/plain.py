"""Plain HTML in the page's style, for which nothing has to be loaded: the login, and what stands in for a view."""

from __future__ import annotations

from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from modeld import log
from modeld.http.page.style import STYLE, THEME_COOKIE, theme_of

#: Where the page is.
ROOT = "/ui"


def document(request: Request, title: str, body: str, status: int = 200) -> Response:
    """`title` is a text, `body` HTML."""
    theme = theme_of(request.cookies.get(THEME_COOKIE))
    page = f"""<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8">
<title>modeld: {escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>{STYLE}</style></head><body class="login"><main>{body}</main></body></html>"""
    return HTMLResponse(page, status, {"Cache-Control": "no-store"})


async def missing(request: Request, _error: Exception) -> Response:
    """404."""
    return _told(request, 404, "There is no such page", f"Nothing is at {request.url.path}.")


async def failed(request: Request, error: Exception) -> Response:
    """500; what happened is for the log alone."""
    log.get().error(log.INCIDENT, what=repr(error), method=request.method, path=request.url.path)
    return _told(request, 500, "This page met an error of ours", "The gateway's log has it.")


def _told(request: Request, status: int, title: str, words: str) -> Response:
    body = f"""<h1>{escape(title)}</h1><p class="notice bad" role="alert">{escape(words)}</p>
<p><a href="{ROOT}/">To the live view</a></p>"""
    return document(request, title, body, status)
