"""The papers' networks, as plain torch modules. `MODELS[name](shape, classes, options)` builds one.

A model gets the shape of one example (channels first) and the number of classes, and says its own options as a frozen
pydantic class. Weights are not its business: `initial_weights` draws them from the run's seed.
"""

from typing import Any

from fedq.plugins import find

MODELS: dict[str, str] = {
    "mlp": "fedq.models.mlp:Mlp",
    "lenet5": "fedq.models.lenet:LeNet5",
    "fedvote_lenet5": "fedq.models.lenet:FedVoteLeNet5",
}


def model(name: str) -> Any:
    """The model class of this name. FedqError FQ101 if there is none."""
    return find("model", name, MODELS)


__all__ = ["MODELS", "model"]
