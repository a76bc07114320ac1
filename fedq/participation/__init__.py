"""Who is available when: a function of the seed and the round, never of Flower's random node ids.

Other packages register patterns of their own under the entry-point group `fedq.participation`.
"""

from fedq.participation.base import Participation, Population
from fedq.plugins import find

PARTICIPATION: dict[str, str | type[Participation]] = {
    "full": "fedq.participation.uniform:Full",
    "uniform": "fedq.participation.uniform:Uniform",
    "bernoulli": "fedq.participation.bernoulli:Bernoulli",
    "markov": "fedq.participation.markov:Markov",
    "cyclic": "fedq.participation.cyclic:Cyclic",
}


def participation(name: str) -> type[Participation]:
    """The participation pattern of this name. FedqError FQ101 if there is none."""
    found: type[Participation] = find("participation", name, PARTICIPATION)
    return found


__all__ = ["PARTICIPATION", "Participation", "Population", "participation"]
