"""The command line as a user meets it, in this process."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from fedq.cli.unknown import ELSEWHERE

Fedq = Callable[..., tuple[int, str, str]]


def test_simulate_json(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    status, out, err = fedq("simulate", *tiny, "--json", "--seed", "3")
    assert status == 0
    totals = json.loads(out)
    assert out.count("\n") == 1
    promised = """strategy codec data model seed rounds clients run_dir accuracy deployed_accuracy loss up_bytes
        down_bytes seconds epsilon wire_up_bytes"""
    assert set(promised.split()) <= set(totals)
    assert (totals["strategy"], totals["codec"], totals["rounds"], totals["clients"], totals["seed"]) == (
        "fedvote",
        "binary",
        2,
        4,
        3,
    )
    assert Path(totals["run_dir"], "metrics.jsonl").read_text().count("\n") == 2
    assert "fedvote on digits" in err


def test_piped_output_is_one_plain_line_a_round(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    _, out, err = fedq("simulate", *tiny)
    assert "\x1b" not in out + err
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["round=1/2", "round=2/2"]
    assert len({re.sub(r"[\d.]", "#", line).find("loss") for line in lines}) == 1
    assert "fedq compare" in err


def test_quiet(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    assert fedq("simulate", *tiny, "--quiet") == (0, "", "")


def test_print_config_and_run_it(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    status, out, _ = fedq("simulate", *tiny, "--print-config", "--strategy", "fedpaq")
    assert status == 0
    Path("mine.toml").write_text(out)
    status, out, _ = fedq("simulate", "mine.toml", "--seed", "9", "--json")
    assert (status, json.loads(out)["strategy"], json.loads(out)["seed"]) == (0, "fedpaq", 9)


def test_run_toml_repeats_the_run(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    first = json.loads(fedq("simulate", *tiny, "--json")[1])
    again = json.loads(fedq("simulate", first["run_dir"] + "/run.toml", "--json")[1])
    assert again["weights_sha256"] == first["weights_sha256"]
    assert again["run_dir"] == first["run_dir"] + "-2"


def test_flags_over_a_file_take_the_old_parts_keys_along(fedq: Fedq) -> None:
    """As if the file had never named what the flag replaces; what somebody chose otherwise stays."""

    def printed(*words: str) -> str:
        status, out, err = fedq("simulate", *words, "--print-config")
        assert status == 0, err
        return out

    for old, new in [("fedvote", "fedavg"), ("terngrad", "fedvote"), ("fedavg", "terngrad"), ("feddyn", "signsgd")]:
        Path("run.toml").write_text(printed("--strategy", old, "--seed", "3"))
        assert printed("run.toml", "--strategy", new) == printed("--strategy", new, "--seed", "3")
    Path("run.toml").write_text(printed("--strategy", "fedavg", "--codec", "qsgd4", "--model", "lenet5"))
    assert printed("run.toml", "--strategy", "fedpaq", "--model", "mlp") == printed(
        "--strategy", "fedpaq", "--codec", "qsgd4"
    )
    assert printed("run.toml", "--set", "client.name=fedprox") == printed(
        *("--strategy", "fedavg", "--codec", "qsgd4", "--model", "lenet5", "--set", "client.name=fedprox")
    )
    assert "local_epochs = 2" in printed("run.toml", "--set", "client.local_epochs=2.0")
    Path("mine.toml").write_text("[client]\nlr = 0.2\n[strategy]\nname = 'fedvote'\n")
    assert printed("mine.toml", "--strategy", "fedavg") == printed("--strategy", "fedavg", "--lr", "0.2")
    for wrong in ("3", "[]", "'fedvot'"):
        Path("mine.toml").write_text(f"[strategy]\nname = {wrong}\n")
        assert printed("mine.toml", "--strategy", "fedavg") == printed("--strategy", "fedavg")


def test_flags_without_a_value_are_quoted_without_one(fedq: Fedq) -> None:
    status, _, err = fedq("simulate", "--error-feedback")
    assert (status, "\n  --> --error-feedback\n" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "status", "code", "hint"),
    [
        (("simulate", "--strategy", "fedvot"), 2, "FQ101", "did you mean `fedvote`?"),
        (("simulate", "--codec", "binry"), 2, "FQ101", "did you mean `binary`?"),
        (("simulate", "--data", "digit"), 2, "FQ101", "did you mean `digits`?"),
        (("simulate", "--model", "lenet"), 2, "FQ101", "did you mean `lenet5`?"),
        (("simulate", "--rounds", "-1"), 2, "FQ103", ""),
        (("simulate", "--rounds", "many"), 2, "FQ106", "fedq simulate --help"),
        (("simulate", "--per-round", "30"), 2, "FQ105", "--clients"),
        (("simulate", "--clients", "1400"), 2, "FQ105", "fewer --clients"),
        (("simulate", "--strategi", "fedvote"), 2, "FQ106", "did you mean `--strategy`?"),
        (("simulate", "--zzz"), 2, "FQ106", "fedq simulate --help"),
        (("simulate", "--downlink", "counts"), 2, "FQ106", "it is a key of the config: --set downlink=..."),
        (("sweep", "--local-epochs", "2"), 2, "FQ106", "--set client.local_epochs=..."),
        (("simulat",), 2, "FQ106", "did you mean `fedq simulate`?"),
        (("simulate", "fedpaq"), 3, "FQ104", "did you mean `--strategy fedpaq`?"),
        (("deploy", "sever"), 2, "FQ106", "did you mean `fedq deploy server`?"),
        (("simulate", "--codec", "topk:5"), 2, "FQ106", "such as topk:0.05"),
        (("show", "runs/none"), 4, "FQ203", "fedq show runs"),
        (("simulate", "--set", "strategy.temprature=2"), 2, "FQ102", "clip"),
        (("simulate", "--set", "nonsense"), 2, "FQ106", "--set"),
        (("simulate", "--until", "acc=1"), 2, "FQ106", "accuracy=0.9"),
        (("simulate", "--strategy", "fedvote", "--codec", "sign"), 2, "FQ105", "binary"),
        (("simulate", "--strategy", "signsgd", "--codec", "qsgd4"), 2, "FQ105", "--codec"),
        (("simulate", "--strategy", "signsgd", "--set", "client.name=sgd"), 2, "FQ105", "client.name"),
        (("simulate", "--model", "lenet5"), 2, "FQ105", "mlp"),
        (("simulate", "--data", "x", "--data-dir", "nowhere"), 4, "FQ201", "layout"),
        (("simulate", "--data", "nobody/nothing"), 4, "FQ201", "--data-dir"),
        (("simulate", "--batch-size", "1"), 2, "FQ105", "--batch-size"),
        (("simulate", "--set", "strategy=3"), 2, "FQ103", ""),
        (("simulate", "--set", "codec.name=ternary"), 2, "FQ102", ""),
        (("simulate", "--set", "seed.x=1", "--seed", "3"), 2, "FQ102", ""),
        (("simulate", "--set", "model.hidden=[0]"), 2, "FQ103", ""),
        (("simulate", "--set", "lr=0.1"), 2, "FQ102", "did you mean `client.lr`?"),
        (("simulate", "--set", "rounds=true"), 2, "FQ103", ""),
        (("simulate", "--clients", "99999999999999999999"), 2, "FQ103", ""),
        (("simulate", "nowhere.toml"), 3, "FQ104", "TOML"),
        (("simulate", "."), 3, "FQ104", "cannot read `run.toml`: no such file"),
        (("simulate", "--round", "3"), 2, "FQ105", "--only-client"),
        (("sweep", "--grid", "seed=2..0"), 2, "FQ106", "upwards"),
        (("resume", "nowhere"), 4, "FQ203", "runs/"),
        (("compare", "nowhere"), 4, "FQ203", "runs/"),
        (("show", "fedvotes"), 2, "FQ101", "fedvote"),
    ],
)
def test_wrong_input(fedq: Fedq, words: tuple[str, ...], status: int, code: str, hint: str) -> None:
    got, out, err = fedq(*words)
    assert got == status
    assert out == ""
    assert err.startswith(f"error[{code}]: ")
    assert "\n  --> " in err
    assert hint in err
    assert "Traceback" not in err


def test_wrong_key_in_a_file(fedq: Fedq) -> None:
    Path("x.toml").write_text('rounds = 2\n[strategy]\nname = "fedvote"\ntemprature = 2.0\n')
    status, _, err = fedq("simulate", "x.toml")
    assert status == 3
    assert "error[FQ102]: unknown key `strategy.temprature`\n  --> x.toml:4  strategy.temprature = 2.0" in err


def test_a_client_that_raises(fedq: Fedq, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from fedq.clients.trainer import Trainer

    def fail(*_: object) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(Trainer, "_trained", fail)
    status, out, err = fedq("simulate", *tiny, "--json")
    assert status == 5
    assert out == ""
    assert "error[FQ301]: client 0 failed in round 1: OSError: disk on fire" in err
    (log,) = Path("runs").glob("*/log.txt")
    assert log.read_text().count("Traceback") == 1


def test_out_that_cannot_be_written(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    Path("file").write_text("")
    status, _, err = fedq("simulate", *tiny, "--out", "file")
    assert (status, err.split(":")[0]) == (4, "error[FQ206]")


@pytest.mark.parametrize(
    "what",
    [
        "strategies",
        "codecs",
        "clients",
        "models",
        "data",
        "partitions",
        "runs",
        "fedvote",
        "terngrad",
        "digits",
        "iid",
        "fedadam",
        "qsgd4",
        "mlp",
        "sgd",
        "dirichlet:0.3",
        "inverse:2",
    ],
)
def test_show(fedq: Fedq, what: str) -> None:
    status, out, _ = fedq("show", what)
    assert status == 0
    assert out.strip()
    assert json.loads(fedq("show", what, "--json")[1]) is not None


def test_every_codec_is_told_from_the_others(fedq: Fedq) -> None:
    rows = json.loads(fedq("show", "codecs", "--json")[1])
    assert len({row["about"] for row in rows}) == len(rows)
    about = {row["codec"]: row["about"] for row in rows}
    assert about["topk10"].startswith("The 10% of values")
    assert "1.6 bits" in about["terngrad_base3"]
    assert not any("`inner`" in text or "share d" in text for text in about.values())
    assert about["qsgd4"] in fedq("show", "qsgd4")[1]


def test_an_unknown_name_is_told_the_nearest_and_the_kinds(fedq: Fedq) -> None:
    from fedq.report.catalogue import KINDS

    kinds = f"fedq show KIND lists what there is: {', '.join(KINDS)}\n"
    assert fedq("show", "topk11")[2].endswith(f"  hint: did you mean `topk10`? {kinds}")
    assert fedq("show", "xyzzy")[2].endswith(f"  hint: {kinds}")


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--run-dir", "did you mean `--out`?"),
        ("--num-clients", "did you mean `--clients`?"),
        ("--method", "did you mean `--strategy`?"),
        ("--strateg", "did you mean `--strategy`?"),
    ],
)
def test_a_flag_of_another_tool_is_told_ours(flag: str, meant: str, fedq: Fedq) -> None:
    code, _, err = fedq("simulate", flag, "3")
    assert (code, err.splitlines()[-1]) == (2, f"  hint: {meant}")


def test_the_words_of_other_tools_name_flags_that_there_are(fedq: Fedq) -> None:
    page = fedq("simulate", "--help")[1]
    assert all(meant.partition(" ")[0] in page for meant in ELSEWHERE.values())


def test_show_settings_are_those_of_a_configuration(fedq: Fedq) -> None:
    """All that `--set` takes besides the parts' own, each with what it is worth where nobody says otherwise."""
    from fedq.config import PARTS, make_config
    from fedq.settings import flatten

    shown = {row["setting"]: row["default"] for row in json.loads(fedq("show", "settings", "--json")[1])}
    assert {"attack", "per_round", "data.per_client", "evaluate.kept"} <= set(shown)
    plain = make_config(strategy="fedavg")
    told = {key for key in flatten(tomllib.loads(plain.to_toml())) if key.partition(".")[0] not in PARTS}
    assert told <= set(shown)
    for key, default in shown.items():
        if default not in (None, ""):
            assert make_config({"strategy": "fedavg", key: default}).hash == plain.hash


def test_show_says_all_that_has_a_name(fedq: Fedq) -> None:
    """A name may be a strategy's and a codec's."""
    assert [page["kind"] for page in json.loads(fedq("show", "terngrad", "--json")[1])] == ["strategy", "codec"]
    out = fedq("show", "terngrad")[1]
    assert "strategy terngrad\n" in out
    assert "codec terngrad\n" in out


def test_show_json_is_numbers(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    fedq("simulate", *tiny, "--quiet")
    (row,) = json.loads(fedq("show", "runs", "--json")[1])
    assert (row["rounds"], row["of"]) == (2, 2)
    assert isinstance(row["up_bytes"], int)
    assert isinstance(row["accuracy"], float)
    sizes = {c["codec"]: c["bytes_of_10000"] for c in json.loads(fedq("show", "codecs", "--json")[1])}
    assert sizes["binary"] == 1250


def test_all_errors_at_once(fedq: Fedq) -> None:
    wrong = ("--rounds", "-1", "--codec", "binry", "--partition", "x", "--per-round", "40", "--set", "weighting=y")
    _, _, err = fedq("simulate", *wrong, "--attack", "invers:2", "--strategy", "fedvote", "--set", "hidden=[3]")
    assert err.count("error[") == 7
    assert "did you mean `strategy.weighting`?" in err
    assert "did you mean `model.hidden`?" in err
    wrong = ("--strategy", "fedvot", "--set", "client.slop=1", "--set", "model.name=lenet", "--until", "acc=1")
    _, _, err = fedq("simulate", *wrong)
    assert err.count("error[") == 4
    assert "did you mean `slope`?" in err  # of the strategy that must be meant


def test_a_hub_that_is_not_there_is_told_at_once(fedq: Fedq, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client would try for half a minute; the port is closed."""
    from time import monotonic

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = monotonic()
    status, _, err = fedq("simulate", "--data", "nobody/nothing")
    assert (status, "error[FQ201]" in err) == (4, True)
    assert monotonic() - started < 8
    assert constants.HF_HUB_OFFLINE is False


def test_ctrl_c_before_a_run_begins_is_said(fedq: Fedq, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedq import simulation

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "begin", stop)
    assert fedq("simulate") == (130, "", "interrupted before there was anything to save\n")


def test_show_run(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    run = json.loads(fedq("simulate", *tiny, "--json")[1])["run_dir"]
    status, out, _ = fedq("show", run)
    assert status == 0
    assert "2 of 2 rounds" in out
    assert 'partition = "dirichlet:0.5"' in out
    assert run in fedq("show", "runs")[1]


def test_doctor(fedq: Fedq) -> None:
    status, out, _ = fedq("doctor")
    assert status == 0
    assert out.count("\nok ") == 4
    assert json.loads(fedq("doctor", "--json")[1])["checks"]


def test_version_and_help(fedq: Fedq) -> None:
    assert fedq("--version") == (0, "fedq 0.1.0\n", "")
    status, out, _ = fedq("--help")
    assert status == 0
    assert max(len(line) for line in out.splitlines()) <= 80


def test_help_says_what_the_arguments_are(fedq: Fedq) -> None:
    """In the text, as not every click shows the help of arguments."""
    from fedq.report.catalogue import KINDS

    assert "CONFIG is a TOML file" in fedq("simulate", "--help")[1]
    shown = fedq("show", "--help")[1]
    assert all(kind in shown for kind in KINDS)


def test_demo_contenders_are_valid() -> None:
    from fedq.cli.demo import CONTENDERS
    from fedq.config import make_config

    assert [make_config(c).strategy.name for c in CONTENDERS] == ["fedvote", "fedavg"]


def test_a_folder_names_its_data(fedq: Fedq, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    status, _, err = fedq("simulate", "--data-dir", "mine")
    assert (status, "`mine`" in err or "mine" in err) == (4, True)
    assert fedq("simulate", "--data-dir", "mine", "--print-config")[1].count('name = "mine"') == 1


def test_errors_of_a_file_are_placed_in_the_file(fedq: Fedq) -> None:
    Path("x.toml").write_text('codec = "sign"\n[data]\nname = "digit"\n')
    status, _, err = fedq("simulate", "x.toml")
    assert status == 3
    assert "x.toml:1  codec" in err
    Path("x.toml").write_text('[data]\nname = "digit"\n')
    status, _, err = fedq("simulate", "x.toml")
    assert (status, "x.toml:2  data.name" in err) == (3, True)


def test_a_misspelt_file_is_told_the_nearest(fedq: Fedq) -> None:
    Path("mine.toml").write_text("seed = 1")
    assert "did you mean `mine.toml`?" in fedq("simulate", "mien.toml")[2]


def test_a_byte_order_mark_and_a_run_directory_are_configs(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    Path("x.toml").write_bytes(b"\xef\xbb\xbfseed = 7\n")
    run = json.loads(fedq("simulate", "x.toml", *tiny, "--json")[1])["run_dir"]
    assert json.loads(fedq("simulate", run, "--json")[1])["seed"] == 7


def test_bench_kernels(fedq: Fedq) -> None:
    """A row for each kernel and its floors, with the promised keys; no word on how fast."""
    from fedq.kernels import active

    status, out, err = fedq("bench", "kernels", "--d", "4096", "--n", "3", "--json", "--no-others")
    if active.isa() == "numpy":
        assert (status, "no native kernels" in err) == (4, True)
        return
    rows = json.loads(out)
    promised = [
        "kernel",
        "d",
        "n",
        "isa",
        "median_us",
        "gbps",
        "floor_gbps",
        "of_memcpy",
        "of_floor",
        "vs_numpy",
        "vs_torch",
    ]
    assert all(list(row) == promised for row in rows)
    kernels = {row["kernel"] for row in rows if not row["kernel"].startswith("floor")}
    assert {"encode_binary", "decode_binary", "vote_majority", "vote_weighted", "encode_qsgd4", "pack_base3"} <= kernels
    assert all(row["median_us"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("command", "said"), [("resume", "The directory of a run"), ("compare", "Directories of runs")]
)
def test_help_says_what_arguments_are(fedq: Fedq, command: str, said: str) -> None:
    assert said in " ".join(fedq(command, "--help")[1].split())
