"""Candidate retrieval: towers, spaces, stores, indexes and the server that answers queries with them."""

__version__ = "0.1.0"

__all__ = ["__version__"]
