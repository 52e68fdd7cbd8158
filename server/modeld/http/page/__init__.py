"""The page: what is served, the registry, the audit trail, and operating both from a browser. Needs the extra `ui`."""

from modeld.http.page.mount import mount

__all__ = ["mount"]
