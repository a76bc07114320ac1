"""Run directories: resume is exact, nothing is lost, nothing is written twice."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedq.config import RunConfig, make_config
from fedq.errors import FedqError
from fedq.runs import Run, fingerprint, open_run
from fedq.simulation import begin, play, reopen, resume, simulate

SMALL = {"clients": 4, "rounds": 6, "client.local_steps": 2, "client.batch_size": 8, "model.hidden": [16]}


def config(**more: object) -> RunConfig:
    return make_config({**SMALL, **more})


def untimed(run: Run) -> list[dict[str, object]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.records()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(config(), out=tmp_path_factory.mktemp("straight"))


def test_a_finished_run_has_everything(straight: Run) -> None:
    files = {p.name for p in straight.path.iterdir()}
    assert files == {"run.toml", "run.json", "metrics.jsonl", "checkpoints", "model.safetensors", "log.txt", "lock"}
    about, totals = straight.about, straight.totals()
    assert about["status"] == "done"
    assert about["versions"]["flwr"].startswith("1.41")
    assert totals["rounds"] == 6
    assert totals["up_bytes"] == sum(m["up_bytes"] for m in straight.records()) == 6 * 4 * (64 * 16 // 8)
    assert totals["down_bytes"] == 6 * 4 * 4 * 64 * 16
    assert straight.path.name == f"fedvote-digits-s0-{config().hash[:6]}"
    assert list(straight.metrics["round"]) == [1, 2, 3, 4, 5, 6]


def test_metrics_have_the_promised_keys(straight: Run) -> None:
    promised = """round accuracy deployed_accuracy loss train_loss up_bytes down_bytes wire_up_bytes wire_down_bytes
        clients failed rejected epsilon seconds"""
    for line in straight.records():
        assert set(promised.split()) <= set(line)


def test_model_file_is_the_whole_network(straight: Run) -> None:
    from safetensors.numpy import load_file

    weights = load_file(straight.path / "model.safetensors")
    assert {n: w.shape for n, w in weights.items()} == {"1.weight": (16, 64), "4.weight": (10, 16), "4.bias": (10,)}
    assert fingerprint(weights) == straight.about["weights_sha256"]


def test_same_config_same_bits(straight: Run, tmp_path: Path) -> None:
    again = simulate(config(), out=tmp_path)
    assert untimed(again) == untimed(straight)
    assert again.about["weights_sha256"] == straight.about["weights_sha256"]
    twice = simulate(config(), out=tmp_path)
    assert twice.path.name == again.path.name + "-2"


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_resume_is_exact(straight: Run, tmp_path: Path, stop: int) -> None:
    run, simulation = begin(config(), tmp_path)
    playing = play(run, simulation)
    for _ in range(stop):
        next(playing)
    playing.close()
    run.release()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "accu')  # torn by a crash
    resumed = resume(run.path)
    assert untimed(resumed) == untimed(straight)
    assert resumed.about["weights_sha256"] == straight.about["weights_sha256"]
    assert resumed.about["status"] == "done"


@pytest.mark.parametrize("name", ["fedadam", "fedavgm", "signsgd"])
def test_resume_keeps_the_servers_state(name: str, tmp_path: Path) -> None:
    settings = config(strategy=name, rounds=4)
    straight = simulate(settings, out=tmp_path / "a")
    run, simulation = begin(settings, tmp_path / "b")
    playing = play(run, simulation)
    next(playing), next(playing)
    playing.close()
    assert resume(run.path).about["weights_sha256"] == straight.about["weights_sha256"]


def test_a_line_after_the_last_checkpoint_is_played_again(straight: Run, tmp_path: Path) -> None:
    """Killed between the line and the checkpoint."""
    run, simulation = begin(config(), tmp_path)
    playing = play(run, simulation)
    next(playing), next(playing)
    playing.close()
    sorted((run.path / "checkpoints").glob("*.npz"))[-1].unlink()
    assert untimed(resume(run.path)) == untimed(straight)


def test_more_rounds(straight: Run, tmp_path: Path) -> None:
    short = simulate(config(rounds=3), out=tmp_path)
    longer = resume(short.path, rounds=6)
    assert untimed(longer) == untimed(straight)
    with pytest.raises(FedqError) as error:
        reopen(short.path)
    assert error.value.code == "FQ205"


def test_until_stops_early(tmp_path: Path) -> None:
    run = simulate(config(), out=tmp_path, until="up=1KB")
    assert [m["round"] for m in run.records()] == [1, 2]
    assert run.about["status"] == "done"


def test_a_run_in_use_is_refused(tmp_path: Path) -> None:
    run, _ = begin(config(), tmp_path)
    for use in (lambda: reopen(run.path), lambda: begin(config(), tmp_path)):
        with pytest.raises(FedqError) as error:
            use()
        assert (error.value.code, error.value.exit_code) == ("FQ204", 4)
        assert "process" in error.value.message
    run.release()


def test_changed_data_are_refused(tmp_path: Path) -> None:
    run, simulation = begin(config(), tmp_path)
    play(run, simulation).close()
    run.update(data_sha256="0" * 64, status="interrupted")
    run.release()
    with pytest.raises(FedqError, match="data have changed"):
        reopen(run.path)


def test_state_of_any_shape_survives(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "x", "", {})
    state = {"a": np.arange(3), "b": {"c": [np.float64(1).reshape(()), None, 2.5, "word", True]}, "d": {}}
    for round_ in range(1, 8):
        run.append({"round": round_, "accuracy": None, "up_bytes": 0, "down_bytes": 0, "seconds": 0.1})
    run.checkpoint(7, {"w": np.ones((2, 2), np.float32)}, state)
    round_, model, back = run.latest()
    assert round_ == 7
    assert (model["w"] == 1).all()
    assert (back["a"] == [0, 1, 2]).all()
    assert back["b"]["c"][1:] == [None, 2.5, "word", True]
    assert back["d"] == {}
    run.release()


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(FedqError) as error:
        open_run(tmp_path / "nothing")
    assert (error.value.code, error.value.exit_code) == ("FQ203", 4)


def test_run_json_is_valid_while_running(tmp_path: Path) -> None:
    run, simulation = begin(config(rounds=2), tmp_path)
    for _ in play(run, simulation):
        assert json.loads((run.path / "run.json").read_text())["status"] == "running"


def interrupted(tmp_path: Path, rounds: int) -> Run:
    run, simulation = begin(config(), tmp_path)
    playing = play(run, simulation)
    for _ in range(rounds):
        next(playing)
    playing.close()
    return run


def test_a_damaged_checkpoint_falls_back_to_the_one_before(straight: Run, tmp_path: Path) -> None:
    run = interrupted(tmp_path, 3)
    newest = sorted((run.path / "checkpoints").glob("*.npz"))[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    assert resume(run.path).about["weights_sha256"] == straight.about["weights_sha256"]


def test_lost_lines_are_played_again(straight: Run, tmp_path: Path) -> None:
    run = interrupted(tmp_path, 3)
    lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text("".join(lines[:2]))
    assert untimed(resume(run.path)) == untimed(straight)


@pytest.mark.parametrize("file", ["metrics.jsonl", "run.json"])
def test_damaged_files_are_said(tmp_path: Path, file: str) -> None:
    run = interrupted(tmp_path, 2)
    (run.path / file).write_text("{not json\n")
    with pytest.raises(FedqError, match=f"{file} is damaged") as error:
        reopen(run.path)
    assert error.value.exit_code == 4


@pytest.mark.parametrize("how", ["empty", "gone", "folder gone"])
def test_no_checkpoint_can_be_used(how: str, tmp_path: Path) -> None:
    """Said, and nothing else is lost: a run without checkpoints does not begin again, nor do its clients' ledgers."""
    run = interrupted(tmp_path, 2)
    for file in (run.path / "checkpoints").glob("*.npz"):
        file.write_bytes(b"") if how == "empty" else file.unlink()
    if how == "folder gone":
        (run.path / "checkpoints").rmdir()
    lines = run.records()
    with pytest.raises(FedqError, match="no checkpoint can be used") as error:
        resume(run.path)
    assert error.value.code == "FQ205"
    assert run.records() == lines != []


def test_an_edited_config_is_refused(tmp_path: Path) -> None:
    """Rounds of two configs would be one run."""
    run = interrupted(tmp_path, 2)
    file = run.path / "run.toml"
    before = file.read_text()
    file.write_text(before.replace("seed = 0", "seed = 1"))
    with pytest.raises(FedqError, match=r"run.toml was changed since the run began"):
        resume(run.path)
    file.write_text(before)
    assert resume(run.path).status == "done"


def test_other_versions_are_said_and_noted(tmp_path: Path) -> None:
    run = interrupted(tmp_path, 2)
    file = run.path / "run.json"
    about = json.loads(file.read_text())
    before = about["versions"]
    file.write_text(json.dumps(about | {"versions": before | {"flwr": "9.9"}}))
    again, simulation = reopen(run.path)
    again.release()
    assert f"flwr 9.9, now {before['flwr']}" in simulation.warnings[-1]
    assert again.about["versions"] == before


@pytest.mark.parametrize(
    ("file", "text"),
    [("run.toml", "lr = = 1\n"), ("run.json", "[]"), ("run.json", "{"), ("metrics.jsonl", '{"round": 5}\n')],
)
def test_a_damaged_run_does_not_hide_others(file: str, text: str, tmp_path: Path) -> None:
    from fedq.finding import opened
    from fedq.sweep import runs_by_hash

    good, bad = interrupted(tmp_path, 1), interrupted(tmp_path, 2)
    (bad.path / file).write_text(text)
    found, notes = opened([tmp_path])
    assert ([run.path for run in found], len(notes)) == ([good.path], 1)
    assert str(bad.path) in notes[0]
    assert [run.path for run in runs_by_hash(tmp_path).values()] == [good.path]
    with pytest.raises(FedqError, match=f"{file} is damaged") as error:
        opened([bad.path])
    assert error.value.code == "FQ203"


def test_state_with_other_keys_or_values_is_our_mistake(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "x", "", {})
    with pytest.raises(TypeError, match="must be strings"):
        run.checkpoint(0, {}, {"nu": {3: 0.5}})
    with pytest.raises(TypeError):
        run.checkpoint(0, {}, {"f": object()})
    run.checkpoint(0, {}, {"nu": np.float32(0.5)})
    assert run.latest()[2] == {"nu": 0.5}
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["round_000000.npz"]
    run.release()


def test_other_rounds_are_written_down(tmp_path: Path) -> None:
    run = interrupted(tmp_path, 3)
    with pytest.raises(FedqError, match="3 rounds are played already"):
        reopen(run.path, rounds=2)
    longer = resume(run.path, rounds=8)
    assert longer.config["rounds"] == 8
    assert longer.about["config_hash"] == config(rounds=8).hash


def test_a_killed_run_is_not_running(tmp_path: Path) -> None:
    run, _ = begin(config(), tmp_path)
    assert run.status == "running"
    assert open_run(run.path).status == "running"
    run.release()
    assert open_run(run.path).status == "killed"
    assert "killed, 0 rounds" in repr(open_run(run.path))


def test_a_full_disk_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, simulation = begin(config(), tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(run, "checkpoint", full)
    with pytest.raises(FedqError, match="no space left") as error:
        list(play(run, simulation))
    assert (error.value.exit_code, "fedq resume" in error.value.hint) == (4, True)


@pytest.mark.parametrize(
    ("promise", "deployed", "each"), [("", False, False), ("epsilon", False, True), ("", True, True)]
)
def test_who_must_not_play_a_round_twice_saves_each(
    promise: str, deployed: bool, each: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, simulation = begin(config(), tmp_path)
    monkeypatch.setattr("fedq.simulation.perf_counter", lambda: 0.0)  # never time for a checkpoint
    monkeypatch.setattr(simulation.strategy, "promise", lambda: promise)
    run.update(deployed=deployed)
    saved = [run.latest()[0] for _ in play(run, simulation)]
    rounds = simulation.config.top.rounds
    assert saved == (list(range(1, rounds + 1)) if each else [0] * (rounds - 1) + [rounds])


def test_models_whose_results_would_depend_on_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    from fedq.build import build
    from fedq.models import MODELS
    from fedq.models.mlp import Mlp

    for layer in (nn.Dropout(), nn.FeatureAlphaDropout(), nn.RReLU(), nn.BatchNorm1d(10)):

        def model(shape: object, classes: int, options: object, layer: nn.Module = layer) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), layer)

        model.Options = Mlp.Options  # type: ignore[attr-defined]
        monkeypatch.setitem(MODELS, "mlp", model)  # type: ignore[arg-type]
        with pytest.raises(FedqError, match="running statistics or random layers"):
            build(config(strategy="fedavg"))


def test_a_goal_given_in_python_is_kept(tmp_path: Path) -> None:
    """`resume` in Python goes on to the goal that `simulate` was given, and Ctrl-C returns what is there."""
    settings = {"clients": 4, "rounds": 3, "model__hidden": [8], "client__local_steps": 1}
    run = simulate(out=tmp_path, until="accuracy=0.0001", **settings)
    assert len(run.records()) == 1
    again = resume(run.path, rounds=5)
    assert len(again.records()) == 1
    assert again.about["until"] == "accuracy=0.0001"
    assert len(resume(run.path, rounds=2, until="accuracy=1.0").records()) == 2
