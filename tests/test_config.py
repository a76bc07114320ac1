"""Configs: defaults, round trips, and every wrong value said in the user's words."""

from pathlib import Path

import pytest

from fedq.config import RunConfig, load_config, make_config
from fedq.errors import CODES, FedqError
from fedq.settings import parse_set, read_toml
from fedq.strategies import STRATEGIES
from fedq.until import Until


def test_a_data_folder_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run goes on from another working directory, so its config has the whole path."""
    monkeypatch.chdir(tmp_path)
    config = make_config({"data.dir": "sets/mnist"})
    assert (config.top.data.dir, config.top.data.name) == (str(tmp_path / "sets" / "mnist"), "mnist")
    assert config.hash == make_config({"data.dir": "/elsewhere/mnist"}).hash


def test_a_flower_strategys_bad_setting_is_said() -> None:
    """What its constructor refuses."""
    from fedq.build import build

    with pytest.raises(FedqError, match=r"Flower's FedTrimmedAvg: .*beta") as error:
        build(make_config({"strategy": "fedtrimmedavg", "strategy.beta": 0.6}))
    assert (error.value.code, "strategy" in error.value.where) == ("FQ105", True)


def failing(**values: object) -> FedqError:
    with pytest.raises(FedqError) as error:
        make_config(values)
    return error.value


def test_defaults_are_the_main_job() -> None:
    config = make_config()
    top = config.top
    assert (config.strategy.name, config.client.name, config.model.name, top.codec) == (
        "fedvote",
        "latent",
        "mlp",
        "binary",
    )
    assert (top.data.name, top.data.partition, top.data.holdout) == ("digits", "dirichlet:0.5", 0.2)
    assert (top.clients, config.per_round, config.client.options.lr) == (20, 20, 0.05)
    assert config.model.options.hidden == (128, 64)


@pytest.mark.parametrize("name", STRATEGIES)
def test_toml_round_trip(name: str, tmp_path: Path) -> None:
    config = make_config(strategy=name, seed=3)
    file = tmp_path / "run.toml"
    file.write_text(config.to_toml())
    again = load_config(file)
    assert again == config
    assert again.hash == config.hash


def test_hash_follows_the_bits_only() -> None:
    config = make_config()
    assert make_config(workers=7).hash == config.hash
    at = [make_config({"data.name": "mine", "data.dir": place}).hash for place in ("/here", "/there")]
    assert at[0] == at[1]
    assert make_config(per_round=20).hash == config.hash
    assert len({make_config(seed=1).hash, make_config({"client.lr": 0.1}).hash, config.hash}) == 3


def test_with_changes_keys_and_keeps_the_rest() -> None:
    config = make_config({"clients": 10, "client.lr": 0.2, "seed": 4})
    other = config.with_(seed=5, client__lr=0.3)
    assert (other.top.seed, other.client.options.lr, other.top.clients) == (5, 0.3, 10)
    fedavg = config.with_(strategy="fedavg")
    assert (fedavg.client.name, fedavg.top.codec, fedavg.top.seed) == ("sgd", "float32", 4)


def test_a_folder_shared_by_a_column_names_the_data_and_its_clients() -> None:
    """As `simulate(data__dir=...)` gives them: defaults are no wish for digits or twenty clients."""
    given = {"data.dir": "notes", "data.partition": "by:site"}
    config = make_config().with_(**{k.replace(".", "__"): v for k, v in given.items()})
    assert config == make_config(given)
    assert config.top.data.name == "notes"
    assert "clients" not in config.origins
    assert make_config(clients=4).with_(data__partition="by:site").origins["clients"].value == 4


@pytest.mark.parametrize("new", STRATEGIES)
@pytest.mark.parametrize("old", ["terngrad", "fedvote", "signsgd"])
def test_a_new_strategy_takes_nothing_from_the_old_one(old: str, new: str) -> None:
    assert make_config(strategy=old, seed=3).with_(strategy=new) == make_config(strategy=new, seed=3)


@pytest.mark.parametrize(
    ("values", "code", "says", "hint"),
    [
        ({"strategy": "fedvot"}, "FQ101", "unknown strategy `fedvot`", "did you mean `fedvote`?"),
        ({"codec": "binry"}, "FQ101", "unknown codec `binry`", "did you mean `binary`?"),
        ({"model": "lenet"}, "FQ101", "unknown model `lenet`", "did you mean `lenet5`?"),
        ({"client": "sgdd"}, "FQ101", "unknown client `sgdd`", "did you mean `sgd`?"),
        ({"data.partition": "dirichlt:1"}, "FQ101", "unknown partition `dirichlt`", "did you mean `dirichlet`?"),
        ({"data.partition": "dirichlet:-1"}, "FQ106", "malformed partition", "dirichlet:ALPHA"),
        ({"data.partition": "iid:3"}, "FQ106", "malformed partition", "iid - equal"),
        ({"rounds": -1}, "FQ103", "`rounds` is -1", ""),
        ({"clients": 0}, "FQ103", "`clients` is 0", ""),
        ({"clients": 5, "per_round": 6}, "FQ105", "6 clients per round, but there are 5", "--clients"),
        ({"client.lr": "fast"}, "FQ103", "`client.lr` is 'fast'", ""),
        ({"client.lr": float("nan")}, "FQ103", "`client.lr` is nan", ""),
        ({"strategy.temprature": 2}, "FQ102", "unknown key `strategy.temprature`", "clip"),
        ({"round": 2}, "FQ102", "unknown key `round`", "did you mean `rounds`?"),
        ({"data.partitoin": "iid"}, "FQ102", "unknown key `data.partitoin`", "did you mean `partition`?"),
        ({"evaluate.every": 0}, "FQ103", "`evaluate.every` is 0", ""),
    ],
)
def test_wrong_values(values: dict[str, object], code: str, says: str, hint: str) -> None:
    error = failing(**values)
    assert error.code == code
    assert says in error.message
    assert hint in error.hint
    assert error.where
    assert error.exit_code == 2


def test_every_wrong_value_is_told_at_once() -> None:
    error = failing(rounds=-1, clients=0, foo=1)
    assert {e.message.split("`")[1] for e in (error, *error.also)} == {"rounds", "clients", "foo"}


def test_errors_in_files_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('seed = 1\n\n[strategy]\nname = "fedvote"\ntemprature = 2.0\n')
    with pytest.raises(FedqError) as error:
        load_config(file)
    assert str(file) + ":5  strategy.temprature = 2.0" in error.value.where
    assert error.value.exit_code == 3
    file.write_text("seed = \n")
    with pytest.raises(FedqError) as error:
        load_config(file)
    assert (error.value.code, error.value.exit_code) == ("FQ104", 3)


def test_lines_of_nested_and_dotted_keys(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('data.name = "digits"\n[client]\nlr = 0.1\n["model"]\nhidden = [\n  3,\n]\n')
    assert {k: s.where.split("  ")[0].rsplit(":")[-1] for k, s in read_toml(file).items()} == {
        "data.name": "1",
        "client.lr": "3",
        "model.hidden": "5",
    }


def test_set_flags() -> None:
    settings = parse_set(["client.lr=0.1", "model.hidden=[8, 8]", "codec=qsgd4", "evaluate.clients=true"])
    assert {k: s.value for k, s in settings.items()} == {
        "client.lr": 0.1,
        "model.hidden": [8, 8],
        "codec": "qsgd4",
        "evaluate.clients": True,
    }
    for bad in ("client.lr", "=3", "a b=3"):
        with pytest.raises(FedqError):
            parse_set([bad])


@pytest.mark.parametrize(
    ("text", "goal"),
    [("accuracy=0.9", 0.9), ("up=10MB", 1e7), ("total=1.5 kB".replace(" ", ""), 1500), ("down=2KiB", 2048)],
)
def test_until(text: str, goal: float) -> None:
    assert Until.parse(text).goal == goal


@pytest.mark.parametrize("text", ["accuracy", "accuracy=2", "acc=0.9", "up=ten", "up=10parsec", "accuracy=0.5MB", ""])
def test_until_refuses(text: str) -> None:
    with pytest.raises(FedqError):
        Until.parse(text)


def test_until_is_met() -> None:
    lines = [
        {"accuracy": None, "up_bytes": 600, "down_bytes": 10},
        {"accuracy": 0.8, "up_bytes": 600, "down_bytes": 10},
    ]
    assert Until.parse("up=1.2KB").met(lines)
    assert not Until.parse("up=1.2KB").met(lines[:1])
    assert Until.parse("accuracy=0.8").met(lines)
    assert not Until.parse("accuracy=0.8").met(lines[:1])
    assert Until.parse("total=1220B").met(lines)


def test_every_code_is_of_a_known_kind() -> None:
    assert all(code[:3] in ("FQ1", "FQ2", "FQ3") and about for code, about in CODES.items())


def test_config_is_frozen() -> None:
    config: RunConfig = make_config()
    with pytest.raises(Exception, match=r"frozen|cannot assign"):
        config.top.seed = 3  # type: ignore[misc]
