"""What a client does with the model and its data: local algorithms, and the Flower ClientApp around them.

A local algorithm trains K clients at once: it maps their weights and batches to what each sends. To add one, write it
in a file of its own and add one line to `CLIENTS`; `fedq.testing.check_client` then holds it to the contract.
"""

from typing import Any

from fedq.plugins import find

CLIENTS: dict[str, str] = {
    "sgd": "fedq.clients.sgd:Sgd",
    "latent": "fedq.clients.latent:Latent",
    "gradient": "fedq.clients.gradient:Gradient",
    "fedprox": "fedq.clients.fedprox:FedProx",
    "feddyn": "fedq.clients.feddyn:FedDyn",
    "dp_sgd": "fedq.clients.dp_sgd:DpSgd",
    "diff2": "fedq.clients.diff2:Diff2",
    "signum": "fedq.clients.signum:Signum",
}


def client(name: str) -> Any:
    """The local algorithm of this name. FedqError FQ101 if there is none."""
    return find("client", name, CLIENTS)


__all__ = ["CLIENTS", "client"]
