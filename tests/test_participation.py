"""Who comes when: the released sampler's numbers, the patterns' laws, purity, and what a config says of them."""

import numpy as np
import pytest

from fedq.build import build
from fedq.config import make_config
from fedq.data.partition import by_label_mix, label_shares, partition
from fedq.errors import FedqError
from fedq.participation import PARTICIPATION, Participation, Population, participation
from fedq.participation.base import ascending, coins, rates
from fedq.participation.markov import transitions
from fedq.strategies import STRATEGIES
from fedq.strategies.base import Setup
from fedq.strategies.fedavg import FedAvg

CIFAR10 = np.repeat(np.arange(10), 5000)  # the draws depend on class counts alone
FIRST_P = {
    1: (0.2056, 0.022366, 0.02, 0.02, 0.02),
    2: (0.120796, 0.02, 0.117662, 0.04169, 0.02),
    3: (0.02, 0.034692, 0.053733, 0.02005, 0.075369),
    4: (0.044271, 0.055595, 0.100589, 0.02, 0.02),
    5: (0.30042, 0.022242, 0.020164, 0.23762, 0.361423),
}
SUMMARY = {  # mean after the floor, largest, share at the floor
    1: (0.1107, 0.771, 0.340),
    2: (0.1034, 0.669, 0.324),
    3: (0.1005, 0.646, 0.368),
    4: (0.1090, 0.588, 0.356),
    5: (0.1079, 0.488, 0.380),
}
HEADS = {
    1: (24, 32, 30, 33, 29, 26, 22, 31, 25, 23, 33, 26, 30, 27, 31, 27, 24, 30, 28, 28),
    2: (27, 22, 29, 26, 23, 30, 34, 23, 24, 24),
}


def made(name: str, clients: int = 250, seed: int = 0, **options: object) -> Participation:
    """A pattern over clients with Dirichlet(0.1) labels."""
    of = Population(seed, clients, None, lambda: np.random.default_rng(3).dirichlet([0.1] * 10, clients))
    kind = participation(name)
    return kind(of, kind.Options(**options))


def official(seed: int) -> tuple[list[np.ndarray], np.ndarray, np.random.RandomState]:
    """Shards and rates in the order in which FedAU's code draws them, from NumPy's old global stream."""
    random = np.random.RandomState(seed)
    shards = by_label_mix(CIFAR10, 250, 0.1, random)
    return shards, rates(random, label_shares(CIFAR10, shards), 0.1, 0.02, 0.1), random


@pytest.mark.filterwarnings("error")
def test_a_label_that_no_client_drew_is_cut_evenly() -> None:
    """At so small an alpha each client's mix is one label, exactly."""
    labels = np.repeat(np.arange(10), 20)
    for seed in range(40):
        shards = by_label_mix(labels, 5, 0.001, np.random.default_rng(seed))
        assert sorted(np.concatenate(shards)) == list(range(200))
        shares = np.stack([np.bincount(labels[s], minlength=10) for s in shards])
        q_NL = np.random.default_rng(seed).dirichlet([0.001] * 10, 5)
        for label in np.flatnonzero(q_NL.sum(0) == 0):
            assert (shares[:, label] == 4).all()


@pytest.mark.parametrize("seed", FIRST_P)
def test_rates_of_the_released_code(seed: int) -> None:
    _, p_N, _ = official(seed)
    np.testing.assert_allclose(p_N[:5], FIRST_P[seed], atol=2e-6)
    np.testing.assert_allclose((p_N.mean(), p_N.max(), (p_N == 0.02).mean()), SUMMARY[seed], atol=6e-4)


@pytest.mark.parametrize("seed", HEADS)
def test_heads_of_the_released_code(seed: int) -> None:
    _, p_N, random = official(seed)
    rounds = [ascending(coins(random, p_N)) for _ in HEADS[seed]]
    assert tuple(map(len, rounds)) == HEADS[seed]
    assert seed != 1 or rounds[0][:8] == [8, 13, 22, 36, 44, 56, 61, 75]


def test_the_released_partition() -> None:
    shards, _, _ = official(1)
    taken = np.concatenate(shards)
    assert len(np.unique(taken)) == len(taken) == 50_000
    assert 160 <= min(map(len, shards)) < max(map(len, shards)) <= 260
    q_NL = label_shares(CIFAR10, shards)
    np.testing.assert_allclose(q_NL.sum(1), 1)
    assert np.median(q_NL.max(1)) > 0.6  # most clients hold mostly one label


def test_fedau_partition_by_its_name() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    shards = partition(labels, "fedau:0.1", 20, 4)
    assert sorted(np.concatenate(shards).tolist()) == list(range(5000))
    assert 100 < min(map(len, shards)) < max(map(len, shards)) < 600  # dirichlet:0.1 gives 38 to 639
    assert all((a == b).all() for a, b in zip(shards, partition(labels, "fedau:0.1", 20, 4), strict=True))
    with pytest.raises(FedqError, match="a client would have no example"):
        partition(labels[:12], "fedau:0.1", 20, 4)
    with pytest.raises(FedqError, match="malformed partition"):
        partition(labels, "fedau", 20, 4)


@pytest.mark.parametrize("name", PARTICIPATION)
def test_a_round_is_a_function_of_seed_and_round(name: str) -> None:
    of = Population(5, 40, 7, lambda: np.random.default_rng(3).dirichlet([0.1] * 10, 40))
    kind = participation(name)
    played = kind(of, kind.Options())
    trace = [played.partitions(t) for t in range(1, 30)]
    assert all(came == sorted(set(came)) and set(came) <= set(range(40)) for came in trace)
    for t in (29, 3, 17):  # a resumed run, and one that looks back
        assert kind(of, kind.Options()).partitions(t) == played.partitions(t) == trace[t - 1]
    other = kind(Population(6, 40, 7, of.labels), kind.Options())
    assert name == "full" or [other.partitions(t) for t in range(1, 30)] != trace
    assert played.probabilities().shape == (40,)


def test_bernoulli_shares_are_the_rates() -> None:
    pattern, T = made("bernoulli"), 2000
    share_N = np.bincount([n for t in range(1, T + 1) for n in pattern.partitions(t)], minlength=250) / T
    p_N = pattern.probabilities()
    assert p_N.min() == 0.02
    assert (np.abs(share_N - p_N) < 5 * np.sqrt(p_N * (1 - p_N) / T)).all()


def test_markov_shares_are_the_rates() -> None:
    """The stationary share is p_n, also where p < a/(1 + a) and a rare client leaves after one round."""
    p_N = np.array([0.01, 0.02, 0.0476, 0.0477, 0.1, 0.5, 0.9, 1.0])
    come_N, go_N = transitions(p_N, 0.05)
    np.testing.assert_allclose(come_N / (come_N + go_N), p_N)
    assert (go_N[:3] == 1).all()
    assert (come_N[:3] < 0.05).all()
    assert (go_N[3:] < 1).all()
    assert (come_N[3:] == 0.05).all()
    pattern, T = made("markov", clients=400, mean=0.3, correlated=False), 1500
    came_TN = np.zeros((T, 400), bool)
    for t in range(T):
        came_TN[t, pattern.partitions(t + 1)] = True
    assert abs(came_TN.mean() - 0.3) < 0.02
    assert abs(came_TN[0].mean() - 0.3) < 0.12  # the start is stationary too
    turned = (~came_TN[:-1] & came_TN[1:]).sum() / (~came_TN[:-1]).sum()
    assert abs(turned - 0.05) < 0.002


@pytest.mark.parametrize("wrap", [False, True])
def test_cyclic_clients_come_as_often_as_their_rates_say(wrap: bool) -> None:
    pattern = made("cyclic", wrap=wrap)
    came_TN = np.zeros((300, 250), bool)
    for t in range(300):
        came_TN[t, pattern.partitions(t + 1)] = True
    on_N = np.maximum(1, np.rint(100 * pattern.probabilities()))
    for first in (0, 100, 150):
        assert (came_TN[first : first + 100].sum(0) == on_N).all() or (first == 150 and not wrap)
    empty = np.flatnonzero(~came_TN.any(1))
    starts = (~came_TN[:-1] & came_TN[1:]).sum(0) + came_TN[0]
    if wrap:
        assert not empty.size
        assert (starts <= 4).all()
    else:
        assert empty.tolist() == [99, 199, 299]  # rounds 100, 200, 300, counted from 1
        assert (starts == 3).all()
        assert came_TN[0].sum() < 10
        assert came_TN[:100].sum(1).max() > 30


def test_equal_rates_and_rates_above_one() -> None:
    assert set(made("bernoulli", correlated=False, mean=0.25).probabilities()) == {0.25}
    assert set(made("bernoulli", correlated=False, mean=0.01).probabilities()) == {0.02}
    with pytest.raises(FedqError, match=r"client \d+ would take part in \d.\d\d of the rounds") as error:
        made("bernoulli", mean=0.9).probabilities()
    assert error.value.code == "FQ105"


@pytest.mark.parametrize(
    ("values", "says", "hint"),
    [
        ({"participation": "bernouli"}, "unknown participation `bernouli`", "did you mean `bernoulli`?"),
        ({"participation": "bernoulli", "per_round": 3}, "3 clients per round, but participation `bernoulli`", "leave"),
        ({"participation": "full", "per_round": 3}, "3 clients per round, but participation `full`", "uniform"),
        ({"participation": "uniform"}, "`uniform` of how many clients?", "--per-round"),
        ({"participation.name": "cyclic", "participation.a": 0.1}, "unknown key `participation.a`", ""),
        ({"participation.mean": 0.1}, "unknown key `participation.mean`", ""),
    ],
)
def test_wrong_participation(values: dict[str, object], says: str, hint: str) -> None:
    with pytest.raises(FedqError) as error:
        make_config(values)
    assert says in error.value.message
    assert hint in error.value.hint
    assert error.value.where


def test_participation_in_a_config() -> None:
    plain, some = make_config(), make_config(per_round=5)
    assert (plain.participation.name, some.participation.name) == ("full", "uniform")
    assert make_config(participation="full") == plain
    assert make_config(participation="uniform", per_round=20).hash == plain.hash
    assert "participation" not in some.as_dict()
    markov = plain.with_(participation="markov", participation__a=0.2)
    assert markov.participation.options.a == 0.2
    assert make_config(markov.as_dict()) == markov
    assert markov.hash != plain.hash
    assert markov.with_(participation="full") == plain
    assert markov.with_(participation="cyclic").participation.options.cycle == 100


def test_strategies_know_the_rates_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also rates that follow the labels of data that nobody has loaded yet."""

    class Rates(FedAvg):  # type: ignore[misc]
        def __init__(self, setup: Setup, options: object) -> None:
            super().__init__(setup, options)
            self.p_N = setup.participation.probabilities()

    monkeypatch.setitem(STRATEGIES, "rates", Rates)
    s = build(make_config(strategy="rates", participation="bernoulli", clients=10))
    assert isinstance(s.strategy, Rates)
    plain = build(make_config(strategy="fedavg", participation="bernoulli", clients=10))
    np.testing.assert_array_equal(s.strategy.p_N, plain.strategy.setup.participation.probabilities())
    assert len(set(s.strategy.p_N.tolist())) > 2


def test_rates_that_cannot_be_are_told_where_they_were_given() -> None:
    with pytest.raises(FedqError) as error:
        build(make_config({"participation": "bernoulli", "participation.mean": 0.95, "clients": 10}))
    assert "participation.mean" in error.value.where
    assert "participation.mean up to" in error.value.hint
