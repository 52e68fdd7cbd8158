"""Who looks at the page: a token of the gateway, handed in once and kept in a cookie that scripts can't read.

Without a key for tokens everybody at loopback may read, and nobody may change anything.
"""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from modeld.http import bodies
from modeld.http.gateway import Gateway
from modeld.http.page.plain import ROOT, document
from modeld.http.page.style import THEME_COOKIE, theme_of
from modeld.http.problems import ApiError
from modeld.http.tokens import READ, Caller, Gatekeeper

_COOKIE = "modeld_session"
#: A form with a token is smaller. Bytes.
_MAX_FORM_BYTES = 16_384


class Visitor:
    """One browser's token, checked again at each use: it may have ended since the page was opened. Thread-safe."""

    def __init__(self, keeper: Gatekeeper, request: Request) -> None:
        self._keeper = keeper
        token = request.cookies.get(_COOKIE)
        self._authorization = f"Bearer {token}" if token else None
        self.theme = theme_of(request.cookies.get(THEME_COOKIE))

    def check(self, scope: str) -> Caller:
        """Raises ApiError: 401 without a valid token, 403 without the scope or without a key."""
        return self._keeper.check(self._authorization, scope)

    def may(self, scope: str) -> bool:
        try:
            self.check(scope)
        except ApiError:
            return False
        return True

    @property
    def signed_in(self) -> bool:
        return self._keeper.has_key


def add_login(app: FastAPI, gateway: Gateway) -> None:
    """The routes that hand out and take back the cookie. Plain HTML: they work before anything is loaded."""

    async def form(request: Request) -> Response:
        return _form(request)

    async def login(request: Request) -> Response:
        sent = parse_qs(
            (await bodies.read(request.scope, request.receive, _MAX_FORM_BYTES)).decode("utf-8", "replace")
        )
        token = "".join(sent.get("token", [""])[0].split())
        try:
            gateway.keeper.check(f"Bearer {token}" if token else None, READ)
        except ApiError as error:
            return _form(request, error.problem.detail, error.problem.status)
        response = RedirectResponse(f"{ROOT}/", 303)
        secure = request.url.scheme == "https" or gateway.config.http.behind_proxy
        # No Max-Age: it ends with the browser, or with the token.
        response.set_cookie(_COOKIE, token, path=ROOT, httponly=True, samesite="strict", secure=secure)
        return response

    async def logout(_request: Request) -> Response:
        response = RedirectResponse(f"{ROOT}/login", 303)
        response.delete_cookie(_COOKIE, path=ROOT, httponly=True, samesite="strict")
        return response

    app.add_route(f"{ROOT}/login", form, methods=["GET"], include_in_schema=False)
    app.add_route(f"{ROOT}/login", login, methods=["POST"], include_in_schema=False)
    app.add_route(f"{ROOT}/logout", logout, methods=["POST"], include_in_schema=False)


def _form(request: Request, problem: str = "", status: int = 200) -> Response:
    told = f'<p class="notice bad" role="alert">{escape(problem)}</p>' if problem else ""
    body = f"""<h1>modeld</h1>{told}
<form method="post" action="{ROOT}/login"><label for="token">Token</label>
<textarea id="token" name="token" rows="5" required autofocus autocomplete="off" spellcheck="false"></textarea>
<p class="quiet">Make one on the server: <code>modeld token --subject YOU --scope model:read</code>; add
<code>--scope model:operate</code> to promote, roll back and hold, <code>--scope model:write</code> to validate.</p>
<button type="submit">Sign in</button></form>"""
    return document(request, "sign in", body, status)
