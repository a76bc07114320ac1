"""Every attack does what it claims, on the wire; specs are checked; attacked runs resume, for any number of workers."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedq.attacks import ATTACKS, Attackers, attackers
from fedq.attacks.base import OmniscientAttack, OwnAttack, Wire
from fedq.attacks.moments import Ipm, deviations
from fedq.attacks.placed import AttackedGrid, mods
from fedq.build import Simulation, build
from fedq.config import make_config
from fedq.errors import FedqError
from fedq.kernels import CODECS, records
from fedq.kernels.plurality import agreement, likeliest, plurality, rows_of, unpacked
from fedq.rng import key, rng
from fedq.strategies.base import arrays_of
from fedq.testing import check_strategy

CLIENTS = 9
Arrays = dict[str, np.ndarray]


def playing(attack: str | None, **more: object) -> Simulation:
    small = {"clients": CLIENTS, "client.local_steps": 3, "client.batch_size": 8, "model.hidden": [24], "workers": 1}
    given = {**small, "data.partition": "iid", **more}
    return build(make_config({**given, "attack": attack} if attack else given))


def exchanged(simulation: Simulation) -> tuple[Arrays, dict[int, Arrays]]:
    """The model of round 1, and what each partition sends, decoded; every reply passes `check_reply`."""
    server, grid = simulation.strategy, simulation.grid
    start = simulation.initial
    messages = list(server.configure_train(1, records.to_record(start), ConfigRecord(), grid))
    replies = list(grid.send_and_receive(messages))
    assert [r.metadata.src_node_id for r in replies] == [m.metadata.dst_node_id for m in messages]
    for reply in replies:
        server.check_reply(reply)

    def decoded(reply: Message) -> Arrays:
        return {n: server.codec.decode(a) for n, a in arrays_of(reply).items()}

    assert grid.ledger.totals("train")[0] == sum(len(a.data) for r in replies for a in arrays_of(r).values())
    return dict(start), {server.partition_of(r): decoded(r) for r in replies}


def told(attack: str, **more: object) -> tuple[Arrays, list[Arrays], list[Arrays], list[Arrays]]:
    """The model, what attackers send, what honest clients send, and what the attackers would have sent."""
    simulation = playing(attack, **more)
    bad = attackers(attack, CLIENTS, 0).partitions
    start, sent = exchanged(simulation)
    _, clean = exchanged(playing(None, **more))
    honest = [sent[k] for k in sent if k not in bad]
    for k in sent.keys() - bad:
        assert all(np.array_equal(sent[k][n], clean[k][n]) for n in start), "an honest client sends something else"
    return start, [sent[k] for k in sorted(bad)], honest, [clean[k] for k in sorted(bad)]


def flat(arrays: Arrays) -> np.ndarray:
    return np.concatenate([x.ravel() for x in arrays.values()])


FEDAVG = {"strategy": "fedavg", "codec": "float32"}


@pytest.mark.parametrize("codec", ["binary", "ternary_base3"])
def test_inverse_is_minus_the_honest_plurality(codec: str) -> None:
    _, bad, honest, _ = told("inverse:4", codec=codec)
    votes = np.stack([flat(h) for h in honest])
    counts = np.stack([(votes == s).sum(0) for s in ((-1, 1) if codec == "binary" else (-1, 0, 1))])
    symbols = np.array([-1, 1] if codec == "binary" else [-1, 0, 1])
    for sent in bad:
        assert np.array_equal(flat(sent), -symbols[counts.argmax(0)])


def test_inverse_of_signs() -> None:
    _, bad, honest, _ = told("inverse:4", strategy="signsgd")
    total = np.stack([flat(h) for h in honest]).sum(0)
    assert np.array_equal(flat(bad[0]), np.where(total > 0, -1, 1))


def test_mimic_turns_the_least_settled_weights() -> None:
    start, bad, honest, _ = told("mimic:4")
    m, total = flat(start), np.stack([flat(h) for h in honest]).sum(0)
    loose = np.abs(m) < np.quantile(np.abs(m), 0.3)
    assert abs(loose.mean() - 0.3) < 0.01
    expected = np.where(loose, np.where(total > 0, -1, 1), np.where(m > 0, 1, -1))
    assert all(np.array_equal(flat(sent), expected) for sent in bad)


def test_camouflage_agrees_with_the_model_as_much_as_the_median_client() -> None:
    start, bad, honest, _ = told("camouflage:4")
    model = np.where(flat(start) > 0, 1, -1)
    agree = [np.mean(flat(h) == model) for h in honest]
    assert abs(np.mean(flat(bad[0]) == model) - np.median(agree)) < 0.002


def test_crowd_is_as_near_as_honest_clients() -> None:
    """Agreement of two attackers and of attackers with the model: at the honest medians, moved by the margin."""
    start, bad, honest, _ = told("crowd:4", **{"model.hidden": [128]})
    model, crowd = np.where(flat(start) > 0, 1, -1), [flat(sent) for sent in bad]
    near = [max(np.mean(flat(h) == flat(g)) for g in honest if g is not h) for h in honest]
    assert abs(np.mean(crowd[0] == crowd[1]) - np.median(near) - 0.02) < 0.02
    assert np.mean(crowd[0] == model) < np.median([np.mean(flat(h) == model) for h in honest])


def test_stall_sends_the_model() -> None:
    start, bad, _, _ = told("stall:4")
    assert all(np.array_equal(flat(sent), np.where(flat(start) > 0, 1, -1)) for sent in bad)
    start, bad, _, _ = told("stall:4", codec="ternary")
    m = flat(start)
    assert all(np.array_equal(flat(sent), np.sign(m) * (np.abs(m) > 0.5)) for sent in bad)


def test_sign_flip_is_minus_the_own_update() -> None:
    _, bad, _, own = told("sign_flip:4", **FEDAVG)
    assert all(np.array_equal(flat(sent), -flat(would)) for sent, would in zip(bad, own, strict=True))
    start, bad, _, own = told("sign_flip:4", **FEDAVG, **{"strategy.sends": "weights"})
    w = flat(start)
    for sent, would in zip(bad, own, strict=True):
        np.testing.assert_allclose(flat(sent) - w, w - flat(would), atol=1e-6)


def test_random_is_fair_coins() -> None:
    _, bad, _, _ = told("random:4")
    for sent in bad:
        n = flat(sent).size
        assert abs(flat(sent).mean()) < 5 / np.sqrt(n)
    assert abs(np.mean(flat(bad[0]) * flat(bad[1]))) < 5 / np.sqrt(n)
    _, bad, _, own = told("random:4", **FEDAVG)
    for sent, would in zip(bad, own, strict=True):
        for name, u in would.items():
            np.testing.assert_allclose(np.abs(sent[name]), np.abs(u).mean(), rtol=1e-5)


def test_gaussian_moments() -> None:
    _, bad, _, own = told("gaussian:4", **FEDAVG)
    for sent, would in zip(bad, own, strict=True):
        for name, u in would.items():
            s, n = 10 * np.sqrt(np.mean(u * u)), u.size
            assert abs(sent[name].mean()) < 5 * s / np.sqrt(n)
            if n > 500:
                assert abs(sent[name].std() / s - 1) < 5 / np.sqrt(2 * n)


def test_label_flip_trains_on_mirrored_labels() -> None:
    bad = attackers("label_flip:4", CLIENTS, 0).partitions
    spoiled, clean = playing("label_flip:4").trainer._shards, playing(None).trainer._shards
    for k in range(CLIENTS):
        dirty, true = (shards.taken(k, shards.training(k)) for shards in (spoiled, clean))
        assert np.array_equal(dirty.y, 9 - true.y if k in bad else true.y)
        assert np.array_equal(dirty.x, true.x)
    _, sent, _, own = told("label_flip:4")
    assert all(not np.array_equal(flat(a), flat(b)) for a, b in zip(sent, own, strict=True))


def test_ipm_is_minus_half_the_honest_mean() -> None:
    _, bad, honest, _ = told("ipm:4", **FEDAVG)
    mean = np.mean([flat(h) for h in honest], axis=0)
    assert all(np.allclose(flat(sent), -0.5 * mean, rtol=1e-4, atol=1e-8) for sent in bad)


def test_alie_is_the_mean_less_z_deviations() -> None:
    _, bad, honest, _ = told("alie:4", **FEDAVG)
    values = np.stack([flat(h) for h in honest]).astype(np.float64)
    expected = values.mean(0) - deviations(CLIENTS, 4) * values.std(0)
    assert all(np.allclose(flat(sent), expected, rtol=1e-3, atol=1e-6) for sent in bad)
    assert deviations(CLIENTS, 4) > 0


def test_weights_are_attacked_as_updates() -> None:
    start, bad, honest, _ = told("ipm:4", **FEDAVG, **{"strategy.sends": "weights"})
    mean = np.mean([flat(h) for h in honest], axis=0) - flat(start)
    np.testing.assert_allclose(flat(bad[0]), flat(start) - 0.5 * mean, atol=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacked_runs_keep_the_contract(name: str) -> None:
    """Deterministic, independent of workers, resumable: under every attack."""
    check_strategy("fedvote", attack=f"{name}:3")


@pytest.mark.parametrize("name", ["alie", "sign_flip"])
def test_other_strategies_are_attacked(name: str) -> None:
    check_strategy("fedavg", attack=f"{name}:0.3", codec="qsgd4", per_round=6)


@pytest.mark.parametrize("name", ["alie", "sign_flip", "random"])
def test_shared_scales_are_attacked(name: str) -> None:
    """TernGrad's second exchange: the clients' scales instead of a model."""
    check_strategy("terngrad", attack=f"{name}:3")


def test_scales_are_not_taken_for_the_model() -> None:
    """The model that attackers were sent is the record of that name, wherever it stands among others; or nothing."""
    side, arrays = (records.to_record({"w": np.full(2, x, np.float32)}) for x in (7, 1))
    seen: list[Any] = []

    class Spy(OwnAttack):
        def forge(self, own: Any, start: Any, wire: Wire, random: object) -> Any:
            seen.append({n: x.tolist() for n, x in start.items()})
            return own

    (mod,) = mods(Attackers("spy", Spy(), frozenset({3})), Wire(CODECS["float32"], "gradient", 0))
    context = SimpleNamespace(node_config={"partition-id": 3})
    for content in ({"side": side, "arrays": arrays}, {"side": side}):
        message = Message(RecordDict({**content, "config": ConfigRecord({"server-round": 1})}), 1, "train")
        mod(message, context, lambda m, _: Message(RecordDict({"arrays": arrays}), reply_to=m))  # type: ignore[arg-type]
    assert seen == [{"w": [1, 1]}, {}]


class Failed:
    """A message, and the error that is the reply to it; comparing it is too slow for a round of many clients."""

    def __init__(self, node: int) -> None:
        self.metadata = SimpleNamespace(dst_node_id=node, src_node_id=node, message_type="train")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("messages are compared")

    __hash__ = None  # type: ignore[assignment]

    def has_content(self) -> bool:
        return False


def test_attackers_are_told_apart_by_node_and_sent_everything() -> None:
    sent: list[list[int]] = []

    def echo(messages: Any, timeout: float | None = None) -> Any:
        sent.append([m.metadata.dst_node_id for m in messages])
        return messages

    inner = SimpleNamespace(get_node_ids=lambda: list(range(100, 200)), send_and_receive=echo)
    grid = AttackedGrid(inner, Ipm(), frozenset({0, 2}), Wire(CODECS["float32"], "updates", 0))  # type: ignore[arg-type]
    replies = grid.send_and_receive([Failed(node) for node in (102, 101, 100, 105)])  # type: ignore[misc]
    assert [r.metadata.src_node_id for r in replies] == [102, 101, 100, 105]
    assert sent == [[102, 101, 100, 105]]


def test_who_attacks() -> None:
    assert len(attackers("inverse:10", 31, 0).partitions) == 10
    assert len(attackers("inverse:0.3", 31, 0).partitions) == 9
    assert attackers("inverse:10", 31, 0) != attackers("inverse:10", 31, 1)
    assert attackers("inverse:10", 31, 3).partitions == attackers("random:10", 31, 3).partitions


WRONG = {
    "invrese:3": ("FQ101", "did you mean `inverse`?"),
    "inverse": ("FQ106", "inverse:0.3"),
    "inverse:1.5": ("FQ106", "inverse:0.3"),
    "inverse:-1": ("FQ106", "inverse:0.3"),
    "inverse:nan": ("FQ106", "inverse:0.3"),
    "inverse:9": ("FQ105", "from 1 to 8"),
    "inverse:0.01": ("FQ105", "from 1 to 8"),
}


@pytest.mark.parametrize("spec", WRONG)
def test_wrong_specs(spec: str) -> None:
    with pytest.raises(FedqError) as error:
        playing(spec)
    assert (error.value.code, WRONG[spec][1] in error.value.hint) == (WRONG[spec][0], True), str(error.value)


@pytest.mark.parametrize(("attack", "more"), [("inverse:3", FEDAVG), ("mimic:3", {"strategy": "signsgd"})])
def test_attacks_that_do_not_fit(attack: str, more: dict[str, Any]) -> None:
    with pytest.raises(FedqError, match=r"attacks .*votes") as error:
        playing(attack, **more)
    assert (error.value.code, "fedvote" in error.value.hint) == ("FQ105", True)


@pytest.mark.parametrize("name", ATTACKS)
def test_omniscient_attacks_exist_in_simulation_only(name: str) -> None:
    who, wire = attackers(f"{name}:3", CLIENTS, 0), Wire(CODECS["binary"], "weights", 0)
    if isinstance(who.attack, OmniscientAttack):
        with pytest.raises(FedqError, match="in simulation only"):
            mods(who, wire, simulated=False)
    else:
        assert len(mods(who, wire, simulated=False)) == isinstance(who.attack, OwnAttack)


# ------------------------------------------------------------------------------------------------- hard votes


@pytest.mark.parametrize("codec", ["binary", "sign", "ternary", "ternary_base3", "ternary_entropy"])
@pytest.mark.parametrize(("d", "clients"), [(1, 1), (7, 2), (320, 5), (1001, 31)])
def test_packed_votes_equal_decoded_ones(codec: str, d: int, clients: int) -> None:
    c = CODECS[codec]
    x = rng(0, "votes", d).uniform(-1, 1, (clients, d)).astype(np.float32)
    payloads = [c.encode(row, key=key(0, "vote", k)) for k, row in enumerate(x)]
    rows, values = [rows_of(c, p) for p in payloads], np.stack([c.decode(p) for p in payloads])
    symbols = np.array([-1, 1] if len(rows[0]) == 1 else [-1, 0, 1])
    expected = symbols[np.stack([(values == s).sum(0) for s in symbols]).argmax(0)]
    voted = plurality(rows, d)
    assert np.array_equal(unpacked(voted, d), expected)
    for row, value in zip(rows, values, strict=True):
        assert np.array_equal(unpacked(row, d), value)
        assert agreement(row, voted, d) == (value == expected).sum()
    likely = unpacked(likeliest(x[0], len(rows[0])), d)
    assert np.array_equal(likely, np.where(x[0] > 0, 1, -1) if len(symbols) == 2 else np.sign(x[0]) * (abs(x[0]) > 0.5))


def test_the_command(fedq: Callable[..., tuple[int, str, str]]) -> None:
    small = ("--rounds", "2", "--local-steps", "2", "--set", "model.hidden=[16]")
    words = ("--attack", "inverse:10", "--clients", "31", "--set", "strategy.weighting=filtered")
    status, out, err = fedq("simulate", *words, *small, "--json")
    assert status == 0
    assert "inverse:10 of 31 clients" in err
    run = json.loads(out)["run_dir"]
    with open(f"{run}/metrics.jsonl") as file:
        shown = json.loads(file.readlines()[-1])["strategy"]
    bad = attackers("inverse:10", 31, 0).partitions
    assert len(shown["credibility"]) == len(shown["weight"]) == 31
    assert all(shown["weight"][str(k)] == 0 for k in bad)
    status, _, err = fedq("simulate", "--attack", "invers:10")
    assert (status, "FQ101" in err, "--attack invers:10" in err, "`inverse`" in err) == (2, True, True, True)
    assert fedq("show", "attacks")[1].count("\n") == len(ATTACKS) + 1


def test_attackers_hold_what_they_were_sent() -> None:
    """TernGrad's workers step their own weights: an attacker that is alone in a round has them too."""
    settings = {"strategy": "terngrad", "strategy.share": False, "clients": 4, "attack": "ipm:3", "rounds": 25,
                "participation": {"name": "bernoulli", "correlated": False, "mean": 0.5}, "model.hidden": [8],
                "client.batch_size": 8, "evaluate.every": 25}  # fmt: skip
    for seed in range(3):
        simulation = build(make_config(settings, seed=seed))
        lines = [r.metrics() for r in simulation.rounds(simulation.initial, 1, 25)]
        assert not any(line["failed"] for line in lines)
