"""The flags of `fedq simulate` that are settings of a run, and the keys they stand for."""

from pathlib import Path
from typing import Annotated, TypeAlias

from typer import Option

from fedq.cli.complete import among, of

SECTION = {
    "strategy": "strategy.name",
    "codec": "codec",
    "error_feedback": "error_feedback",
    "data": "data.name",
    "data_dir": "data.dir",
    "text_column": "data.text_column",
    "label_column": "data.label_column",
    "test_share": "data.holdout",
    "model": "model.name",
    "clients": "clients",
    "per_round": "per_round",
    "participation": "participation.name",
    "rounds": "rounds",
    "local_steps": "client.local_steps",
    "batch_size": "client.batch_size",
    "lr": "client.lr",
    "epsilon": "client.epsilon",
    "delta": "client.delta",
    "partition": "data.partition",
    "attack": "attack",
    "seed": "seed",
    "tolerate": "tolerate",
    "engine": "engine",
    "workers": "workers",
    "ray_address": "ray_address",
    "device": "device",
    "precision": "precision",
}

Strategy: TypeAlias = Annotated[
    str | None,
    Option(help="fedvote (default), fedavg, fedpaq, signsgd ...: fedq show strategies", autocompletion=of("strategy")),
]
Codec: TypeAlias = Annotated[
    str | None, Option(help="How updates travel: fedq show codecs.", autocompletion=of("codec"))
]
ErrorFeedback: TypeAlias = Annotated[bool | None, Option("--error-feedback", help="Send next what packing lost.")]
Data: TypeAlias = Annotated[
    str | None,
    Option(
        help="digits (default), mnist, fashion_mnist, cifar10, or owner/name of the hub.", autocompletion=of("data")
    ),
]
DataDir: TypeAlias = Annotated[Path | None, Option(help="Read the data from this folder, in the hub's layout.")]
TextColumn: TypeAlias = Annotated[str | None, Option(help="Data are texts: the column they stand in.")]
LabelColumn: TypeAlias = Annotated[str | None, Option(help="The column of their labels.")]
TestShare: TypeAlias = Annotated[float | None, Option(help="Share held out for testing, without a test split.")]
Model: TypeAlias = Annotated[
    str | None,
    Option(help="mlp (default), lenet5, fedvote_lenet5 ...: fedq show models", autocompletion=of("model")),
]
Clients: TypeAlias = Annotated[int | None, Option(help="Partitions of the data, each one client; default 20.")]
PerRound: TypeAlias = Annotated[int | None, Option(help="Clients that take part in a round; default all.")]
Participation: TypeAlias = Annotated[
    str | None,
    Option(
        help="Who comes when: bernoulli, markov, cyclic; default full, or --per-round at random.",
        autocompletion=of("participation"),
    ),
]
Rounds: TypeAlias = Annotated[int | None, Option(help="Rounds of training; default 20.")]
LocalSteps: TypeAlias = Annotated[int | None, Option(help="Minibatch steps of a client in a round; default 20.")]
BatchSize: TypeAlias = Annotated[int | None, Option(help="Examples in a minibatch; default 32.")]
Lr: TypeAlias = Annotated[float | None, Option(help="Learning rate; default 0.05, 0.005 for signsgd.")]
Epsilon: TypeAlias = Annotated[float | None, Option(help="Privacy that dp_lora may spend in all rounds; default 8.")]
Delta: TypeAlias = Annotated[float | None, Option(help="The delta that goes with it; default 1e-5.")]
Partition: TypeAlias = Annotated[
    str | None,
    Option(
        help="iid, dirichlet:A, fedau:A, by:COLUMN; default dirichlet:0.5.",
        autocompletion=among("iid", "dirichlet:", "fedau:", "by:"),
    ),
]
Attack: TypeAlias = Annotated[
    str | None,
    Option(
        metavar="NAME:SHARE",
        help="Clients that attack, a share or a number: fedq show attacks.",
        autocompletion=of("attack"),
    ),
]
Seed: TypeAlias = Annotated[int | None, Option(help="Every random choice follows from it; default 0.")]
Tolerate: TypeAlias = Annotated[float | None, Option(help="Share of a round's clients that may fail; default 0.")]
Engine: TypeAlias = Annotated[
    str | None,
    Option(help="local (default: threads) or ray; never changes a result.", autocompletion=among("local", "ray")),
]
Workers: TypeAlias = Annotated[
    int | None, Option(help="How many train at once; above 1, on Ray unless --engine local.")
]
RayAddress: TypeAlias = Annotated[str | None, Option(help="Join this Ray cluster: auto or HOST:PORT.")]
Device: TypeAlias = Annotated[
    str | None, Option(help="cpu (default) or cuda: where clients train.", autocompletion=among("cpu", "cuda"))
]
Precision: TypeAlias = Annotated[
    str | None,
    Option(help="fp32 (default) or bf16: of the products in training.", autocompletion=among("fp32", "bf16")),
]
