"""Error feedback: nothing is lost, it helps biased codecs, survives a checkpoint, and is refused where it cannot be."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord

from fedq.build import build
from fedq.config import make_config
from fedq.errors import FedqError
from fedq.kernels import records
from fedq.testing import check_strategy

SMALL: dict[str, Any] = {
    "strategy": "fedavg",
    "clients": 6,
    "client.local_steps": 4,
    "model.hidden": [16],
    "data.partition": "dirichlet:0.3",
}


@pytest.mark.parametrize("codec", ["topk10", "sign"])
def test_all_that_was_sent_and_the_residual_are_all_that_was_meant(codec: str) -> None:
    s = build(make_config({**SMALL, "codec": codec, "error_feedback": True}))
    meant: dict[str, Any] = {}
    inner = s.trainer.train

    def watched(weights: Any, round_: int, partition: int, *more: Any) -> Any:
        made = inner(weights, round_, partition, *more)
        if partition == 2:
            for n, x in made.arrays.items():
                meant[n] = meant.get(n, 0) + x.astype(np.float64)
        return made

    s.trainer.train = watched  # type: ignore[method-assign]
    arrays, sent = records.to_record(s.initial), dict.fromkeys(s.initial, 0.0)
    for round_ in range(1, 5):
        replies = list(s.grid.send_and_receive(s.strategy.configure_train(round_, arrays, ConfigRecord(), s.grid)))
        for n, p in replies[2].content.array_records["arrays"].items():
            sent[n] = sent[n] + s.strategy.codec.decode(p)
        next_, _ = s.strategy.aggregate_train(round_, replies)
        assert next_ is not None
        arrays = next_
    residual = records.to_arrays(s.clients.memory.of(3).array_records["residual"])
    for n, x in meant.items():
        np.testing.assert_allclose(sent[n] + residual[n], x, rtol=1e-4, atol=1e-5)
    assert max(float(np.abs(x).max()) for x in residual.values()) > 1e-3


@pytest.mark.parametrize("codec", ["topk10", "sign"])
def test_it_helps_biased_codecs(codec: str) -> None:
    def loss(feedback: bool) -> float:
        s = build(make_config({**SMALL, "codec": codec, "error_feedback": feedback, "evaluate.every": 10}))
        *_, last = s.rounds(s.initial, 1, 10)
        assert last.loss is not None
        return last.loss

    assert loss(True) < loss(False) - 0.1


@pytest.mark.parametrize("strategy", ["fedavg", "feddyn", "fedadam"])
def test_it_meets_the_contract_across_a_checkpoint(strategy: str) -> None:
    check_strategy(strategy, codec="topk10", error_feedback=True, per_round=5)


def test_scales_of_ones_own_can_be_fed_back() -> None:
    """TernGrad without shared scales: nobody is asked before packing, and what is clipped is sent later."""
    check_strategy("terngrad", error_feedback=True, **{"strategy.share": False})


def test_without_loss_there_is_nothing_to_feed_back() -> None:
    ends = []
    for feedback in (False, True):
        s = build(make_config({**SMALL, "error_feedback": feedback}))
        *_, last = s.rounds(s.initial, 1, 2)
        ends.append({n: a.data for n, a in last.arrays.items()})
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strategy": "fedvote"}, "clients of `fedvote` send weights"),
        ({"strategy": {"name": "fedavg", "sends": "weights"}}, "clients of `fedavg` send weights"),
        ({"strategy": "signsgd"}, "signs without a size"),
        ({"strategy": "terngrad"}, "are asked for the scale"),
    ],
)
def test_where_it_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FedqError, match=said) as error:
        build(make_config({**settings, "clients": 4, "error_feedback": True}))
    assert error.value.code == "FQ105"
    assert "error_feedback" in error.value.where
    assert error.value.hint


def test_unbiased_codecs_are_warned_of() -> None:
    warned = build(make_config({**SMALL, "codec": "binary", "error_feedback": True})).warnings
    assert "`binary` is unbiased" in warned[0]
    assert build(make_config({**SMALL, "codec": "topk10", "error_feedback": True})).warnings == ()


def test_the_flag(fedq: Any) -> None:
    code, out, _ = fedq("simulate", "--strategy", "fedavg", "--codec", "topk10", "--error-feedback", "--print-config")
    assert code == 0
    assert "error_feedback = true" in out
