"""Private clients: what is clipped, what is noise, what it costs, and what is refused."""

from collections.abc import Iterator
from math import inf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import MetricRecord, RecordDict
from torch.nn import functional

from fedq.build import Simulation, build, one_torch_thread
from fedq.clients.clipping import PerSample
from fedq.clients.dp_sgd import DpSgd, batches
from fedq.clients.private import Own
from fedq.config import RunConfig, make_config
from fedq.errors import FedqError
from fedq.models import model
from fedq.models.network import Blueprint, Network
from fedq.privacy import accountant
from fedq.privacy.entropy import secret
from fedq.privacy.ledger import Ledger
from fedq.rng import rng
from fedq.runs import open_run
from fedq.simulation import reopen, simulate
from tests.lies import liar

TOKENS = 12


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As clients train."""
    with one_torch_thread():
        yield


def network(name: str = "tiny_lora") -> tuple[Network, torch.Tensor]:
    """A tiny transformer, and weights at which B is not zero, so that A has a gradient."""
    blueprint = Blueprint(name, model(name).Options(), (TOKENS,), 3, 0)
    drawn = blueprint.initial_weights()
    made = Network(blueprint, drawn, list(drawn))
    w = made.flatten(drawn)
    return made, w + torch.from_numpy(0.1 * rng(0, "w").standard_normal(len(w))).float()


def batch(n: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    ids = rng(0, "ids").integers(1, 512, (n, TOKENS)).astype(np.int32)
    ids[::3, 5:] = 0
    return torch.from_numpy(ids), torch.arange(n) % 3


SMALL = {
    "strategy": "dp_lora", "clients": 3, "rounds": 4, "client.local_steps": 2, "client.batch_size": 16,
    "client.noise": 1.0, "model.name": "mlp", "model.norm": "none", "model.hidden": [8], "data.partition": "iid",
}  # fmt: skip


def config(**settings: Any) -> RunConfig:
    return make_config({k: v for k, v in {**SMALL, **settings}.items() if v is not None})


# ---------------------------------------------------------------------------------------------------- clipping


def test_each_gradient_is_clipped_over_all_weights() -> None:
    """Equal to a loop over examples, to 1e-6, at a clip that some reach and others do not."""
    net, w = network()
    x, y = batch()
    loop = torch.stack([net.gradient(w[None], x[None, i : i + 1], y[None, i : i + 1])[1][0] for i in range(len(y))])
    clip = float(loop.norm(dim=1).median())
    expected = sum(g * min(1.0, clip / float(g.norm())) for g in loop)
    _, found = PerSample(net).sums(w, x, y, clip)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert (loop.norm(dim=1) > clip).any()
    assert (loop.norm(dim=1) < clip).any()


@pytest.mark.parametrize("clip", [0.01, 1.0])
def test_without_noise_no_step_exceeds_lr_times_clip(clip: float) -> None:
    """Also where a transformer could compute a loss of its own: the loss is always taken of its logits."""
    net, w = network()
    x, y = batch(40)
    options = DpSgd.Options(noise=0.0, clip=clip, lr=2.0, batch_size=40, local_steps=1)
    own = Own(40, lambda i: (x[torch.from_numpy(i)], y[torch.from_numpy(i)]), (1, 0), {"rounds": 1})
    end, _, _ = DpSgd(options).release(net, w, own, Ledger())
    assert 0 < float((end - w).norm()) <= 2.0 * clip * (1 + 1e-5)


def test_an_empty_batch_is_a_step_of_noise() -> None:
    """Nobody is drawn: the step is made, and counted, all the same; sigma C / B per coordinate, within 3 %."""
    net, w = network()
    x, y = batch()
    options = DpSgd.Options(noise=0.7, clip=0.3, lr=1.0, batch_size=8, local_steps=1)
    own = Own(100, lambda i: (x[:0], y[:0]), (1, 0), {"rounds": 1})
    ends = [DpSgd(options).release(net, w, own, Ledger()) for _ in range(20)]
    assert [loss for _, loss, _ in ends] == [0] * 20
    assert ends[0][2].releases == ((0.7, 0.08, 1),)
    moved = torch.stack([end - w for end, _, _ in ends])  # 42,940 draws
    assert float(moved.std()) == pytest.approx(0.7 * 0.3 / 8, rel=0.03)


def test_batches_are_poisson_samples() -> None:
    """Sizes vary, 0 among them; each example comes with probability B / n."""
    options = DpSgd.Options(batch_size=2)
    drawn = list(batches(options, 50, 4000, secret(None)))
    sizes = np.array([len(b) for b in drawn])
    assert sizes.min() == 0
    assert sizes.max() > 4
    assert sizes.mean() == pytest.approx(2, rel=0.06)
    assert np.bincount(np.concatenate(drawn), minlength=50).min() > 0.5 * 4000 * 2 / 50


def test_paper_mode_clips_groups_and_counts_what_privacy_sees() -> None:
    """A, B and head: three groups of norm C each, and a noise multiplier of sigma / (2 sqrt 3)."""
    net, w = network()
    x, y = batch(40)
    own = Own(40, lambda i: (x[torch.from_numpy(i)], y[torch.from_numpy(i)]), (1, 0), {"rounds": 1})
    quiet = DpSgd.Options(mode="paper", noise=0.0, clip=1e-3, lr=1.0, batch_size=40, local_steps=1)
    end, _, _ = DpSgd(quiet).release(net, w, own, Ledger())
    assert float((end - w).norm()) == pytest.approx(1e-3 * sqrt(3), rel=1e-3)
    loud = DpSgd.Options(mode="paper", noise=2.0, clip=10.0, batch_size=8, local_steps=1)
    _, _, ledger = DpSgd(loud).release(net, w, own, Ledger())
    assert ledger.releases[0][0] == pytest.approx(2 / (2 * sqrt(3)))


def test_the_papers_settings_spend_far_more_than_their_label() -> None:
    """sigma 2, T 50, two groups, whole data: 0.707 is what counts, and epsilon is 91.8 (dp-accounting), not 2."""
    assert accountant.gaussian(2 / (2 * sqrt(2)), 50, 1e-5) == pytest.approx(91.8, abs=0.1)


# -------------------------------------------------------------------------------------------------- accounting


@pytest.mark.parametrize(
    ("releases", "prv", "rdp"),
    [
        (((1.0, 32 / 700, 220),), 4.55, 5.11),
        (((1.0, 32 / 700, 440),), 6.39, 7.06),
        (((1.0, 32 / 700, 220), (2.0, 32 / 700, 220)), 4.82, 5.39),
    ],
)
def test_epsilon_against_reference_values(releases: Any, prv: float, rdp: float) -> None:
    assert accountant.prv(releases, 1e-5) == pytest.approx(prv, abs=0.01)
    assert accountant.rdp(releases, 1e-5) == pytest.approx(rdp, abs=0.01)
    assert Ledger(releases).epsilon(1e-5) == accountant.prv(releases, 1e-5)


def test_prv_agrees_with_another_librarys_accountant() -> None:
    """dp-accounting's PLD, an implementation of its own."""
    import dp_accounting
    from dp_accounting import pld

    other = pld.PLDAccountant()
    other.compose(dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(1.1)), 100)
    assert accountant.prv(((1.1, 0.05, 100),), 1e-5) == pytest.approx(other.get_epsilon(1e-5), rel=0.01)


@pytest.mark.parametrize(("target", "noise"), [(2.0, 2.12), (8.0, 0.90)])
def test_noise_is_chosen_for_the_target(target: float, noise: float) -> None:
    found = accountant.noise_for(target, 1e-5, 32 / 700, 440)
    assert found == pytest.approx(noise, abs=0.02)
    assert 0.96 * target < Ledger(((found, 32 / 700, 440),)).epsilon(1e-5) <= target


def test_ledgers_add_up() -> None:
    """Two rounds of S steps are one of 2 S; a release without noise spoils all."""
    twice = Ledger().plus(1.0, 0.1, 5).plus(1.0, 0.1, 5)
    assert twice == Ledger().plus(1.0, 0.1, 10)
    mixed = Ledger().plus(1.0, 0.1, 5).plus(2.0, 0.1, 5).plus(1.0, 0.1, 5)
    assert mixed.epsilon(1e-5) == Ledger().plus(1.0, 0.1, 10).plus(2.0, 0.1, 5).epsilon(1e-5)
    assert Ledger.of(mixed.record()) == mixed
    assert Ledger().epsilon(1e-5) == 0
    assert mixed.plus(0.0, 0.1, 1).epsilon(1e-5) == inf


def test_noise_cannot_be_drawn_again() -> None:
    assert secret(None).integers(2**63) != secret(None).integers(2**63)
    assert secret(4, 1, 2).integers(2**63) == secret(4, 1, 2).integers(2**63)


# -------------------------------------------------------------------------------------------------------- runs


def played(simulation: Simulation, last: int) -> list[dict[str, Any]]:
    return [r.metrics() for r in simulation.rounds(simulation.initial, 1, last)]


def test_two_runs_with_equal_seeds_have_different_noise(tmp_path: Path) -> None:
    one, two = (simulate(config(), out=tmp_path / str(k)) for k in range(2))
    assert one.about["weights_sha256"] != two.about["weights_sha256"]
    assert [m["epsilon"] for m in one.records()] == [m["epsilon"] for m in two.records()]
    seeded = [simulate(config(**{"client.noise_seed": 1}), out=tmp_path / f"s{k}") for k in range(2)]
    assert seeded[0].about["weights_sha256"] == seeded[1].about["weights_sha256"]
    assert seeded[0].records()[-1]["epsilon"] is None


def test_epsilon_grows_by_rounds_and_is_the_largest_of_the_clients() -> None:
    simulation = build(config(**{"per_round": 1, "clients": 4, "data.partition": "dirichlet:1.0"}))
    lines = played(simulation, 4)
    grown = [m["epsilon"] for m in lines]
    assert grown == sorted(grown)
    assert {m["delta"] for m in lines} == {1e-5}
    spent = simulation.strategy.spent  # type: ignore[attr-defined]
    came = {k for r in range(1, 5) for k in simulation.strategy.setup.participation.partitions(r)}
    assert set(spent) == came != set(range(4))
    for k, epsilon in spent.items():
        n = len(simulation.trainer._shards.training(k))
        rounds = sum(k in simulation.strategy.setup.participation.partitions(r) for r in range(1, 5))
        assert epsilon == Ledger().plus(1.0, 16 / n, 2 * rounds).epsilon(1e-5)
    assert max(spent.values()) == grown[-1]


def test_delta_is_the_runs() -> None:
    """A client that tells its epsilon at another delta is rejected, and the run's stays."""
    simulation = build(config(**{"clients": 4, "tolerate": 0.5}))
    (line,) = played(liar(simulation, "metrics", lambda told: MetricRecord({**told, "delta": 0.9})), 1)
    assert (line["clients"], line["rejected"], line["delta"]) == (3, 1, 1e-5)


def test_the_ledger_survives_a_restart(tmp_path: Path) -> None:
    straight = simulate(config(), out=tmp_path / "straight")
    half = simulate(config(rounds=2), out=tmp_path / "half")
    run, simulation = reopen(half.path, rounds=4)
    from fedq.simulation import play

    list(play(run, simulation))
    assert [m["epsilon"] for m in open_run(half.path).records()] == [m["epsilon"] for m in straight.records()]
    assert "noise" in straight.about["privacy"]
    assert straight.totals()["epsilon"] == straight.records()[-1]["epsilon"]


def test_a_run_whose_ledger_is_missing_is_not_resumed(tmp_path: Path) -> None:
    simulation = build(config())
    played(simulation, 1)
    simulation.clients.memory.keep(2, RecordDict())
    state = simulation.state()
    fresh = build(config())
    with pytest.raises(FedqError, match="ledger of client 1 is missing") as error:
        fresh.restore(state)
    assert error.value.code == "FQ205"


def test_a_client_that_lost_its_ledger_is_rejected() -> None:
    simulation = build(config())
    list(simulation.rounds(simulation.initial, 1, 1))
    simulation.clients.restore({})
    with pytest.raises(FedqError, match="2 releases of a client that had made 2 before: its privacy ledger was lost"):
        list(simulation.rounds(simulation.initial, 2, 2))


def test_a_client_that_lost_its_ledger_is_out_for_good() -> None:
    """Also when its new ledger has outgrown the old one, and after the server goes back; epsilon is unknown."""
    simulation = build(config(tolerate=0.5, rounds=9))
    list(simulation.rounds(simulation.initial, 1, 2))
    simulation.clients.memory.keep(2, RecordDict())
    lines = [r.metrics() for r in simulation.rounds(simulation.initial, 3, 6)]
    assert [(m["clients"], m["rejected"], m["epsilon"]) for m in lines] == [(2, 1, None)] * 4
    state = simulation.state()
    again = build(config(tolerate=0.5, rounds=9))
    again.restore(state)
    (line,) = (r.metrics() for r in again.rounds(again.initial, 7, 7))
    assert (line["rejected"], line["epsilon"]) == (1, None)


def test_a_rejected_reply_is_spent() -> None:
    """It was sent: who cannot be used counts in the run's epsilon as who can."""
    simulation = build(config(**{"clients": 2, "tolerate": 0.5, "data.partition": "dirichlet:0.5"}))
    sizes = [simulation.trainer.examples(k) for k in range(2)]
    small = sizes.index(min(sizes))  # it draws the larger share, so it spends most
    check = simulation.strategy.check_reply

    def cut(reply: Any) -> None:
        if simulation.strategy.partition_of(reply) == small:
            reply.content["arrays"].popitem()
        check(reply)

    simulation.strategy.check_reply = cut  # type: ignore[method-assign]
    (line,) = played(simulation, 1)
    assert (line["clients"], line["rejected"]) == (1, 1)
    assert line["epsilon"] == Ledger().plus(1.0, 16 / min(sizes), 2).epsilon(1e-5)
    assert line["epsilon"] > Ledger().plus(1.0, 16 / max(sizes), 2).epsilon(1e-5)


def test_the_budget_stops_a_round_before_it_releases() -> None:
    """What was spent before leaves no room for the next round: nothing is drawn, and what it would cost is said."""
    net, w = network()
    options = DpSgd.Options(noise=1.0, epsilon=2.0, batch_size=8, local_steps=4)
    own = Own(40, lambda i: pytest.fail("examples were taken"), (1, 0), {"rounds": 1})
    spent = Ledger().plus(1.0, 0.2, 40)
    with pytest.raises(FedqError, match=r"would raise epsilon to .* and 2 may be spent: nothing was released"):
        DpSgd(options).release(net, w, own, spent)


REFUSED = [
    ({"client.sampling": "shuffle"}, "Poisson sampling", "client.sampling"),
    ({"model.norm": "batch"}, "batch norm", "model.norm=none"),
    ({"client.noise": 1.0, "client.epsilon": 1e-3}, "noise 1 costs epsilon", "leave client.noise out"),
    ({"client.mode": "paper", "client.epsilon": 8.0}, "depends on the model how much", "give one of"),
    ({"strategy.user_noise": 1.0, "client.noise": 0.0, "client.delta": 0.4}, "not below 1/3 of 3 clients", "--delta"),
    ({"client.delta": 0.01}, "delta 0.01 is not below 1/", "--delta"),
    ({"client.batch_size": 1000}, "batches of 1000 of a client that holds", "--batch-size"),
    ({"data.per_client": 200}, "records are held by several clients", "leave data.per_client out"),
    ({"clients": 2000}, "records are held by several clients", "fewer --clients"),
    (
        {"clients": 10, "client.batch_size": 130, "evaluate.clients": True},
        "batches of 130 of a client that holds 1",  # each of 10 has 143, and keeps some of them
        "--batch-size",
    ),
    ({"strategy": "fedavg", "client.name": "dp_sgd"}, "keeps a privacy ledger", "--strategy dp_lora"),
    ({"client.name": "sgd", "client.noise": None, "client.lr": 0.1}, "needs the client `dp_sgd`", "leave client.name"),
    ({"strategy.aggregation": "svd"}, "the model has none", "minilm_lora"),
]


@pytest.mark.parametrize(("change", "says", "hint"), REFUSED)
def test_wrong_use_is_refused(change: dict[str, Any], says: str, hint: str) -> None:
    with pytest.raises(FedqError, match=says) as error:
        build(config(**change))
    assert error.value.code == "FQ105"
    assert hint in error.value.hint


def test_an_epsilon_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(FedqError, match="no noise gives epsilon 1e-07") as error:
        build(config(**{"client.noise": None, "client.epsilon": 1e-7}))
    assert error.value.code == "FQ105"


def test_the_training_loss_is_told_only_if_asked_for() -> None:
    """No message holds it else: it is that of secret batches, and no noise is on it."""
    for tells in (False, True):
        simulation = build(config(**{"client.tell_loss": tells}))
        check, said = simulation.strategy.check_reply, list[float]()

        def heard(reply: Any, check: Any = check, said: list[float] = said) -> None:
            said.append(reply.content["metrics"]["train-loss"])
            check(reply)

        simulation.strategy.check_reply = heard  # type: ignore[method-assign]
        (line,) = played(simulation, 1)
        assert [loss > 0 for loss in said] == [tells] * 3
        assert (line["train_loss"] is not None) == tells
        assert ("the training loss" in simulation.promise) == tells


def test_the_promise_to_whole_clients_is_said() -> None:
    hidden = {"strategy.user_noise": 1.0, "client.noise": 0.0}
    assert build(config()).promise.startswith("noise 1, epsilon as it comes at delta 1e-05 for each record")
    both = build(config(**hidden)).promise
    assert both.startswith("whole clients: noise 1 at delta 1e-05")
    assert "replaced by zeros" in both
    assert both.endswith("records: none: no noise (client.noise = 0)")
    assert build(config(**hidden, **{"strategy.user_seed": 1})).promise.startswith("whole clients: none")


def test_shuffled_batches_without_noise_are_plain_training() -> None:
    quiet = {"client.noise": 0.0, "client.sampling": "shuffle", "client.lr": 0.5, "rounds": 3}
    lines = played(build(config(**quiet)), 3)
    assert lines[-1]["epsilon"] is None
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_losses_are_those_of_the_logits() -> None:
    net, w = network()
    x, y = batch()
    loss, _ = PerSample(net).gradients(w, x, y)
    with torch.no_grad():
        torch.testing.assert_close(loss, functional.cross_entropy(net.logits(w, x), y, reduction="none"))
