"""The rivals of `fedq bench kernels` do the kernels' jobs: where nothing is drawn, with the same result."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from fedq.bench import rivals
from fedq.bench.work import JOBS
from fedq.errors import FedqError
from fedq.kernels import _reference, _reference_votes
from fedq.rng import Key

D = 3200


def test_rivals_of_ternary_formats_agree_with_the_specification():
    x = np.random.default_rng(0).uniform(-1, 1, D).astype(np.float32)
    planes = _reference.encode_ternary(x, np.float32(1), Key(1, 2))
    packed, they = _reference.pack_base3(planes, D), rivals.Trits(D, x, planes)
    for side in (0, 1):  # NumPy, torch
        assert (np.asarray(they.decode[side]()).reshape(-1) == _reference.decode_ternary(planes, D)).all()
        assert (np.asarray(they.decode_i8[side]()) == _reference.decode_ternary_i8(planes, D)).all()
        assert (np.asarray(they.pack[side]()).reshape(-1) == packed).all()
        whole = they.pack_i8(_reference.decode_ternary_i8(planes, D))[side]()
        assert (np.asarray(whole).reshape(-1) == packed).all()
        assert (np.stack([np.asarray(some) for some in they.unpack(packed)[side]()]) == planes).all()
        found = np.unpackbits(np.stack([np.asarray(some) for some in they.encode[side]()]), axis=1, bitorder="little")
        assert abs(found.mean() - 0.25) < 0.05


def test_rivals_of_votes_agree_with_the_specification():
    r = np.random.default_rng(1)
    t = r.choice(np.int8([-1, 0, 1]), (9, D))
    pos, neg = (np.packbits(t == sign, axis=1, bitorder="little") for sign in (1, -1))
    weights = r.uniform(0, 1, 9).astype(np.float32)
    they = rivals.Votes(D, pos, weights)
    for side in (0, 1):
        assert (np.asarray(they.counts[side]()) == _reference_votes.vote_counts(pos, D)).all()
        np.testing.assert_allclose(they.weighted[side](), _reference_votes.vote_weighted(pos, weights, D), rtol=1e-5)
        found = np.stack([np.asarray(some) for some in they.plurality(pos, neg)[side]()])
        wide = t.astype(np.int32)
        plus, minus, zero = ((wide == sign).sum(0) for sign in (1, -1, 0))
        won = np.stack([(plus > minus) & (plus > zero), (minus > plus) & (minus > zero)])
        assert (np.unpackbits(found, axis=1, bitorder="little") == won).all()


def test_contenders_do_the_job_they_are_given(tmp_path):
    """A small job by each contender that needs no Ray: as many rounds as asked, in processes of their own."""
    from dataclasses import replace

    from fedq.bench import work
    from fedq.bench.contenders import CONTENDERS

    job = replace(work.JOBS["mlp"], rounds=3)
    job.save(tmp_path / "mlp.npz")
    for name in ("fedq", "fedq binary", "fedq fedvote", "loop"):
        ends = list(CONTENDERS[name](tmp_path / "mlp.npz", job.rounds))
        assert len(ends) == 3, name
        assert ends == sorted(ends), name


def test_pfl_trains_the_networks_that_fedq_trains():
    from benchmarks.peers import pfl_contender
    from fedq.bench.contenders import _network

    for name, weights in (("mlp", 2_410), ("lenet5", 61_706)):
        ours, theirs = _network(name), pfl_contender.network(name)
        parameters = [w.shape for w in theirs.parameters()]
        assert parameters == [w.shape for w in ours.parameters()]
        assert sum(shape.numel() for shape in parameters) == weights
        theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
        x = torch.rand(3, *JOBS[name].shape)
        assert (ours(x) == theirs(x)).all()


@pytest.mark.slow
def test_environment_of_a_peer_is_made_once(tmp_path):
    from benchmarks.simulation import environment

    python = environment(tmp_path / "peer", "pip")
    made = (tmp_path / "peer" / "pyvenv.cfg").stat().st_mtime_ns
    assert environment(tmp_path / "peer", "pip") == python
    assert (tmp_path / "peer" / "pyvenv.cfg").stat().st_mtime_ns == made
    found = subprocess.run([python, "-c", "import sys, numpy"], capture_output=True, text=True)
    assert "No module named 'numpy'" in found.stderr  # an environment of its own
    with pytest.raises(FedqError, match="cannot make the environment of peer"):
        environment(tmp_path / "peer", str(tmp_path / "absent"))


@pytest.mark.slow
def test_simulators_are_compared():
    chosen = [word for name in ("fedq", "two loops", "loop", "flower") for word in ("--contender", name)]
    command = [sys.executable, "-m", "fedq", "bench", "simulation", "--work", "mlp", "--repeats", "1", "--json"]
    done = subprocess.run([*command, *chosen], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = {row["contender"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {"fedq", "two loops", "loop", "flower"}
    assert all(row["updates_per_s"] > 0 and row["startup_s"] > 0 and row["peak_mb"] > 50 for row in rows.values())
    assert rows["loop"]["ratio_to_loop"] == 1


@pytest.mark.slow
def test_a_run_that_fails_is_quoted():
    from fedq.bench.scale import rows
    from fedq.errors import FedqError

    with pytest.raises(FedqError, match=r"error\[FQ102\]: unknown key `client.lrr`\n.*\n  hint: did you mean `lr`"):
        next(rows([10], [10], {"client.lrr": "2"}, 2))
