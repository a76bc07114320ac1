"""How messages travel in simulation: `LocalGrid`, in this process, and `RayGrid`, on Ray's."""

from fedq.grids.crew import Crew
from fedq.grids.local import LocalGrid
from fedq.grids.simulated import SimulatedGrid

__all__ = ["Crew", "LocalGrid", "SimulatedGrid"]
