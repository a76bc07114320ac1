"""Both halves of the Flower App in one process: the server's grid over LocalGrid, sites with folders of their own."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedq._flower import to_bytes
from fedq.build import Simulation, build
from fedq.config import RunConfig, make_config
from fedq.data import Examples
from fedq.deploy import site
from fedq.deploy.bundle import PIECE, bundled, unbundled
from fedq.deploy.grid import DeployedGrid
from fedq.deploy.memory import Memory
from fedq.deploy.server import deployed, main
from fedq.errors import FedqError
from fedq.grids import LocalGrid
from fedq.kernels import records
from fedq.ledger import payload_bytes
from fedq.passing import PassingGrid
from fedq.rounds import RoundRecord
from fedq.runs import fingerprint, open_run
from fedq.simulation import begin

SMALL = {"clients": 3, "rounds": 2, "client.local_steps": 3, "client.batch_size": 8, "model.hidden": [16], "seed": 4}


def sites(config: RunConfig, folder: Path, hostile: Callable[..., Message] | None = None) -> LocalGrid:
    """The site's app behind a grid in this process, each site with a folder; `hostile` replies for the last."""
    told: dict[str, Any] = {"fedq-config": config.to_toml(), "fedq-id": "run-1"}

    def play(message: Message, context: Context) -> Message:
        k = int(context.node_config["partition-id"])
        context.node_config = {**context.node_config, "fedq-site": str(folder / f"site-{k}")}
        context.run_config = told
        if hostile and k == config.top.clients - 1 and message.metadata.message_type == "train":
            return hostile(message, site.app(message, context))
        return site.app(message, context)

    app: Any = play
    return LocalGrid(app, config.top.clients)


def play(
    config: RunConfig, folder: Path, first: int = 1, arrays: Any = None, **more: Any
) -> tuple[Simulation, list[RoundRecord]]:
    parts = deployed(build(config), sites(config, folder, **more), None, timeout=60)
    grid: DeployedGrid = parts.clients
    grid.wait_for_sites(seconds=10)
    return parts, list(parts.rounds(arrays or parts.initial, first, config.top.rounds))


def model(config: RunConfig, records_: list[RoundRecord]) -> str:
    """The fingerprint that a run directory has: of what is sent, and of what never is."""
    return fingerprint({**build(config).drawn, **records.to_arrays(records_[-1].arrays)})


def final(records_: list[RoundRecord]) -> str:
    return fingerprint(records.to_arrays(records_[-1].arrays))


def simulated(config: RunConfig) -> list[RoundRecord]:
    parts = build(config)
    return list(parts.rounds(parts.initial, 1, config.top.rounds))


STRATEGIES: dict[str, dict[str, Any]] = {
    "fedvote": {"strategy": "fedvote"},
    "fedvote with reputation": {"strategy": "fedvote", "strategy.weighting": "reputation"},
    "fedavg behind qsgd4": {"strategy": "fedavg", "codec": "qsgd4", "evaluate.clients": True},
    "fedpaq": {"strategy": "fedpaq"},
    "terngrad": {"strategy": "terngrad", "client.local_steps": 1},
    "fedau": {
        "strategy": "fedau",
        "strategy.state_at": "client",
        "participation": "bernoulli",
        "participation.mean": 0.6,
        "participation.correlated": False,
        "rounds": 5,
    },
    "steps enough for sums in another order": {"client.local_steps": 20, "client.batch_size": 32},
    "feddyn": {"strategy": "feddyn"},
    "fedlaw": {"strategy": "fedlaw"},
    "error feedback": {"strategy": "fedavg", "codec": "sign", "error_feedback": True},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_deployed_as_simulated(name: str, tmp_path: Path) -> None:
    """The same weights and metrics, bit for bit, and the same payload bytes."""
    config = make_config({**SMALL, **STRATEGIES[name]})
    _, there = play(config, tmp_path)
    here = simulated(config)
    assert final(there) == final(here)

    def lines(records_: list[RoundRecord]) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.metrics().items() if k != "seconds"} for r in records_]

    assert lines(there) == lines(here)


def test_sites_train_alone_what_a_simulation_trains_together(tmp_path: Path) -> None:
    """Nine clients are there a cohort of eight and one of one."""
    config = make_config({**SMALL, "clients": 9, "strategy": "fedavg", "data.partition": "iid"})
    assert final(play(config, tmp_path)[1]) == final(simulated(config))


@pytest.mark.parametrize("name", ["terngrad", "fedau", "error feedback"])
def test_a_server_that_goes_back(name: str, tmp_path: Path) -> None:
    """Rounds that are played again, from a checkpoint, find clients as they were; the end is the same."""
    config = make_config({**SMALL, **STRATEGIES[name], "rounds": 5})
    parts = deployed(build(config), sites(config, tmp_path), None, timeout=60)
    parts.clients.wait_for_sites(seconds=10)
    played, state = [], {}
    for record in parts.rounds(parts.initial, 1, 4):
        played.append(record)
        if record.round == 2:
            state = {"strategy": parts.state()["strategy"], "clients": {}}
    again = deployed(build(config), sites(config, tmp_path), None, timeout=60)
    again.restore(state)
    again.clients.wait_for_sites(seconds=10)
    rest = list(again.rounds(records.to_arrays(played[1].arrays), 3, 5))
    assert final(rest) == final(simulated(config))


PRIVATE: dict[str, Any] = {
    "strategy": "dp_lora", "model.name": "mlp", "model.norm": "none", "client.noise": 1.0, "client.batch_size": 16,
}  # fmt: skip


def test_what_was_released_stays_so_when_a_server_goes_back(tmp_path: Path) -> None:
    """Rounds 1 ... 5, then 3 ... 5 again by a server that knows of two: 8 rounds are released, and 8 are counted."""
    config = make_config({**SMALL, **PRIVATE, "rounds": 5})
    parts = deployed(build(config), sites(config, tmp_path), None, timeout=60)
    parts.clients.wait_for_sites(seconds=10)
    played = []
    for record in parts.rounds(parts.initial, 1, 5):
        played.append(record)
        if record.round == 2:
            state = {"strategy": parts.strategy.state(), "clients": {}}
    again = deployed(build(config), sites(config, tmp_path), None, timeout=60)
    again.restore(state)
    again.clients.wait_for_sites(seconds=10)
    rest = list(again.rounds(records.to_arrays(played[1].arrays), 3, 5))
    assert again.strategy.state()["releases"] == {str(k): 8 * 3 for k in range(3)}
    assert [r.rejected for r in rest] == [0] * 3
    assert all(one.epsilon > two.epsilon for one, two in zip(rest, played[2:], strict=True))  # type: ignore[operator]


TEXTS: dict[str, Any] = {
    "strategy": "dp_lora", "model.name": "tiny_lora", "model.tokens": 8, "rounds": 2, "client.local_steps": 3,
    "client.batch_size": 10, "client.noise": 1.0, "data.text_column": "body", "data.label_column": "topic",
}  # fmt: skip


@pytest.mark.parametrize("partition", ["by:site", "iid"])
def test_texts_deployed_as_simulated(partition: str, texts: Path, tmp_path: Path) -> None:
    """Private low-rank tuning: with noise that repeats the same weights; with secret noise the same epsilon."""
    made = {**TEXTS, "clients": 3, "data.dir": str(texts), "data.partition": partition}
    config = make_config({**made, "client.noise_seed": 1})
    assert final(play(config, tmp_path / "same")[1]) == final(simulated(config))
    config = make_config(made)
    there, here = play(config, tmp_path / "secret")[1], simulated(config)
    assert [r.epsilon for r in there] == [r.epsilon for r in here]
    assert 0 < there[0].epsilon < there[1].epsilon < 100  # type: ignore[operator]
    assert final(there) != final(here)
    for k in range(3):
        spent = json.loads((tmp_path / "secret" / f"site-{k}" / "state" / "run-1.ledger.json").read_text())
        assert spent["steps"] == [2 * 3]


def test_a_message_waits_for_a_process_that_a_killed_client_left(tmp_path: Path) -> None:
    """Both release; the second finds what the first has spent, and no process of the site writes over another's."""
    memory = Memory(tmp_path / "state" / "run")

    def release() -> None:
        with memory.alone():
            held: Any = memory.before(1, "train").get("ledger", ConfigRecord({"noise": [1.0], "steps": [0]}))
            time.sleep(0.05)
            held = ConfigRecord({**held, "steps": [held["steps"][0] + 1]})
            memory.keep(1, "train", RecordDict({"ledger": held}))

    threads = [threading.Thread(target=release) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.before(1, "train")["ledger"]["steps"] == [4]  # type: ignore[index]


def test_the_ledger_outlives_what_a_site_forgets(tmp_path: Path) -> None:
    """A message of round 1 finds it, and so does one after the run's folder is gone; one that is spoilt is told."""
    own = Examples(np.zeros((1, 1, 2, 2), np.uint8), np.zeros(1, np.int64))

    def spent(n: int) -> RecordDict:
        return RecordDict({"ledger": ConfigRecord({"noise": [1.0], "rate": [0.1], "steps": [n]})})

    memory = Memory(tmp_path / "old")
    memory.keep(5, "train", spent(50))
    assert memory.before(1, "train")["ledger"]["steps"] == [50]  # type: ignore[index]
    memory.keep(1, "train", spent(60))
    for name in ("a", "b", "c"):
        Memory(tmp_path / name).note({}, own)
    assert not memory.folder.exists()
    assert memory.before(1, "train")["ledger"]["steps"] == [60]  # type: ignore[index]
    (tmp_path / "old.ledger.json").write_text("{")
    with pytest.raises(FedqError, match=r"ledger old\.ledger\.json cannot be read") as error:
        memory.before(1, "train")
    assert error.value.code == "FQ205"


def forged(message: Message, content: RecordDict) -> Message:
    return Message(content, reply_to=message)


def changed(reply: Message, **arrays: Callable[[Array], Array]) -> RecordDict:
    """The content of a reply with its first array changed."""
    content = unbundled(reply.content)
    sent: Any = content["arrays"]
    first = next(iter(sent))
    made = {n: next(iter(arrays.values()))(a) if n == first else a for n, a in sent.items()}
    return bundled(RecordDict({**content, "arrays": ArrayRecord(made)}))


LIES: dict[str, Callable[[Message, Message], Message]] = {
    "shape": lambda m, r: forged(m, changed(r, f=lambda a: Array(a.dtype, (3, 3), a.stype, a.data))),
    "negative shape": lambda m, r: forged(m, changed(r, f=lambda a: Array(a.dtype, (-1, 1), a.stype, a.data))),
    "huge shape": lambda m, r: forged(m, changed(r, f=lambda a: Array(a.dtype, (2**30, 2**30), a.stype, a.data))),
    "dtype": lambda m, r: forged(m, changed(r, f=lambda a: Array("float64", a.shape, a.stype, a.data))),
    "stype": lambda m, r: forged(m, changed(r, f=lambda a: Array(a.dtype, a.shape, "numpy.ndarray", a.data))),
    "short": lambda m, r: forged(m, changed(r, f=lambda a: Array(a.dtype, a.shape, a.stype, a.data[:-1]))),
    "long": lambda m, r: forged(m, changed(r, f=lambda a: Array(a.dtype, a.shape, a.stype, a.data + b"x"))),
    "empty": lambda m, r: forged(m, changed(r, f=lambda a: Array(a.dtype, a.shape, a.stype, b""))),
    "nan": lambda m, r: forged(m, changed(r, f=lambda a: filled(a, np.nan))),
    "infinite": lambda m, r: forged(m, changed(r, f=lambda a: filled(a, np.inf))),
    "huge values": lambda m, r: forged(m, changed(r, f=lambda a: filled(a, 3e38))),
    "no records": lambda m, r: forged(m, RecordDict({})),
    "no bundle": lambda m, r: forged(m, RecordDict({"arrays": ArrayRecord({})})),
    "a bundle of noise": lambda m, r: forged(m, noise(bytes(range(256)))),
    "a record of noise": lambda m, r: forged(m, RecordDict({"bundle": ConfigRecord({"records": b"\xff" * 40})})),
    "a bundle of words": lambda m, r: forged(m, RecordDict({"bundle": ConfigRecord({"records": "words"})})),
    "two bundles": lambda m, r: forged(m, RecordDict({"bundle": r.content["bundle"], "more": MetricRecord({"n": 1})})),
    "a bundle in a bundle": lambda m, r: forged(m, bundled(bundled(RecordDict({})))),
    "config for metrics": lambda m, r: forged(m, with_metrics(r, ConfigRecord({"num-examples": 3, "train-loss": 0.1}))),
    "no examples": lambda m, r: forged(m, with_metrics(r, MetricRecord({"num-examples": 0, "train-loss": 0.1}))),
    "too many examples": lambda m, r: forged(
        m, with_metrics(r, MetricRecord({"num-examples": 2**40, "train-loss": 0.1}))
    ),
    "nan loss": lambda m, r: forged(m, with_metrics(r, MetricRecord({"num-examples": 3, "train-loss": float("nan")}))),
}


def filled(a: Array, value: float) -> Array:
    return Array(a.dtype, a.shape, a.stype, np.full(len(a.data) // 4, value, np.float32).tobytes())


def noise(data: bytes) -> RecordDict:
    return RecordDict({"bundle": ArrayRecord({"records": Array("uint8", (len(data),), "fedq.bundle", data)})})


def with_metrics(reply: Message, metrics: Any) -> RecordDict:
    return bundled(RecordDict({**unbundled(reply.content), "metrics": metrics}))


@pytest.fixture(scope="module")
def without_third(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights after a round whose third client only failed."""
    config = make_config({**SMALL, "strategy": "fedavg", "tolerate": 0.5, "rounds": 1})
    folder = tmp_path_factory.mktemp("failed")
    _, found = play(config, folder, hostile=lambda m, r: Message(Error(3, "gone"), reply_to=m))
    assert found[0].failed == 1
    return final(found)


@pytest.mark.parametrize("lie", LIES)
def test_a_client_that_lies(lie: str, tmp_path: Path, without_third: str) -> None:
    """It is rejected and counted, the round goes on, and ends as if the liar had not come."""
    config = make_config({**SMALL, "strategy": "fedavg", "tolerate": 0.5, "rounds": 1})
    _, found = play(config, tmp_path, hostile=LIES[lie])
    assert (found[0].clients, found[0].rejected, found[0].failed) == (2, 1, 0)
    assert final(found) == without_third


def test_a_reply_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_third: str) -> None:
    """It keeps nobody waiting, and counts as failed when the time is over."""
    monkeypatch.setattr("fedq.deploy.grid.STALL", 0.3)
    config = make_config({**SMALL, "strategy": "fedavg", "tolerate": 0.5, "rounds": 1})
    over = threading.Event()

    def hang(message: Message, reply: Message) -> Message:
        over.wait(60)
        return reply

    parts = deployed(build(config), sites(config, tmp_path, hang), None, timeout=20)
    parts.clients.wait_for_sites(seconds=20)
    parts.clients._timeout = 4
    try:
        found = list(parts.rounds(parts.initial, 1, 1))
    finally:
        over.set()
    assert (found[0].clients, found[0].failed) == (2, 1)
    assert final(found) == without_third


def test_the_liar_is_named(tmp_path: Path) -> None:
    config = make_config({**SMALL, "strategy": "fedavg", "rounds": 1})
    with pytest.raises(FedqError, match="client 2 was rejected in round 1") as stopped:
        play(config, tmp_path, hostile=LIES["short"])
    assert stopped.value.code == "FQ302"


def test_a_site_with_its_own_data(tmp_path: Path) -> None:
    """A folder of images at the site; shape and labels are checked against the run's, in words for both sides."""
    from PIL import Image

    from fedq.data.site import read_own

    folder = tmp_path / "images" / "train"
    for label in range(3):
        (folder / str(label)).mkdir(parents=True)
        for k in range(4):
            pixels = np.full((8, 8), 60 * label + k, np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{k}.png")
    told = {"shape": [1, 8, 8], "white": 255, "classes": 3, "labels": []}
    own = read_own(str(tmp_path / "images"), told)
    assert own.x.shape == (12, 1, 8, 8)
    assert sorted(own.y) == [0] * 4 + [1] * 4 + [2] * 4
    for wrong, said in (({"shape": [1, 28, 28]}, r"\[1, 8, 8\] up to 255, the run's \[1, 28, 28\]"),
                        ({"classes": 2}, "label 2, and the run has classes 0 ... 1"),
                        ({"white": 16}, "up to 255, the run's .* up to 16")):  # fmt: skip
        with pytest.raises(FedqError, match=said) as refused:
            read_own(str(tmp_path / "images"), {**told, **wrong})
        assert refused.value.code == "FQ202"
    shutil.rmtree(folder / "0")  # numbers would now be 0 and 1; names say which classes they are
    assert sorted(read_own(str(tmp_path / "images"), {**told, "labels": ["0", "1", "2"]}).y) == [1] * 4 + [2] * 4


def test_a_site_with_its_own_texts(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its labels are the run's by name, so it may lack some; an unknown one is refused; no copy stays in the cache."""
    import datasets

    from fedq.data import load
    from fedq.data.site import read_own, told_of

    columns = ("body", "topic")
    told = told_of(load("texts", str(texts), holdout=0.2, seed=0, columns=columns), columns)
    assert told == {"classes": 3, "labels": ["bone", "eye", "fever"], "columns": ["body", "topic"]}
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "some.csv").write_text("body,topic\nhot head,fever\nred lid,eye\nshivers,fever\n")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    own = read_own(str(folder), told)
    assert not (tmp_path / "cache").exists()
    assert (list(own.x), list(own.y)) == (["hot head", "red lid", "shivers"], [2, 1, 2])
    memory = Memory(tmp_path / "state" / "run")
    memory.note(told, own)
    again, noted = memory.noted()
    assert (again, list(noted.x), list(noted.y)) == (told, list(own.x), list(own.y))
    (folder / "some.csv").write_text("body,topic\nhot head,fever\nill,tooth\n")
    with pytest.raises(FedqError, match=r"label `tooth`, and the run's are bone, eye, fever"):
        read_own(str(folder), told)
    (folder / "some.csv").write_text("words,topic\nhot head,fever\nill,eye\n")
    with pytest.raises(FedqError, match="no column `body`"):
        read_own(str(folder), told)


def test_what_is_sent_is_what_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that is away is sent nothing; one that is restarted is sent its message twice."""
    monkeypatch.setattr("fedq.deploy.grid.LOOK", 0.0)
    config = make_config({**SMALL, "strategy": "fedavg", "tolerate": 0.5, "rounds": 1})
    nodes = Nodes(sites(config, tmp_path), away=2, restarted=1)
    parts = deployed(build(config), nodes, ("site-0", "site-1", "site-2"), timeout=3)
    assert parts.clients.wait_for_sites(0.5, seconds=1) == ["site-2"]
    (record,) = parts.rounds(parts.initial, 1, 1)
    assert (record.clients, record.failed) == (2, 1)
    assert [to for to, _ in nodes.pushed] == [1, 2, 2]
    model = sum(x.nbytes for x in parts.initial.values())
    assert record.down_bytes == sum(n for _, n in nodes.pushed) == 3 * model


class Nodes(PassingGrid):
    """Names for the nodes of a grid; one of them is away, and one is killed by its first training message."""

    def __init__(self, grid: LocalGrid, away: int, restarted: int) -> None:
        super().__init__(grid)
        self.pushed = list[tuple[int, int]]()  # payload bytes of each training message, and the node it went to
        self._away, self._restarted, self._at = away, restarted + 1, "morning"

    def get_nodes(self) -> list[Any]:
        """Those that are there, and since when."""
        since = {self._restarted: self._at}
        there = [k for k in self._grid.get_node_ids() if k != self._away + 1]
        return [SimpleNamespace(node_id=k, name=f"site-{k - 1}", last_activated_at=since.get(k, "")) for k in there]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Push, but lose what kills its client."""
        ids = []
        for message in messages:
            to, kind = message.metadata.dst_node_id, message.metadata.message_type
            if kind == "train":
                self.pushed.append((to, payload_bytes(unbundled(message.content))))
                if to == self._restarted and self._at == "morning":
                    self._at = "noon"
                    ids.append("lost")
                    continue
            ids += self._grid.push_messages([message])
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Pull what was not lost."""
        return list(self._grid.pull_messages([i for i in message_ids if i != "lost"]))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Not called: `DeployedGrid` pushes and pulls."""
        raise NotImplementedError


def test_a_site_of_another_version_refuses(tmp_path: Path) -> None:
    config = make_config({**SMALL, "rounds": 1})
    parts = deployed(build(config), sites(config, tmp_path), None, timeout=60)
    grid = parts.clients
    grid._hello = ConfigRecord({**grid._hello, "fedq": "0.0.0"})
    with pytest.raises(FedqError, match=r"3 of 3 sites cannot take part: .*the server has fedq 0.0.0") as refused:
        grid.wait_for_sites(seconds=5)
    assert refused.value.code == "FQ207"


def test_a_site_that_is_mended_is_not_held_against_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One refuses and is mended while another is still starting: both are waited for."""
    config = make_config({**SMALL, "rounds": 1})
    grid = DeployedGrid(sites(config, tmp_path), 2, ("a", "b"), {}, timeout=60)
    looks = iter(
        [({"a": "old fedq"}, ()), ({}, (0,)), ({}, ()), ({}, (1,))]  # who refuses, and who is greeted, in each look
    )

    def greet(*_: object) -> dict[str, str]:
        refused, greeted = next(looks)
        grid.sites.update({k: ConfigRecord() for k in greeted})
        return refused

    monkeypatch.setattr(grid, "_greet", greet)
    monkeypatch.setattr(grid, "_online", dict)
    monkeypatch.setattr("fedq.deploy.grid.POLL", 0.01)
    with pytest.raises(FedqError, match="a: old fedq"):
        DeployedGrid.wait_for_sites(grid, seconds=0.0)
    assert grid.wait_for_sites(seconds=30) == []


def test_odd_answers_to_hello_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that leaves out what it is asked, or says it in bytes, is one that is missing."""
    config = make_config({**SMALL, "rounds": 1})
    answered = site._hello

    def odd(message: Message, context: Context) -> Message:
        reply = answered(message, context)
        said = dict(reply.content.config_records["config"])
        if said["partition"] == 0:
            del said["kernels"]
        if said["partition"] == 1:
            said["kernels"] = b"avx2"
        reply.content["config"] = ConfigRecord(said)
        return reply

    monkeypatch.setattr(site, "_hello", odd)
    parts = deployed(build(config), sites(config, tmp_path), None, timeout=60)
    with pytest.raises(FedqError, match=r"2 of 3 sites cannot take part: .*an answer that no site gives"):
        parts.clients.wait_for_sites(seconds=5)
    assert set(parts.clients.sites) == {2}


class Away:
    """A grid whose SuperLink is gone."""

    def get_nodes(self) -> None:
        """Ask where nobody answers."""
        httpx.get("http://127.0.0.1:1")


def test_a_run_whose_server_is_lost_before_it_begins(tmp_path: Path) -> None:
    """It is no failure: it can go on. Nor does it begin when whoever submitted it has left."""
    run, _ = begin(make_config({**SMALL}), tmp_path)
    told = {"fedq-run": str(run.path), "fedq-config": "", "fedq-out": "", "fedq-sites": "site-0 site-1 site-2"}
    context: Any = SimpleNamespace(run_id=1, run_config={**told, "fedq-timeout": 60, "fedq-wait": 60})
    grid: Any = Away()
    run.update(status="submitted", deployed=True)
    run.release()
    with pytest.raises(RuntimeError, match="the SuperLink does not answer"):
        main(grid, context)
    assert run.status == "interrupted"
    with pytest.raises(FedqError, match="stopped before it began"):
        main(grid, context)
    open_run(run.path, lock=True).release()


def test_memory(tmp_path: Path) -> None:
    """The state before a message is that after the one before it; a past that is played again is forgotten."""

    def state(n: int) -> RecordDict:
        return RecordDict({"n": ConfigRecord({"n": n})})

    def held(round_: int, kind: str) -> Any:
        found = memory.before(round_, kind)
        return found["n"]["n"] if found else None  # type: ignore[index]

    memory = Memory(tmp_path / "run")
    assert held(1, "train") is None
    for round_ in (1, 2, 5):
        memory.keep(round_, "query", state(10 * round_))
        memory.keep(round_, "train", state(10 * round_ + 1))
    assert (held(5, "train"), held(5, "query"), held(6, "query"), held(1, "query")) == (50, 21, 51, None)
    memory.keep(2, "train", state(99))
    assert (held(6, "query"), held(2, "train")) == (99, 20)
    for round_ in range(3, 30):
        memory.keep(round_, "train", state(round_))
    assert len(list((tmp_path / "run").glob("*.bin"))) == 8
    assert held(30, "train") == 29
    assert held(1, "query") is None
    with pytest.raises(FedqError, match="no longer has what it remembered before round 9") as gone:
        held(9, "train")
    assert gone.value.code == "FQ205"


def test_a_client_that_keeps_nothing_writes_nothing(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "run")
    memory.keep(1, "train", RecordDict())
    assert not (tmp_path / "run").exists()


def test_bundle() -> None:
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.arange(3.0))}), "m": MetricRecord({"loss": 0.5})})
    packed = bundled(content)
    assert to_bytes(unbundled(packed)) == to_bytes(content)
    assert unbundled(content) is content
    large = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(PIECE, np.uint8))})})
    assert isinstance(bundled(large)["bundle"], ArrayRecord)  # in pieces
    assert to_bytes(unbundled(bundled(large))) == to_bytes(large)
    with pytest.raises(FedqError, match="cannot be read"):
        unbundled(noise(b"\xff" * 40))


def test_app_objects() -> None:
    assert isinstance(site.app, ClientApp)
