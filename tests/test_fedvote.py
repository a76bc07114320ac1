"""What pins FedVote down: the paper's formulas (F1 to F14 in docs/fedvote.md) and the sizes of its messages."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedq._flower import simulated_run
from fedq.build import Simulation, build
from fedq.clients.latent import Latent
from fedq.config import make_config
from fedq.errors import FedqError
from fedq.kernels import CODECS, records
from fedq.models.network import Blueprint
from fedq.rng import key, rng
from fedq.strategies.base import Fold

SLOPE, CLIP = 1.5, 1e-4


def voting(clients: int = 31, codec: str = "binary") -> Simulation:
    return build(make_config(clients=clients, codec=codec, model={"hidden": [16]}, data={"partition": "iid"}))


def voted(simulation: Simulation, weights_KD: np.ndarray) -> np.ndarray:
    """The next model when client k's normalised weights are row k."""
    server = simulation.strategy
    name, like = next(iter(simulation.initial.items()))
    list(server.configure_train(1, records.to_record({name: np.zeros_like(like)}), ConfigRecord(), simulation.grid))
    replies = []
    for k, row in enumerate(weights_KD):
        packed = records.encode({name: row.reshape(like.shape)}, server.codec, 0, "up", 1, k)
        metrics = MetricRecord({"num-examples": 10, "train-loss": 0.5})
        message = Message(RecordDict(), k + 1, "train")
        replies.append(Message(RecordDict({"arrays": packed, "metrics": metrics}), reply_to=message))
    arrays, _ = server.aggregate_train(1, iter(replies))
    assert arrays is not None
    return records.to_arrays(arrays)[name].ravel()


@pytest.mark.parametrize("codec", ["binary", "ternary"])
def test_rounding_is_unbiased(codec: str) -> None:
    """F4, F5: E[w] = tanh(a h), the alphabet, and P(0) = 1 - |w~|, over 1e5 draws of each of 9 weights."""
    n = 100_000
    h = np.linspace(-2, 2, 9).astype(np.float32)
    w = np.repeat(np.tanh(SLOPE * h), n)
    sent = CODECS[codec].decode(CODECS[codec].encode(w, key=key(0, "draws"))).reshape(9, n)
    assert set(np.unique(sent)) <= ({-1, 1} if codec == "binary" else {-1, 0, 1})
    np.testing.assert_allclose(sent.mean(1), np.tanh(SLOPE * h), atol=5 / np.sqrt(n))
    if codec == "ternary":
        np.testing.assert_allclose((sent == 0).mean(1), 1 - np.abs(np.tanh(SLOPE * h)), atol=5 / np.sqrt(n))


@pytest.mark.parametrize("codec", ["sign", "scaled_sign", "topk10", "terngrad"])
def test_biased_codecs_are_refused(codec: str) -> None:
    """F13 needs E[w] = w~; `float16` only rounds."""
    with pytest.raises(FedqError, match="unbiased weights") as error:
        voting(3, codec)
    assert error.value.code == "FQ105"
    assert "codec" in error.value.where
    assert voting(3, "float16").strategy.codec.name == "float16"


def test_latent_weights_follow_the_vote() -> None:
    """F9, F10: tanh(a h_next) == clip(m); a unanimous vote gives |h| = 3.3011."""
    simulation = voting()
    d = next(iter(simulation.initial.values())).size
    m = voted(simulation, np.ones((31, d), np.float32))
    assert np.allclose(m, 1 - CLIP, atol=1e-7)
    h = np.arctanh(m.astype(np.float64)) / SLOPE
    np.testing.assert_allclose(h, 3.3011, atol=2e-4)
    np.testing.assert_allclose(np.tanh(SLOPE * h), m, atol=1e-6)


def test_soft_vote_of_31_clients() -> None:
    """F8, F13: m in {-1 + 2j/31}, never 0, unbiased, mean squared error mean(1 - w~^2) / 31."""
    simulation = voting()
    d = next(iter(simulation.initial.values())).size
    w = np.tanh(rng(0, "w").standard_normal(d)).astype(np.float32)
    m = voted(simulation, np.tile(w, (31, 1)))
    steps = (np.clip(m, -1, 1) + 1) * 31 / 2
    inside = np.abs(m) < 1 - CLIP
    np.testing.assert_allclose(steps[inside], np.round(steps[inside]), atol=1e-4)
    assert (m != 0).all()
    expected = np.mean(1 - w.astype(np.float64) ** 2) / 31
    assert abs(np.mean((m - w) ** 2) / expected - 1) < 0.15
    assert abs(np.mean(m - w)) < 5 * np.sqrt(expected / d)


def test_one_shot_vote_errs_less_than_the_bound() -> None:
    """F14: with each vote wrong with probability e, P(plurality wrong) <= (2 e exp(1 - 2 e))^(M/2)."""
    for m_clients, error in ((31, 0.3), (15, 0.2)):
        correct = np.full(20_000, 1 - 2 * error, np.float32)
        votes = [CODECS["binary"].encode(correct, key=key(k, "vote")) for k in range(m_clients)]
        wrong = np.mean(CODECS["binary"].aggregate(votes, [1.0] * m_clients) <= 0)
        assert 0 < wrong <= (2 * error * np.exp(1 - 2 * error)) ** (m_clients / 2)


def test_initial_weights_are_clipped_normals() -> None:
    """|w~| <= 0.999, so |h| <= 2.5335; about 31.7 % saturated; the last layer is not among them."""
    simulation = build(make_config())
    w = np.concatenate([x.ravel() for x in simulation.initial.values()])
    assert np.abs(w).max() <= np.float32(0.999)
    assert np.abs(np.arctanh(w.astype(np.float64)) / SLOPE).max() <= 2.5335
    assert abs(np.mean(np.abs(w) >= 0.9989) - 0.317) < 0.02
    assert list(simulation.initial) == ["1.weight", "4.weight"]


def test_deployed_weights() -> None:
    """F12: sign with 0 to -1; ternary: 0 up to 1/2."""
    m = {"w": np.array([-0.9, -0.5, -0.1, 0, 0.1, 0.5, 0.50001, 0.9], np.float32)}
    binary, ternary = voting().strategy.deployed(m), voting(codec="ternary_base3").strategy.deployed(m)
    assert binary is not None
    assert ternary is not None
    assert binary["w"].tolist() == [-1, -1, -1, -1, 1, 1, 1, 1]
    assert ternary["w"].tolist() == [-1, 0, 0, 0, 0, 0, 1, 1]


def test_client_trains_the_latent_weights() -> None:
    """F1, F3: the gradient reaches h through tanh; equal to autograd through tanh(a h) and torch's Adam."""
    torch.manual_seed(0)
    w0, x, y = torch.empty(1, 6).uniform_(-0.9, 0.9), torch.randn(5, 1, 4, 6), torch.randn(5, 1, 4)

    class Squares:
        def gradient(self, w, x, y):  # type: ignore[no-untyped-def]
            w = w.detach().requires_grad_()
            loss = ((x @ w[0] - y) ** 2).mean(1)
            return loss.detach(), torch.autograd.grad(loss.sum(), w)[0]

    ours, _ = Latent(Latent.Options(local_steps=5)).train(Squares(), w0, zip(x, y, strict=True))
    h = (torch.atanh(w0) / SLOPE).requires_grad_()
    adam = torch.optim.Adam([h], lr=0.05)
    for x_B, y_B in zip(x, y, strict=True):
        adam.zero_grad()
        ((x_B[0] @ torch.tanh(SLOPE * h)[0] - y_B[0]) ** 2).mean().backward()
        adam.step()
    torch.testing.assert_close(ours, torch.tanh(SLOPE * h).detach(), rtol=1e-5, atol=1e-6)


def test_last_layer_stays_as_drawn_and_is_never_sent() -> None:
    simulation = build(make_config({"clients": 3, "client.local_steps": 3}))
    drawn = {n: x.copy() for n, x in simulation.drawn.items()}
    (record,) = simulation.rounds(simulation.initial, 1, 1)
    assert set(record.arrays) == {"1.weight", "4.weight"}
    assert all((simulation.drawn[n] == x).all() for n, x in drawn.items())
    again = build(make_config({"clients": 3})).drawn
    assert (again["7.weight"] == drawn["7.weight"]).all()
    assert not drawn["7.bias"].any()


def test_sizes_of_the_papers_lenet() -> None:
    """1,657,632 voted weights: 100 + 6,400 + 200,704 bytes a client; ternary at 2 and 1.6 bits."""
    from fedq.models.fedvote import FedVoteLeNet5

    blueprint = Blueprint("fedvote_lenet5", FedVoteLeNet5.Options(), (1, 28, 28), 10, 0)
    weights = blueprint.initial_weights()
    sizes = [weights[n].size for n in blueprint.hidden()]
    assert sizes == [800, 51_200, 1_605_632]
    assert sum(x.size for x in weights.values()) - sum(sizes) == 5_130

    def sent(codec: str) -> list[int]:
        record: ArrayRecord = records.encode(
            {n: np.zeros_like(weights[n]) for n in blueprint.hidden()}, CODECS[codec], 0, "up"
        )
        return [len(a.data) for a in record.values()]

    assert sent("binary") == [100, 6_400, 200_704]
    assert sum(sent("binary")) == 207_204
    assert sum(sent("ternary")) == 2 * 207_204
    assert sum(sent("ternary_base3")) == 160 + 10_240 + 321_127


def test_fold_streams() -> None:
    """The server's memory: one float32 array, however many replies."""
    import tracemalloc

    simulated_run()  # so that messages can be built
    like = {"w": np.zeros(200_000, np.float32)}
    payload = CODECS["binary"].encode(like["w"], key=key(0, "x"))
    fold = Fold(CODECS["binary"], like, lambda _: {name: CODECS["binary"].open(payload) for name in like})
    metrics = MetricRecord({"num-examples": 10, "train-loss": 0.5})
    reply = Message(RecordDict({"metrics": metrics}), reply_to=Message(RecordDict(), 1, "train"))
    tracemalloc.start()
    for _ in range(50):
        fold.add(reply, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * like["w"].nbytes
