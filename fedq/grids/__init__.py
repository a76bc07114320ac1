"""How messages travel in simulation: `LocalGrid`, in this process."""

from fedq.grids.local import LocalGrid

__all__ = ["LocalGrid"]
