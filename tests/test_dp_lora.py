"""DP-LoRA: sizes of the model, aggregation of factors, texts as data, and runs of a tiny transformer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedq.build import Simulation, build
from fedq.config import make_config
from fedq.data import load
from fedq.errors import FedqError
from fedq.kernels import records
from fedq.models import model
from fedq.models.network import Blueprint, Network
from fedq.privacy.accountant import gaussian
from fedq.rng import rng
from fedq.simulation import simulate
from fedq.strategies.factors import fitted, layer, pairs, stacked


def config(folder: Path, **settings: Any) -> Any:
    small = {
        "strategy": "dp_lora", "model.name": "tiny_lora", "model.tokens": 8, "rounds": 2, "client.local_steps": 3,
        "client.batch_size": 10, "client.noise": 1.0, "data.dir": str(folder), "data.text_column": "body",
        "data.label_column": "topic", "data.partition": "by:site",
    }  # fmt: skip
    return make_config({k: v for k, v in {**small, **settings}.items() if v is not None})


# ------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize(("classes", "weights"), [(2, 74_498), (8, 76_808)])
def test_minilm_sizes(classes: int, weights: int) -> None:
    """12 pairs of 8 x 384 twice, and 384 weights and a bias for each class: 297,992 and 307,232 bytes in float32."""
    blueprint = Blueprint("minilm_lora", model("minilm_lora").Options(), (48,), classes, 0)
    drawn = blueprint.initial_weights()
    assert sum(x.size for x in drawn.values()) == weights == 12 * 2 * 8 * 384 + 385 * classes
    assert len(drawn) == 26
    sent = sum(len(p.data) for p in records.to_record(drawn).values())
    assert sent == {2: 297_992, 8: 307_232}[classes]
    frozen_A = sum(x.size for n, x in drawn.items() if ".lora_A." not in n)
    assert frozen_A == 12 * 8 * 384 + 385 * classes


def test_networks_share_the_encoder_and_train_apart() -> None:
    blueprint = Blueprint("tiny_lora", model("tiny_lora").Options(), (8,), 3, 0)
    drawn = blueprint.initial_weights()
    one, two = (Network(blueprint, drawn, list(drawn)) for _ in range(2))
    frozen = [(p, q) for p, q in zip(one.module.parameters(), two.module.parameters(), strict=True)]
    shared = [p.data_ptr() == q.data_ptr() for p, q in frozen]
    assert sum(shared) > 20
    assert [p.data_ptr() == q.data_ptr() for p, q in zip(one.trained, two.trained, strict=True)] == [False] * len(drawn)


def test_initial_adapters_change_nothing_and_leave_torch_alone() -> None:
    import torch

    before = torch.get_rng_state()
    blueprint = Blueprint("tiny_lora", model("tiny_lora").Options(), (8,), 3, 0)
    drawn = blueprint.initial_weights()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(not x.any() for n, x in drawn.items() if ".lora_B." in n)
    again = blueprint.initial_weights()
    assert all((drawn[n] == again[n]).all() for n in drawn)


KINDS = {
    "DistilBert": ({"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}, ("q_lin", "v_lin")),
    "Roberta": (
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
        ("query", "value"),
    ),
    "GPT2": ({"n_embd": 32, "n_layer": 2, "n_head": 2}, ("c_attn",)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_of_other_kinds_read_every_token(kind: str, tmp_path: Path) -> None:
    """Token 0 is a word, and padding is another: logits are those of the encoder by itself, for each text alone."""
    import tokenizers
    import torch
    import transformers

    made, targets = KINDS[kind]
    words = {"fever": 0, "[PAD]": 1, "cough": 2, "[UNK]": 3}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    name = "eos_token" if kind == "GPT2" else "pad_token"
    transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **{name: "[PAD]"}).save_pretrained(tmp_path)
    pad = {} if kind == "GPT2" else {"pad_token_id": 1}
    config = getattr(transformers, f"{kind}Config")(vocab_size=4, **pad, **made)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path)

    options = model("minilm_lora").Options(encoder=str(tmp_path), targets=targets, tokens=6)
    texts = ["fever cough fever", "cough", "fever"]
    ids = torch.from_numpy(model("minilm_lora").reader(options)(texts))
    assert (ids != 0).sum(1).tolist() == [3, 1, 1]
    blueprint = Blueprint("minilm_lora", options, (6,), 3, 0)
    drawn = blueprint.initial_weights()
    net = Network(blueprint, drawn, list(drawn))
    with torch.no_grad():
        found = net.logits(net.flatten(drawn), ids)
        for text, logits in zip(texts, found, strict=True):
            alone = torch.tensor([[words[word] for word in text.split()]])
            net.module.encoder.train()  # no dropout is left
            expected = net.module.encoder(input_ids=alone, attention_mask=torch.ones_like(alone)).logits[0]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-6)
    assert float((found[1] - found[2]).abs().max()) > 1e-4


def test_what_a_transformer_does_not_take() -> None:
    with pytest.raises(FedqError, match="a transformer reads texts"):
        build(make_config(strategy="dp_lora", model="tiny_lora"))
    options = model("minilm_lora").Options(encoder="no/such-encoder")
    with pytest.raises(FedqError, match="the encoder `no/such-encoder` cannot be loaded"):
        Blueprint("minilm_lora", options, (8,), 3, 0).initial_weights()
    options = model("tiny_lora").Options(targets=("nothing",))
    with pytest.raises(FedqError, match="no adapters on nothing"):
        Blueprint("tiny_lora", options, (8,), 3, 0).initial_weights()


# ------------------------------------------------------------------------------------------------- aggregation


def factors(clients: int = 5, out: int = 20, wide: int = 30, rank: int = 4) -> tuple[list[Any], list[float]]:
    random = rng(0, "factors")
    made = [
        (random.standard_normal((rank, wide), np.float32), random.standard_normal((out, rank), np.float32))
        for _ in range(clients)
    ]
    p = random.random(clients)
    return made, list(p / p.sum())


def product(made: list[Any], p: list[float]) -> Any:
    return sum(w * b.astype(np.float64) @ a for (a, b), w in zip(made, p, strict=True))


def test_stacked_factors_are_exact() -> None:
    made, p = factors()
    a, b = stacked(made, p)
    assert (a.shape, b.shape) == ((20, 30), (20, 20))
    np.testing.assert_allclose(b.astype(np.float64) @ a, product(made, p), atol=1e-6)


def test_fitted_factors_are_the_nearest_of_their_rank() -> None:
    """Eckart and Young: the error is that of the truncated singular value decomposition."""
    made, p = factors()
    a, b = fitted(made, p, 4)
    assert (a.shape, b.shape) == ((4, 30), (20, 4))
    s = np.linalg.svd(product(made, p), compute_uv=False)
    error = np.linalg.norm(product(made, p) - b.astype(np.float64) @ a)
    assert error == pytest.approx(np.sqrt((s[4:] ** 2).sum()), rel=1e-5)
    same = [made[0]] * 3
    a, b = fitted(same, [0.2, 0.3, 0.5], 4)
    np.testing.assert_allclose(b @ a, made[0][1] @ made[0][0], atol=1e-5)


def one_round(simulation: Simulation) -> tuple[dict[str, Any], list[dict[str, Any]], list[float]]:
    """The model after a round, what each client sent added to what it was sent, and their shares of the examples."""
    server, grid = simulation.strategy, simulation.grid
    from flwr.app import ConfigRecord

    asked = server.configure_train(1, records.to_record(simulation.initial), ConfigRecord(), grid)
    replies = list(grid.send_and_receive(asked))
    for reply in replies:
        server.check_reply(reply)
    sent = [records.to_arrays(r.content["arrays"]) for r in replies]  # type: ignore[arg-type]
    local = [{n: server.current[n] + x for n, x in update.items()} for update in sent]
    n = [float(r.content["metrics"]["num-examples"]) for r in replies]  # type: ignore[index, arg-type]
    after, _ = server.aggregate_train(1, iter(replies))
    assert after is not None
    return records.to_arrays(after), local, [x / sum(n) for x in n]


@pytest.mark.parametrize("aggregation", ["mean", "ffa", "svd", "stack"])
def test_what_the_server_makes_of_a_round(texts: Path, aggregation: str) -> None:
    """On B that moved before (two local steps): what the layers gain, against the mean of the clients' products."""
    simulation = build(config(texts, **{"strategy.aggregation": aggregation, "client.lr": 2.0}))
    after, local, p = one_round(simulation)
    start = simulation.drawn
    for a, b in pairs(start):
        made = [(x.get(a, start[a]), x[b]) for x in local]
        wanted = product(made, p)
        if aggregation == "stack":
            scaling = 16 / 8
            gained = (after[layer(a)].astype(np.float64) - start[layer(a)]) / scaling
            assert not after[b].any()
            assert (after[a] != start[a]).any()
        else:
            gained = after[b].astype(np.float64) @ after.get(a, start[a])
        error = np.abs(gained - wanted).max()
        if aggregation in ("stack", "ffa"):
            assert error < 1e-6
        if aggregation == "svd":
            s = np.linalg.svd(wanted, compute_uv=False)
            assert np.linalg.norm(gained - wanted) == pytest.approx(np.sqrt((s[8:] ** 2).sum()), rel=1e-3)
        if aggregation == "mean":
            mean_A, mean_B = (sum(w * m[i].astype(np.float64) for m, w in zip(made, p, strict=True)) for i in (0, 1))
            covariance = sum(w * (mb - mean_B) @ (ma - mean_A) for (ma, mb), w in zip(made, p, strict=True))
            np.testing.assert_allclose(wanted - gained, covariance, atol=1e-6)
            assert np.abs(covariance).max() > 1e-4
    assert any(n.endswith("lora_A.default.weight") for n in local[0]) == (aggregation != "ffa")


@pytest.mark.parametrize("aggregation", ["ffa", "svd", "stack"])
def test_every_aggregation_trains_and_evaluates(texts: Path, aggregation: str) -> None:
    """Stacked products stay in the layers: the second round's model is not the first's."""
    simulation = build(config(texts, **{"strategy.aggregation": aggregation, "client.noise": 0.0}))
    lines = list(simulation.rounds(simulation.initial, 1, 2))
    assert lines[1].loss != lines[0].loss
    assert lines[1].epsilon == float("inf")
    assert lines[1].metrics()["epsilon"] is None


# -------------------------------------------------------------------------------------------------- whole runs


def test_a_run_from_end_to_end(texts: Path, tmp_path: Path) -> None:
    """Three sites are three clients; learns without noise, and tells its epsilon with noise."""
    quiet = config(texts, rounds=12, **{"client.noise": 0.0, "client.lr": 2.0, "client.local_steps": 8})
    lines = simulate(quiet, out=tmp_path).records()
    assert lines[-1]["accuracy"] > 0.9
    run = simulate(config(texts, **{"client.noise": None, "client.epsilon": 4.0}), out=tmp_path)
    totals = run.totals()
    assert 0 < totals["epsilon"] <= 4
    assert (totals["delta"], totals["clients"], run.config["clients"]) == (1e-5, 3, 3)
    assert "4" in run.about["privacy"]


@pytest.mark.parametrize(("codec", "bits"), [("float16", 16), ("qsgd8", 8), ("qsgd4", 4), ("ternary", 2)])
def test_private_updates_behind_every_codec(texts: Path, codec: str, bits: int) -> None:
    """Packing comes after the noise: the same epsilon for as many bits a weight as the codec has, and a scale each."""
    plain, packed = (build(config(texts, rounds=1, codec=c)) for c in ("float32", codec))
    (a,), (b,) = (list(s.rounds(s.initial, 1, 1)) for s in (plain, packed))
    scales = 0 if codec == "float16" else 4 + 1  # bytes of a tensor's scale, and of its last bits
    least = bits / 32 * a.up_bytes
    assert least <= b.up_bytes <= least + 3 * scales * len(packed.initial)
    assert b.epsilon == a.epsilon


def test_frozen_factors_do_not_travel(texts: Path) -> None:
    """`ffa`: what comes up is B and the head of each client, in bytes counted of its replies."""
    whole, frozen = (build(config(texts, rounds=1, **{"strategy.aggregation": a})) for a in ("mean", "ffa"))
    (a,), (b,) = (list(s.rounds(s.initial, 1, 1)) for s in (whole, frozen))
    in_A = sum(x.size for n, x in whole.initial.items() if ".lora_A." in n)
    assert in_A == 2 * 2 * 8 * 32
    assert a.up_bytes - b.up_bytes == 3 * 4 * in_A


def test_whole_clients_can_be_hidden_too(texts: Path) -> None:
    """The server clips updates and adds noise of its own; its epsilon is that of the Gaussian mechanism, composed."""
    simulation = build(config(texts, **{"strategy.user_noise": 2.0, "strategy.user_clip": 0.5, "client.noise": 0.0}))
    lines = [r.metrics() for r in simulation.rounds(simulation.initial, 1, 2)]
    assert [m["strategy"]["user_epsilon"] for m in lines] == [gaussian(2.0, t, 1e-5) for t in (1, 2)]
    loud = build(config(texts, **{"strategy.user_noise": 2.0, "strategy.user_clip": 1e-3, "client.noise": 0.0}))
    (line,) = loud.rounds(loud.initial, 1, 1)
    moved = np.concatenate(
        [(records.decode(x) - loud.initial[n]).ravel() for n, x in line.arrays.items()]  # a clip that leaves noise only
    )
    assert moved.std() == pytest.approx(2.0 * 1e-3 / 3, rel=0.1)
    with pytest.raises(FedqError, match="hides them in their mean"):
        build(config(texts, **{"strategy.user_noise": 2.0, "strategy.aggregation": "svd"}))


# -------------------------------------------------------------------------------------------------------- data


def test_texts_and_groups(texts: Path) -> None:
    data = load("t", str(texts), holdout=0.25, seed=0, columns=("body", "topic"), by="site")
    assert (len(data.train), len(data.test), data.classes, data.shape) == (180, 60, 3, ())
    assert data.texts
    assert set(data.train.group) == {"site0", "site1", "site2"}  # type: ignore[arg-type]
    assert load("t", str(texts), holdout=0.25, seed=1, columns=("body", "topic")).checksum == data.checksum


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data.text_column": "bodi"}, "no column `bodi`"),
        ({"data.label_column": "nothing"}, "no column `nothing`"),
        ({"data.partition": "by:county"}, "no column `county`"),
        ({"clients": 7}, "makes 3"),
        ({"model.name": "mlp"}, "takes images"),
    ],
)
def test_texts_that_do_not_fit(texts: Path, change: dict[str, Any], says: str) -> None:
    settings = {k: v for k, v in change.items() if k != "model.name"}
    wrong = config(texts, **settings) if "model.name" not in change else None
    if wrong is None:
        flat = {"strategy": "fedavg", "model": "mlp", "data.dir": str(texts), "data.text_column": "body"}
        wrong = make_config({**flat, "data.label_column": "topic"})
    with pytest.raises(FedqError, match=says):
        build(wrong)


def test_columns_of_images(tmp_path: Path) -> None:
    with pytest.raises(FedqError, match="texts need both columns"):
        build(make_config({"data.text_column": "body"}))
    with pytest.raises(FedqError, match="`digits` has no column `site`"):
        build(make_config({"data.partition": "by:site"}))
