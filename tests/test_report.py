"""`fedq report`: one file that stands alone, true to the runs, and readable in a browser."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

Fedq = Callable[..., tuple[int, str, str]]
VOID = {"meta", "link", "br", "img", "hr"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Tags in balance, and everything that the page would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [v or "" for k, v in attrs if k == "id"]
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "data", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [v or "" for k, v in attrs if k == "id"]
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]


def reported(fedq: Fedq, *words: str) -> str:
    status, out, err = fedq("report", *words)
    assert status == 0, err
    return Path(out.strip()).read_text()


def test_one_run(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """In its directory; what was sent in each round; what was set; and a command that repeats it."""
    from fedq.config import load_config
    from fedq.runs import open_run

    fedq("simulate", *tiny, "--quiet", "--lr", "0.07", "--codec", "ternary", "--attack", "inverse:1")
    (run,) = Path("runs").iterdir()
    page = reported(fedq, str(run))
    assert (run / "report.html").exists()
    checked = Page(page)
    assert all(f.startswith(("#", "data:,")) for f in checked.fetched)
    assert len(checked.ids) == len(set(checked.ids))
    assert "<script" not in page
    assert "url(http" not in page
    assert len(page) < 1_000_000
    for m in open_run(run).records():
        assert f"<td>{m['up_bytes']:,}</td>" in page
    assert "<mark>0.07</mark>" in page
    assert "<mark>ternary</mark>" in page
    (command,) = re.findall(r"<code>(fedq simulate .*?)</code>", page)
    _, *words = shlex.split(unescape(command))
    Path("again.toml").write_text(fedq(*words, "--print-config")[1])
    assert load_config("again.toml").hash == load_config(run).hash


@pytest.mark.parametrize(
    "words",
    [
        ("--strategy", "terngrad"),
        ("--strategy", "fedau", "--participation", "markov"),
        ("--strategy", "fedavg", "--set", "client.name=fedprox", "--set", "client.local_epochs=1"),
        ("--strategy", "signsgd", "--per-round", "3", "--set", "model.norm=none"),
        ("--strategy", "fedpaq", "--codec", "topk10", "--error-feedback", "--set", "evaluate.clients=true"),
    ],
)
def test_the_repeating_command_says_the_whole_config(fedq: Fedq, words: tuple[str, ...]) -> None:
    from fedq.cli.repeat import flags
    from fedq.config import load_config

    for given in (words, (*words, "--model", "lenet5", "--seed", "4")):
        if "model.norm=none" in given and "lenet5" in given:
            continue
        status, toml, err = fedq("simulate", *given, "--print-config")
        assert status == 0, err
        Path("first.toml").write_text(toml)
        again = fedq("simulate", *flags(load_config("first.toml")), "--print-config")[1]
        assert again == toml


def test_several_runs(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    """The comparison's numbers, differences marked, every run's ledger, and a file where it was asked for."""
    for strategy in ("fedvote", "fedavg"):
        for seed in ("0", "1"):
            fedq("simulate", *tiny, "--strategy", strategy, "--seed", seed, "--quiet")
    page = reported(fedq, "runs", "--out", "out/r.html")
    Page(page)
    assert page.count("<figure>") == 4
    rows = json.loads(fedq("compare", "runs", "--json")[1])["rows"]
    assert all(f"{row['accuracy']:.4f} +- {row['accuracy_std']:.4f}" in page for row in rows)
    assert "<mark>binary</mark>" in page
    assert "<mark>2</mark>" not in page
    assert page.count("fedq simulate") >= 4


def test_credibility_and_attackers(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    from fedq.attacks import attackers

    fedq("simulate", *tiny, "--quiet", "--attack", "inverse:1", "--set", "strategy.weighting=reputation")
    page = reported(fedq, "runs")
    (bad,) = attackers("inverse:1", 4, 0).partitions
    assert f"credibility of each client, fedvote binary under inverse:1, seed 0; attackers in red: {bad}" in page


def test_privacy_where_it_was_counted(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    fedq("simulate", *tiny, "--quiet")
    (run,) = Path("runs").iterdir()
    assert "Privacy" not in reported(fedq, str(run))
    file = run / "metrics.jsonl"
    lines = [json.loads(line) | {"epsilon": 0.5 * i} for i, line in enumerate(file.read_text().splitlines(), 1)]
    file.write_text("".join(json.dumps(m) + "\n" for m in lines))
    page = reported(fedq, str(run))
    assert "epsilon = 1 after 2 rounds" in page
    assert "Privacy spent (epsilon) by round" in page


def test_long_runs_stay_below_a_megabyte(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    for seed in ("0", "1", "2"):
        fedq("simulate", *tiny, "--seed", seed, "--quiet")
    for file in Path("runs").glob("*/metrics.jsonl"):
        one = json.loads(file.read_text().splitlines()[0])
        file.write_text("".join(json.dumps(one | {"round": r}) + "\n" for r in range(1, 2001)))
    page = reported(fedq, "runs")
    assert len(page) < 1_000_000
    assert "of 2000 rounds; metrics.jsonl has all" in page


def test_nothing_that_a_run_holds_becomes_markup(fedq: Fedq, tiny: tuple[str, ...]) -> None:
    fedq("simulate", *tiny, "--quiet")
    (run,) = Path("runs").iterdir()
    about = json.loads((run / "run.json").read_text()) | {"error": "<script>alert(1)</script>"}
    (run / "run.json").write_text(json.dumps(about))
    assert "<script>" not in reported(fedq, str(run))


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no browser")
def test_in_a_browser(fedq: Fedq, tiny: tuple[str, ...], tmp_path: Path) -> None:
    """Phone and desktop, light and dark: something is drawn, in the right colours, nothing is wider than the screen."""
    for words in ((), ("--strategy", "fedavg"), ("--attack", "inverse:1", "--set", "strategy.weighting=reputation")):
        fedq("simulate", *tiny, *words, "--quiet")
    page = reported(fedq, "runs", "--out", "report.html")
    for width in (390, 1280):
        framed = f'<iframe style="width:{width}px;height:900px" srcdoc="{escape(page)}"></iframe>'
        script = "f.onload = () => { document.title = 'width ' + f.contentDocument.documentElement.scrollWidth }"
        Path("frame.html").write_text(
            f"<!doctype html>{framed}<script>f = document.querySelector('iframe'); {script}</script>"
        )
        dom, _ = browse("--dump-dom", "--virtual-time-budget=3000", (tmp_path / "frame.html").as_uri())
        assert int(re.findall(r"<title>width (\d+)", dom)[0]) <= width
        for dark in (0, 1):
            picture = tmp_path / f"{width}-{dark}.png"
            scheme = f"--blink-settings=preferredColorScheme={1 - dark}"
            size = f"--window-size={width},1600"
            _, said = browse(f"--screenshot={picture}", size, scheme, (tmp_path / "report.html").as_uri())
            assert "CONSOLE" not in said
            look(picture, dark=bool(dark))


def browse(*words: str) -> tuple[str, str]:
    flags = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
        --disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --user-data-dir=profile"""
    done = subprocess.run(
        [str(BROWSER), *flags.split(), *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": "."},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def look(picture: Path, *, dark: bool) -> None:
    """Paper in the corner, and enough ink of the other kind."""
    from PIL import Image

    grey = np.asarray(Image.open(picture).convert("L"))
    assert (grey[:5, :5] < 60).all() if dark else (grey[:5, :5] > 240).all()
    ink = (grey > 170) if dark else (grey < 90)
    assert 0.005 < ink.mean() < 0.3
