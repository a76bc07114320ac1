"""`fedq compare`: what is averaged, what is told apart, what is refused, and what is written."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Fedq = Callable[..., tuple[int, str, str]]


def runs() -> list[str]:
    return sorted(str(p) for p in Path("runs").iterdir())


def test_compare(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    for strategy in ("fedvote", "fedavg"):
        for seed in ("0", "1"):
            assert fedq("simulate", *tiny, "--strategy", strategy, "--seed", seed, "--quiet")[0] == 0
    runs = [str(p) for p in sorted(Path("runs").iterdir())]
    status, out, err = fedq("compare", *runs)
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert [r[:3] for r in rows[1:]] == [["fedavg", "float32", "2"], ["fedvote", "binary", "2"]]
    axes = ("bytes", "total_bytes", "rounds", "seconds")
    made = {f"accuracy_vs_{axis}.{kind}" for axis in axes for kind in ("svg", "png")}
    made |= {"table.csv", "table.tex", "table.json"}
    assert {p.name for p in Path("compare").iterdir()} == made
    assert all(name in err for name in made)
    svg = Path("compare/accuracy_vs_bytes.svg").read_bytes()
    assert json.loads(fedq("compare", *runs, "--json", "--target", "0.05")[1])["target"] == 0.05
    fedq("compare", *runs, "--out", "again")
    assert Path("again/accuracy_vs_bytes.svg").read_bytes() == svg


def test_compare_tells_twins_apart(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    for lr in ("0.05", "0.1"):
        fedq("simulate", *tiny, "--lr", lr, "--quiet")
    _, out, _ = fedq("compare", *[str(p) for p in sorted(Path("runs").iterdir())])
    assert " lr=0.05 " in out
    assert " lr=0.1 " in out


def test_compare_hides_no_attack(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """Runs of one strategy, one of them attacked, have labels that say so."""
    fedq("simulate", *tiny)
    fedq("simulate", *tiny, "--attack", "inverse:2")
    status, out, _ = fedq("compare", *map(str, sorted(Path("runs").iterdir())), "--json")
    labels = [row["run"] for row in json.loads(out)["rows"]]
    assert status == 0
    assert sorted(labels) == ["fedvote binary", "fedvote binary under inverse:2"]


def test_numbers_are_those_of_the_runs(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """Means over seeds of sums over rounds, n - 1 in the deviation; the same in JSON, CSV and LaTeX."""
    from fedq.runs import open_run

    for seed in ("0", "1", "2"):
        fedq("simulate", *tiny, "--seed", seed, "--quiet")
    lines = [open_run(path).records() for path in runs()]
    last = [m[-1]["accuracy"] for m in lines]
    target = min(m[0]["accuracy"] for m in lines)
    status, out, _ = fedq("compare", *runs(), "--json", "--target", str(target))
    (row,) = json.loads(out)["rows"]
    assert (status, row["seeds"], row["rounds"]) == (0, 3, 2)
    assert row["accuracy"] == pytest.approx(np.mean(last))
    assert row["accuracy_std"] == pytest.approx(np.std(last, ddof=1))
    assert row["up_bytes"] == np.mean([sum(m["up_bytes"] for m in run) for run in lines])
    assert row["total_bytes"] == np.mean([sum(m["up_bytes"] + m["down_bytes"] for m in run) for run in lines])
    assert row["seconds"] == pytest.approx(np.mean([sum(m["seconds"] for m in run) for run in lines]))
    assert row["rounds_to_target"] == 1
    assert row["total_bytes_to_target"] == np.mean([run[0]["up_bytes"] + run[0]["down_bytes"] for run in lines])
    (read,) = csv.DictReader(Path("compare/table.csv").read_text().splitlines())
    assert float(read["up_bytes_to_target"]) == row["up_bytes_to_target"]
    assert json.loads(Path("compare/table.json").read_text())["rows"] == [row]
    tex = Path("compare/table.tex").read_text()
    assert f"fedvote binary & 3 & {row['accuracy']:.4f} $\\pm$ {row['accuracy_std']:.4f} &" in tex
    assert "%" not in tex.replace("\\%", "")


def test_repeats_are_averaged_and_said(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    for _ in range(2):
        fedq("simulate", *tiny, "--quiet")
    first, second = runs()
    file = Path(second, "metrics.jsonl")
    changed = [json.loads(line) for line in file.read_text().splitlines()]
    changed[-1]["accuracy"] = 0.5
    file.write_text("".join(json.dumps(m) + "\n" for m in changed))
    kept = json.loads(Path(first, "metrics.jsonl").read_text().splitlines()[-1])["accuracy"]
    _, out, err = fedq("compare", *runs(), "--json")
    (row,) = json.loads(out)["rows"]
    assert (row["seeds"], row["accuracy"]) == (1, pytest.approx((kept + 0.5) / 2))
    assert f"note: `{first}`, `{second}` repeat each other: their mean counts as one seed" in err
    file.write_text(json.dumps(changed[0]) + "\n")
    _, out, err = fedq("compare", *runs(), "--json")
    assert json.loads(out)["rows"][0]["accuracy"] == kept
    assert "after 1 rounds) was left out: a repeat goes further" in err


def test_a_shorter_seed_shortens_the_mean_and_it_is_said(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    for seed in ("0", "1"):
        fedq("simulate", *tiny, "--seed", seed, "--quiet")
    file = Path(runs()[1], "metrics.jsonl")
    file.write_text(file.read_text().splitlines()[0] + "\n")
    _, out, err = fedq("compare", *runs(), "--json")
    assert json.loads(out)["rows"][0]["rounds"] == 1
    assert "the mean over seeds ends at round 1, as seed 1 does" in err


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (("--partition", "iid"), "data.partition"),
        (("--set", "model.hidden=[8]"), "model.hidden"),
        (("--clients", "5"), "clients"),
        (("--seed", "1"), "seed"),
    ],
)
def test_unlike_runs_are_refused(fedq: Fedq, tiny: tuple[str, ...], other: tuple[str, ...], key: str) -> None:
    fedq("simulate", *tiny, "--quiet")
    words = [*tiny, "--strategy", "fedavg", *other]
    if other[0] == "--clients":
        words = ["--clients", "5", *tiny[2:], "--strategy", "fedavg"]
    assert fedq("simulate", *words, "--quiet")[0] == 0
    status, out, err = fedq("compare", *runs())
    assert (status, out) == (2, "")
    assert err.startswith(f"error[FQ107]: these runs are unlike in `{key}`\n  --> {key} = ")
    assert "--anyway" in err
    status, out, _ = fedq("compare", *runs(), "--anyway")
    assert status == 0
    if key != "seed":
        assert key.rpartition(".")[2] + "=" in out


def test_what_is_done_otherwise_is_told(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    fedq("simulate", *tiny, "--quiet")
    fedq("simulate", *tiny, "--strategy", "fedavg", "--per-round", "2", "--quiet")
    status, out, _ = fedq("compare", *runs())
    assert status == 0
    assert "fedavg float32 per_round=2" in out
    assert "fedvote binary per_round=all" in out


def test_folders_of_runs_and_what_lies_beside_them(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    fedq("simulate", *tiny, "--quiet", "--out", "runs/mine")
    fedq("simulate", *tiny, "--quiet", "--strategy", "fedavg")
    fedq("compare", "runs/mine", "--out", "runs/mine")
    Path("runs/notes").mkdir()
    status, out, err = fedq("compare", *runs())
    assert (status, len(out.splitlines())) == (0, 2)
    assert "`runs/notes` is not a run and was left out" in err
    assert "mine" not in err
    assert len(fedq("compare", "runs/mine")[1].splitlines()) == 2
    assert fedq("compare", *map(str, Path("runs/mine").iterdir()))[0] == 0
    fedq("simulate", *tiny, "--quiet", "--set", "model.norm=none", "--strategy", "fedavg", "--lr", "1e30")
    assert "has no evaluated round (failed) and was left out" in fedq("compare", *runs())[2]
    assert fedq("compare", "runs", "nowhere")[0] == 4


def test_out_that_cannot_be_written_is_said_in_words(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    fedq("simulate", *tiny, "--quiet")
    Path("file").write_text("")
    for words in (("compare", *runs(), "--out", "file"), ("simulate", *tiny, "--out", "file/x")):
        status, _, err = fedq(*words)
        assert (status, err.split(":")[0]) == (4, "error[FQ206]")
        assert "Errno" not in err
        assert f"--> --out {words[-1]}" in err


def test_the_target_is_what_all_reach(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """0.29 is 28.999... hundredths in floating point."""
    fedq("simulate", *tiny, "--quiet")
    (file,) = Path("runs").glob("*/metrics.jsonl")
    lines = [json.loads(line) | {"accuracy": 0.29} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(m) + "\n" for m in lines))
    assert json.loads(fedq("compare", "runs", "--json")[1])["target"] == 0.29


def test_an_error_names_few_of_many_runs(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    for k, rate in enumerate((0.1, 0.2, 0.3, 0.4, 0.5)):
        hidden = f"model.hidden=[{8 if k else 9}]"
        assert fedq("simulate", *tiny, "--quiet", "--set", hidden, "--set", f"client.lr={rate}")[0] == 0
    status, _, err = fedq("compare", *runs())
    assert status == 2
    assert err.count("lr=") == 3  # the one with 9 units, and two of the four with 8
    assert "2 more" in err
