"""Every result of an experiment belongs to a cell of its grid, and one short cell still gives what was written down."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.cells import Cell, cells, result
from fedq.config import hash_of, make_config
from fedq.settings import flatten

HERE = Path(__file__).parent.parent / "experiments"
FOLDERS = sorted(grid.parent for grid in HERE.glob("*/grid.toml"))
SHORT = 60.0  # seconds


def measured() -> list[tuple[Path, Cell, dict[str, Any]]]:
    found = [(folder, cell, result(folder, cell)) for folder in FOLDERS for cell in cells(folder)]
    return [(folder, cell, r) for folder, cell, r in found if r]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_results_are_those_of_the_grid(folder: Path) -> None:
    """A result's config has its hash and is its cell's; keys that came later are at their defaults."""
    known = {cell.name: cell for cell in cells(folder)}
    for cell in known.values():
        cell.config()  # every cell can be run
    for file in sorted((folder / "results").glob("*.json")):
        found = json.loads(file.read_text())
        assert file.stem in known, f"{file}: no cell of grid.toml"
        assert hash_of(found["config"]) == found["config_hash"], f"{file}: its config was edited"
        was, now = flatten(found["config"]), flatten(known[file.stem].config().as_dict())
        assert {k: now[k] for k in was if k in now} == was, f"{file}: measured with another config"
        assert make_config(was).hash == known[file.stem].config().hash, f"{file}: a default has changed since"
        assert found["totals"]["rounds"] == was["rounds"], f"{file}: not all rounds were played"
        assert len(found["curve"]["round"]) == len(found["curve"]["accuracy"])


def test_list_says_what_came_of_cells(capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.run import main

    main(["terngrad_mnist", "--list"])
    told = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("done")}
    known = {cell.name: r["totals"] for folder, cell, r in measured() if folder.name == "terngrad_mnist"}
    assert told.keys() == known.keys()
    assert all(f" accuracy={known[name]['accuracy']:.4f} deployed_accuracy=" in told[name] for name in known)


def test_what_rare_labels_pay_is_read_as_runs_evaluate() -> None:
    """The share of right guesses is the accuracy of the round."""
    from experiments.fedvote_byzantine.rare import guesses
    from fedq.build import build
    from fedq.kernels import records

    simulation = build(make_config({"client.local_steps": 2}, clients=3, rounds=1))
    (record,) = simulation.rounds(simulation.initial, 1, 1)
    right = guesses(simulation, records.to_arrays(record.arrays)) == simulation.data.test.y
    assert right.mean() == pytest.approx(record.accuracy)


def test_a_cell_goes_on_with_the_workers_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was interrupted with one thread, and is played with two."""
    from experiments import run as cells_run
    from fedq import simulation

    cell = Cell("small", {}, {"clients": 4, "rounds": 4, "evaluate.every": 4, "workers": 1, "engine": "local"})
    playing = simulation.play(*simulation.begin(cell.config(), tmp_path / "grid" / cell.name))
    next(playing)
    playing.close()
    built, reopen = list[str](), simulation.reopen

    def reopened(*given: Any, **where: Any) -> Any:
        found = reopen(*given, **where)
        built.append(str(found[1].clients))
        return found

    monkeypatch.setattr(simulation, "reopen", reopened)
    found = cells_run.run(Path("grid"), cell, "", tmp_path, workers=2)
    assert built == ["2 threads of this process"]
    assert found["curve"]["round"] == [4]


@pytest.mark.slow
def test_a_short_cell_again(tmp_path: Path) -> None:
    """The shortest cell on the embedded digits that nobody attacks: the curve that was written down."""
    from experiments.run import run

    calm = [found for found in measured() if "attack" not in found[1].keys]  # attacked runs need not repeat elsewhere
    short = [(r["seconds"], f, c, r) for f, c, r in calm if c.keys.get("data.name", "digits") == "digits"]
    if not short:
        pytest.skip("no experiment has a result on digits yet")
    seconds, folder, cell, known = min(short, key=lambda found: found[0])
    assert seconds < SHORT
    again = run(folder, cell, "", tmp_path)
    assert again["up_bytes"] == known["up_bytes"]
    np.testing.assert_allclose(again["curve"]["accuracy"], known["curve"]["accuracy"], atol=0.05)
