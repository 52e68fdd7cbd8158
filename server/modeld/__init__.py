"""A hot-reloading model-serving daemon for trading engines."""

__version__ = "0.1.0"
