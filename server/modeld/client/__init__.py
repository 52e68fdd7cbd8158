"""Clients of modeld: predictions, metadata, health and swap events, from Python. No model library is imported.

    with Client("ipc:///run/modeld/data/predict.sock") as client:
        prediction = client.predict(numpy_row)
        prediction.values, prediction.version, prediction.generation

`Client` blocks, `AsyncClient` is for asyncio, `AdminClient` is an operator's; what they raise is in
`modeld.client.errors`. Decisions are pure (`exchange`, `codec`, `features`, `core`); `blocking` and `aio` add sockets.
"""

from modeld.client.admin import AdminClient
from modeld.client.aio import AsyncClient
from modeld.client.blocking import Client
from modeld.client.codec import Prediction
from modeld.client.curve import Curve
from modeld.client.events import Event
from modeld.client.exchange import Health

__all__ = ["AdminClient", "AsyncClient", "Client", "Curve", "Event", "Health", "Prediction"]
