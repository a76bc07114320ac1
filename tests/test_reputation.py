"""FedVote's weights by credibility: the recursion, the references, the rules, and what a checkpoint holds."""

import numpy as np
import pytest

from fedq.attacks import attackers
from fedq.build import Simulation, build
from fedq.config import make_config
from fedq.errors import FedqError
from fedq.kernels import records
from fedq.rounds import RoundRecord
from fedq.strategies.reputation import RULES, Round, pairs, smoothed, weights
from fedq.testing import check_strategy

CLIENTS = 9
BAD = attackers("inverse:3", CLIENTS, 0).partitions


def voting(weighting: str, reference: str | None = "all", attack: str | None = None, **more: object) -> Simulation:
    small = {"clients": CLIENTS, "client.local_steps": 3, "model.hidden": [24], "data.partition": "iid", "workers": 1}
    chosen = {"strategy.weighting": weighting, **({"strategy.reference": reference} if reference else {})}
    return build(make_config({**small, **chosen, **({"attack": attack} if attack else {}), **more}))


def played(simulation: Simulation, rounds: int = 3) -> list[RoundRecord]:
    return list(simulation.rounds(simulation.initial, 1, rounds))


@pytest.mark.parametrize("weighting", ["reputation", "filtered", "plausible"])
def test_an_inverse_attacker_against_honest_votes_halves_every_round(weighting: str) -> None:
    """nu = 0.5^k exactly (B1, B2): no coordinate equals the honest plurality."""
    for k, record in enumerate(played(voting(weighting, "honest", "inverse:3")), 1):
        nu = record.strategy["credibility"]
        assert all(nu[str(a)] == round(0.5**k, 4) for a in BAD)
        assert all(nu[str(h)] > 0.7 for h in set(range(CLIENTS)) - BAD)


def test_a_perfect_client_keeps_its_full_credit() -> None:
    (*_, last) = played(voting("reputation", "broadcast", "stall:3"))
    assert all(last.strategy["credibility"][str(a)] == 1.0 for a in BAD)


def test_smoothing() -> None:
    nu = smoothed({}, {4: 0.5, 1: 1.0})
    assert nu == {4: 0.75, 1: 1.0}
    assert smoothed(nu, {4: 0.25}) == {4: 0.5, 1: 1.0}


def seen(nu: np.ndarray, same: np.ndarray | None = None) -> Round:
    return Round(nu, nu, lambda: np.eye(len(nu)) if same is None else same)


@pytest.mark.parametrize("rule", RULES)
def test_weights_sum_to_one(rule: str) -> None:
    random = np.random.default_rng(0)
    for n in (1, 2, 31):
        for cr in (random.uniform(0, 1, n), np.zeros(n), np.ones(n)):
            lambda_ = weights(rule, seen(cr))
            assert lambda_.sum() == pytest.approx(1)
            assert (lambda_ >= 0).all()


def test_rules() -> None:
    nu = seen(np.array([0.9, 0.8, 0.1]))
    assert weights("reputation", nu).tolist() == pytest.approx([0.5, 0.8 / 1.8, 0.1 / 1.8])
    assert weights("filtered", nu).tolist() == pytest.approx([0.9 / 1.7, 0.8 / 1.7, 0])


def test_plausible_drops_outliers_on_both_sides_and_twins() -> None:
    usual, same = np.full(9, 0.8), np.full((9, 9), 0.7)
    for strange in (0.3, 1.0):
        assert weights("plausible", seen(np.where(np.arange(9) == 4, strange, usual), same))[4] == 0
    same[2, 5] = same[5, 2] = 1.0
    assert np.flatnonzero(weights("plausible", seen(usual, same)) == 0).tolist() == [2, 5]


@pytest.mark.parametrize("planes", [1, 2])
def test_pairs(planes: int) -> None:
    votes = np.random.default_rng(1).integers(0 if planes == 1 else -1, 2, (5, 100))
    ballots = [tuple(np.packbits(v == s, bitorder="little") for s in (1, -1)[:planes]) for v in votes]
    expected = (votes[:, None] == votes[None]).mean(-1)
    np.testing.assert_allclose(pairs(ballots, 100), expected)


@pytest.mark.parametrize("attack", ["inverse", "mimic", "camouflage", "stall", "random"])
def test_plausible_needs_no_oracle(attack: str) -> None:
    """No weight for 3 of 9 attackers, and none lost for honest clients, from the first round on."""
    bad = attackers(f"{attack}:3", CLIENTS, 0).partitions
    for record in played(voting("plausible", None, f"{attack}:3", **{"model.hidden": [128]})):
        assert {int(k) for k, w in record.strategy["weight"].items() if w == 0} == bad


@pytest.mark.parametrize("codec", ["binary", "ternary_base3"])
def test_the_vote_is_the_weighted_mean(codec: str) -> None:
    """m = sum lambda w over decoded replies (F8), with the weights that the round shows."""
    simulation = voting("reputation", "all", "inverse:3", codec=codec)
    sent = simulation.strategy.configure_train(1, records.to_record(simulation.initial), {}, simulation.grid)  # type: ignore[arg-type]
    replies = list(simulation.grid.send_and_receive(sent))
    arrays, _ = simulation.strategy.aggregate_train(1, iter(replies))
    assert arrays is not None
    lambda_ = simulation.strategy.shown()["weight"]
    for name, m in records.to_arrays(arrays).items():
        votes = [simulation.strategy.codec.decode(r.content["arrays"][name]) for r in replies]
        expected = sum(w * v for w, v in zip(lambda_.values(), votes, strict=True))
        np.testing.assert_allclose(m, np.clip(expected, -1 + 1e-4, 1 - 1e-4), atol=1e-3)


def test_the_broadcast_is_what_clients_were_sent() -> None:
    """Through a lossy downlink the reference is still the model that the clients started from."""
    (*_, last) = played(voting("plausible", "broadcast", "stall:3", downlink="qsgd4"))
    assert all(last.strategy["credibility"][str(a)] == 1.0 for a in BAD)


def test_clients_that_are_away_keep_theirs() -> None:
    first, second = played(voting("filtered", "all", per_round=4), 2)
    before, after = first.strategy["credibility"], second.strategy["credibility"]
    away = before.keys() - second.strategy["weight"].keys()
    assert away
    assert all(before[k] == after[k] for k in away)


def test_a_round_without_anybody_shows_no_weights() -> None:
    """So that an interrupted run shows what an uninterrupted one does."""
    simulation = voting("filtered")
    (record,) = played(simulation, 1)
    assert record.strategy["weight"]
    assert simulation.strategy.aggregate_train(2, ()) == (None, None)
    assert simulation.strategy.shown() == {"credibility": record.strategy["credibility"], "weight": {}}


@pytest.mark.parametrize("codec", ["binary", "ternary"])
@pytest.mark.parametrize("weighting", ["reputation", "filtered", "plausible"])
def test_contract(weighting: str, codec: str) -> None:
    more = {"strategy.weighting": weighting, "strategy.reference": "broadcast", "per_round": 6}
    check_strategy("fedvote", codec=codec, attack="inverse:3", **more)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"reference": "honest"}, "attack NAME:SHARE"),
        ({"reference": "all", "codec": "float32"}, "--codec binary"),
    ],
)
def test_refusals(more: dict[str, str], key: str) -> None:
    with pytest.raises(FedqError) as error:
        voting("reputation", **more)  # type: ignore[arg-type]
    assert (error.value.code, key in error.value.hint) == ("FQ105", True)
