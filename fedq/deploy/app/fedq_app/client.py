"""A client."""

from fedq.deploy.site import app

__all__ = ["app"]
