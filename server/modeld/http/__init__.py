"""The HTTP gateway, a process of its own: Open Inference Protocol v2, the registry's API, metrics.

It talks to the daemon over its sockets and to the registry through `modelreg`; nothing of it runs in the front.
`create_app` makes the application (a page is mounted on that), `serve` runs it.
"""

from modeld.http.app import create_app
from modeld.http.server import serve

__all__ = ["create_app", "serve"]
