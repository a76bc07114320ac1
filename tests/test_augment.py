"""Scales and augmentations: each against a loop over images, keyed by the round, in training only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad

from fedq.build import Simulation, build
from fedq.config import make_config
from fedq.data import Dataset, Examples, Inputs, load
from fedq.data.augment import AUGMENTATIONS, CropFlip, TernGradCifar, standardised
from fedq.errors import FedqError
from fedq.rng import rng

TRAINING = {"clients": 4, "client.local_steps": 3, "client.batch_size": 8, "data.partition": "iid"}


def images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(rng(0, "images").standard_normal(shape, np.float32))


def colour(side: int = 32) -> Dataset:
    """Random colour images, a few black and white pixels among them."""
    x = rng(0, "colour").integers(0, 256, (24, 3, side, side), np.uint8)
    y = np.arange(24) % 3
    return Dataset("colour", Examples(x[:16], y[:16]), Examples(x[16:], y[16:]), 3)


@given(
    st.integers(0, 4), st.booleans(), st.booleans(), st.integers(1, 5), st.integers(1, 3), st.integers(2, 9),
    st.integers(2, 9),
)  # fmt: skip
def test_crop_and_flip_equal_a_loop(margin: int, flip: bool, alike: bool, n: int, c: int, h: int, w: int) -> None:
    x = images(n, c, h, w)
    before = x.clone()
    got = CropFlip(margin, flip, alike).train(x, rng(0, "t"))
    assert torch.equal(x, before)
    random, drawn = rng(0, "t"), 1 if alike else n
    tops, lefts = random.integers(0, 2 * margin + 1, (2, drawn)) if margin else np.zeros((2, n), int)
    flips = random.random(drawn) < 0.5 if flip else np.zeros(n, bool)
    for i in range(n):
        own = 0 if alike else i
        window = pad(x[i], [margin] * 4)[:, tops[own] : tops[own] + h, lefts[own] : lefts[own] + w]
        assert torch.equal(got[i], window.flip(2) if flips[own] else window)


def offsets(name: str) -> set[tuple[int, ...]]:
    """Where a bright dot in the middle of 200 equal images lands."""
    x = torch.zeros(200, 1, 16, 16)
    x[:, :, 8, 8] = 1
    return {tuple(row) for row in AUGMENTATIONS[name].train(x, rng(0, "t")).nonzero()[:, 2:].tolist()}


def test_per_image_and_per_batch() -> None:
    """9 x 9 offsets; a flip is about the middle between columns 7 and 8."""
    assert offsets("none") == {(8, 8)}
    assert offsets("flip") == {(8, 8), (8, 7)}
    assert len(offsets("crop")) > 60
    assert len(offsets("crop_flip")) > 70
    assert len(offsets("crop_batch")) == len(offsets("crop_flip_batch")) == 1
    places = {r for name in ("crop", "crop_flip") for r, _ in offsets(name)}
    assert places == set(range(4, 13))


def test_terngrad_cifar_equals_a_loop() -> None:
    x = images(6, 3, 32, 32)
    got, random = TernGradCifar().train(x, rng(0, "t")), rng(0, "t")
    tops, lefts = random.integers(0, 9, (2, 6))
    flips, factors = random.random(6) < 0.5, random.uniform(0.2, 1.8, 6).astype(np.float32)
    for i in range(6):
        image = x[i, :, tops[i] : tops[i] + 24, lefts[i] : lefts[i] + 24].numpy()
        image = image[:, :, ::-1] if flips[i] else image
        mean = image.mean((1, 2), keepdims=True)
        image = (image - mean) * factors[i] + mean + 63 / 127.5  # any brightness: standardising takes it back
        torch.testing.assert_close(got[i].numpy(), (image - image.mean()) / image.std(), rtol=1e-4, atol=1e-4)


def test_terngrad_cifar_evaluates_the_centre() -> None:
    x = images(3, 3, 32, 32)
    got = TernGradCifar().test(x)
    assert torch.equal(got, standardised(x[:, :, 4:28, 4:28]))
    torch.testing.assert_close(got.mean((1, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(got.std((1, 2, 3), correction=0), torch.ones(3))
    assert torch.isfinite(TernGradCifar().test(torch.ones(2, 3, 32, 32))).all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_their_promises(name: str) -> None:
    """Same key same images, shapes as said, arguments untouched, and evaluation is not random."""
    inputs = Inputs(colour(), "unit", name)
    x, _ = inputs.tensors(inputs.data.train)
    before = x.clone()
    once = inputs.training(x, rng(0, "t"))
    assert once.shape == (16, *inputs.shape)
    assert torch.equal(once, inputs.training(x, rng(0, "t")))
    assert (name == "none") == torch.equal(once, inputs.training(x, rng(1, "t")))
    assert torch.equal(inputs.testing(x), inputs.testing(x))
    assert inputs.testing(x).shape == once.shape
    assert torch.equal(x, before)


def test_scales() -> None:
    """Black is -1 and white is 1 whatever the data; digits have 17 greys."""
    for data in (colour(), load("digits", "", holdout=0.2, seed=0)):
        x, _ = data.tensors(data.train, "unit")
        assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
        assert torch.equal(data.tensors(data.train)[0], data.tensors(data.train, "standard")[0])
    expected = torch.tensor(colour().test.x) / 127.5 - 1
    torch.testing.assert_close(colour().tensors(colour().test, "unit")[0], expected, rtol=0, atol=1e-6)


def simulation(**more: Any) -> Simulation:
    return build(make_config({**TRAINING, "strategy": "fedavg", "model.hidden": [16], **more}))


def trained(s: Simulation, round_: int = 1, partition: int = 2) -> np.ndarray:
    arrays = s.trainer.train(s.initial, round_, partition).arrays
    return np.concatenate([x.ravel() for x in arrays.values()])


def test_training_is_augmented_and_evaluation_is_not() -> None:
    plain, changed = simulation(), simulation(**{"data.augment": "crop_flip"})
    assert plain.score(plain.initial) == changed.score(changed.initial)
    assert (trained(plain) != trained(changed)).any()
    assert (trained(changed) == trained(changed)).all()
    assert (trained(simulation(**{"data.augment": "crop_flip", "seed": 1})) != trained(changed)).any()


def test_clients_evaluate_on_images_as_they_are() -> None:
    more = {"evaluate.clients": True}
    plain, changed = simulation(**more), simulation(**more, **{"data.augment": "crop_flip"})
    assert plain.trainer.evaluate(plain.initial, 1) == changed.trainer.evaluate(changed.initial, 1)


def test_augmentation_leaves_shuffling_alone() -> None:
    """The same examples meet in the same minibatch with and without: without room to move, the same bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AUGMENTATIONS, "crop", CropFlip())
        assert (trained(simulation()) == trained(simulation(**{"data.augment": "crop"}))).all()


def test_rounds_and_clients_have_changes_of_their_own() -> None:
    """Every client sees the same images in the same order here, so that only the changes differ."""
    s = simulation(**{"data.augment": "crop", "client.local_steps": 1})
    seen = []
    for round_, partition in ((1, 0), (1, 1), (2, 0)):
        shards = replace(s.trainer._shards, indices=[np.zeros(8, np.int64)] * 2)
        ((x, _),) = shards.batches([partition], s.config.client.options, round_)
        seen.append(x)
    assert not any(torch.equal(a, b) for a, b in ((seen[0], seen[1]), (seen[0], seen[2])))


@pytest.mark.parametrize("more", [{"data.augment": "crop_flip"}, {"model": "fedau_cnn_cifar100"}])
def test_workers_never_change_a_result(more: dict[str, Any]) -> None:
    """Random crops and dropout are the client's, not the thread's."""
    more = more if "model" in more else {**more, "model.hidden": [16]}
    config = make_config({**TRAINING, "strategy": "fedavg", "evaluate.every": 2, "rounds": 2, **more})
    losses = []
    for workers in (1, 3):
        s = build(config.with_(workers=workers, engine="local"))
        losses.append([(r.metrics()["train_loss"], r.metrics()["loss"]) for r in s.rounds(s.initial, 1, 2)])
    assert losses[0] == losses[1]


def failing(**values: Any) -> FedqError:
    with pytest.raises(FedqError) as error:
        build(make_config({**TRAINING, **values}))
    return error.value


def test_settings_are_part_of_the_hash() -> None:
    given: list[dict[str, Any]] = [{}, {"data.scale": "unit"}, {"data.augment": "flip"}]
    assert len({make_config(values).hash for values in given}) == 3


def test_wrong_settings() -> None:
    unknown = failing(**{"data.augment": "crop_flop"})
    assert (unknown.code, unknown.hint) == ("FQ101", "did you mean `crop_flip`?")
    assert unknown.where == "data.augment = 'crop_flop'"
    scale = failing(**{"data.scale": "half"})
    assert scale.code == "FQ103"
    assert "'standard' or 'unit'" in scale.message
    pair = failing(**{"data.augment": "terngrad_cifar"})
    assert (pair.code, pair.hint) == ("FQ105", "--set data.scale=unit")
    small = failing(**{"data.augment": "terngrad_cifar", "data.scale": "unit"})
    assert (small.code, small.where) == ("FQ105", "data.augment = 'terngrad_cifar'")
    assert "images of 8 x 8 have no crop of 24 x 24" in small.message


@pytest.mark.slow
def test_cifar10(data_dir: Path) -> None:
    """The hub's CIFAR-10, its published moments, and TernGrad's network on its crops."""
    folder = data_dir / "cifar10"
    if not folder.is_dir():
        pytest.skip("no cifar10/ among the image sets")
    data = load("cifar10", str(folder), holdout=0.2, seed=0)
    assert (data.shape, len(data.train), len(data.test), data.classes) == ((3, 32, 32), 50_000, 10_000, 10)
    mean, _ = data._moments
    assert [round(float(m) / 255, 4) for m in mean] == [0.4914, 0.4822, 0.4465]
    inputs = Inputs(data, "unit", "terngrad_cifar")
    x, _ = inputs.tensors(data.train.take(np.arange(64)))
    assert inputs.training(x, rng(0, "t")).shape == inputs.testing(x).shape == (64, 3, 24, 24)
