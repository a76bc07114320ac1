"""The papers' networks, as plain torch modules. `MODELS[name](shape, classes, options)` builds one.

A model gets the shape of one example (channels first) and the number of classes, and says its own options as a frozen
pydantic class. Weights are drawn from the run's seed, never by the module itself (`fedq.models.initial`).
"""

from typing import Any

from fedq.plugins import find

MODELS: dict[str, str] = {
    "mlp": "fedq.models.mlp:Mlp",
    "lenet5": "fedq.models.lenet:LeNet5",
    "fedvote_lenet5": "fedq.models.fedvote:FedVoteLeNet5",
    "vgg7": "fedq.models.fedvote:Vgg7",
    "terngrad_lenet": "fedq.models.terngrad:TernGradLeNet",
    "terngrad_cifarnet": "fedq.models.terngrad:TernGradCifarNet",
    "fedau_cnn_svhn": "fedq.models.fedau:FedAuCnn128",
    "fedau_cnn_fmnist": "fedq.models.fedau:FedAuCnn128",
    "fedau_cnn_cifar10": "fedq.models.fedau:FedAuCnn256",
    "fedau_cnn_cifar100": "fedq.models.fedau:FedAuCnn512",
    "fedau_cnn_cinic10": "fedq.models.fedau:FedAuCnn512",
    "fedlaw_cnn": "fedq.models.fedlaw:FedLawCnn",
    "fedlaw_lenet5": "fedq.models.fedlaw:FedLawLeNet5",
    "fedlaw_mlp": "fedq.models.fedlaw:FedLawMlp",
    "minilm_lora": "fedq.models.lora:MiniLmLora",
    "tiny_lora": "fedq.models.lora:TinyLora",
    "resnet20": "fedq.models.resnet:ResNet20",
}


def model(name: str) -> Any:
    """The model class of this name. FedqError FQ101 if there is none."""
    return find("model", name, MODELS)


__all__ = ["MODELS", "model"]
