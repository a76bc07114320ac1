"""Short curves of every strategy against recorded ones, exactly on the machine that recorded them, or closely.

On another machine float sums differ in their last bits, and a stochastic codec may then round a few weights the other
way, so accuracies of 359 test images may move by a few images.
"""

import json

import pytest

from fedq.strategies import STRATEGIES
from tests.golden.make import FILE, KEYS, curve, machine

GOLDEN = json.loads(FILE.read_text())
CLOSE = {"accuracy": 0.04, "deployed_accuracy": 0.06, "loss": 0.12, "train_loss": 0.12, "up_bytes": 0, "down_bytes": 0}


@pytest.mark.parametrize("name", STRATEGIES)
def test_curve(name: str) -> None:
    golden, measured = GOLDEN["curves"][name], curve(name)
    if GOLDEN["machine"] == machine():
        assert measured == golden
    for key in KEYS:
        for now, then in zip(measured[key], golden[key], strict=True):
            assert now == then or abs(now - then) <= CLOSE[key], (key, now, then)


def test_every_strategy_has_a_curve_that_learns() -> None:
    assert set(GOLDEN["curves"]) == set(STRATEGIES)
    for name, golden in GOLDEN["curves"].items():
        assert golden["train_loss"][-1] < golden["train_loss"][0], name
