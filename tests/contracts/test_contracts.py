"""Every registered codec, strategy and client against its contract, and contracts against parts that break them."""

import numpy as np
import pytest
from flwr.app import Array

from fedq.clients import CLIENTS
from fedq.kernels import CODECS, Scaled, codec
from fedq.kernels.binary import Binary
from fedq.strategies import STRATEGIES
from fedq.strategies.fedavg import FedAvg
from fedq.strategies.terngrad import TernGrad
from fedq.testing import check_client, check_codec, check_strategy
from tests.golden.make import CHANGES, SEEDED

SETTINGS: dict[str, dict[str, object]] = {
    "bulyan": {"clients": 4},  # Flower's loops over weights are slow
    "dp_lora": SEEDED,
    "diff2": CHANGES,
}


@pytest.mark.parametrize("name", [*CODECS, "topk:0.25"])
def test_codec(name: str) -> None:
    check_codec(codec(name))


@pytest.mark.parametrize("name", [n for n, c in CODECS.items() if c.unit or n == "sign"])
def test_scaled_codec(name: str) -> None:
    check_codec(Scaled(CODECS[name]))


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy(name: str) -> None:
    check_strategy(name, **SETTINGS.get(name, {}))


@pytest.mark.parametrize("codec", ["binary", "ternary_base3", "qsgd4"])
@pytest.mark.parametrize("name", ["fedavg", "fedadam", "krum"])
def test_strategy_behind_codec(name: str, codec: str) -> None:
    check_strategy(name, codec=codec)


@pytest.mark.parametrize("codec", ["ternary", "ternary_base3", "float32", "qsgd8"])
def test_fedvote_alphabets(codec: str) -> None:
    check_strategy("fedvote", codec=codec)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("signsgd", {"strategy.momentum": 0.9}),
        ("signsgd", {"client.name": "signum"}),
        ("fedlaw", {"strategy.form": "quad", "strategy.variant": "two_stage", "strategy.proxy": "test"}),
        ("fedlaw", {"strategy.optimizer": "sgd", "codec": "qsgd4", "per_round": 5}),
        ("feddyn", {"codec": "qsgd4", "per_round": 5}),
        ("fedavg", {"client.lr_decay": 0.5}),
    ],
)
def test_strategy_with_settings(name: str, settings: dict[str, object]) -> None:
    check_strategy(name, **settings)


def test_strategy_with_sampling_and_lossy_downlink() -> None:
    check_strategy("fedvote", per_round=5, downlink="qsgd8")


@pytest.mark.parametrize("name", CLIENTS)
def test_client(name: str) -> None:
    check_client(name)


@pytest.mark.parametrize("settings", [{"optimizer": "adam"}, {"momentum": 0.9, "lr": 0.01}, {"weight_decay": 0.1}])
def test_client_sgd_settings(settings: dict[str, object]) -> None:
    check_client("sgd", **settings)


class _Biased(type(CODECS["float32"])):  # type: ignore[misc]
    name = "biased"

    def pack(self, x, key):  # type: ignore[no-untyped-def]
        return super().pack(x * np.float32(1.01), key)


class _Careless(Binary):  # type: ignore[misc]
    name = "careless"

    def size(self, payload: Array) -> int:
        return int(np.prod(payload.shape))


def test_contract_catches_bias() -> None:
    with pytest.raises(AssertionError, match="biased"):
        check_codec(_Biased())


def test_contract_catches_a_silent_first_exchange() -> None:
    class Silent(TernGrad):  # type: ignore[misc]
        asks_first = False  # type: ignore[assignment]

    with pytest.raises(AssertionError, match="asks_first"):
        check_strategy(Silent)


def test_contract_catches_writing_to_the_model() -> None:
    class Hasty(FedAvg):  # type: ignore[misc]
        def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
            for w in self.current.values():
                w[...] += 1
            return super().aggregate_train(server_round, replies)

    with pytest.raises(AssertionError, match="make new arrays"):
        check_strategy(Hasty)


def test_contract_catches_missing_checks() -> None:
    with pytest.raises((AssertionError, ValueError, IndexError)):
        check_codec(_Careless())
