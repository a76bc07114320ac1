"""The server."""

from fedq.deploy.server import app

__all__ = ["app"]
