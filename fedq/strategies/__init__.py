"""How the server chooses clients and combines their replies.

To add a strategy: write it in a file of its own, add one line to `STRATEGIES`; `fedq.testing.check_strategy` then
holds it to the contract. Other packages register theirs under the entry-point group `fedq.strategies`.
"""

from fedq.plugins import find
from fedq.strategies.base import PackedStrategy, Setup

STRATEGIES: dict[str, str | type[PackedStrategy]] = {
    "fedvote": "fedq.strategies.fedvote:FedVote",
    "fedavg": "fedq.strategies.fedavg:FedAvg",
    "fedpaq": "fedq.strategies.fedavg:FedPaq",
    "terngrad": "fedq.strategies.terngrad:TernGrad",
    "fedau": "fedq.strategies.fedau:FedAu",
    "average_participating": "fedq.strategies.averages:AverageParticipating",
    "average_all": "fedq.strategies.averages:AverageAll",
    "known_probability": "fedq.strategies.averages:KnownProbability",
    "fedvarp": "fedq.strategies.fedvarp:FedVarp",
    "mifa": "fedq.strategies.fedvarp:Mifa",
    "signsgd": "fedq.strategies.signsgd:SignSgd",
    "fedprox": "fedq.strategies.flower:FedProx",
    "feddyn": "fedq.strategies.feddyn:FedDyn",
    "fedlaw": "fedq.strategies.fedlaw:FedLaw",
    "dp_lora": "fedq.strategies.dp_lora:DpLora",
    "diff2": "fedq.strategies.diff2:Diff2",
    "fedadagrad": "fedq.strategies.flower:FedAdagrad",
    "fedadam": "fedq.strategies.flower:FedAdam",
    "fedyogi": "fedq.strategies.flower:FedYogi",
    "fedavgm": "fedq.strategies.flower:FedAvgM",
    "qfedavg": "fedq.strategies.qfedavg:QFedAvg",
    "fedmedian": "fedq.strategies.flower:FedMedian",
    "fedtrimmedavg": "fedq.strategies.flower:FedTrimmedAvg",
    "krum": "fedq.strategies.flower:Krum",
    "multikrum": "fedq.strategies.flower:MultiKrum",
    "bulyan": "fedq.strategies.flower:Bulyan",
}


def strategy(name: str) -> type[PackedStrategy]:
    """The strategy class of this name. FedqError FQ101 if there is none."""
    found: type[PackedStrategy] = find("strategy", name, STRATEGIES)
    return found


__all__ = ["STRATEGIES", "PackedStrategy", "Setup", "strategy"]
