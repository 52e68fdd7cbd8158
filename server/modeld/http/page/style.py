"""How the page looks: one sheet for what NiceGUI draws and for the login, light and dark."""

from __future__ import annotations

from importlib import resources
from typing import Literal

Theme = Literal["auto", "dark", "light"]
THEME_COOKIE = "modeld_theme"

#: The sheet's text.
STYLE = resources.files("modeld.http.page").joinpath("page.css").read_text("utf-8")


def theme_of(cookie: str | None) -> Theme:
    """What the visitor chose; `auto` follows the system."""
    return "dark" if cookie == "dark" else "light" if cookie == "light" else "auto"
