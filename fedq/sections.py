"""The keys of a run's configuration that are no part's: top level, `[data]` and `[evaluate]`."""

from typing import Literal

from pydantic import Field
from pydantic.fields import FieldInfo

from fedq.data.augment import AUGMENTATIONS
from fedq.options import Options


class DataOptions(Options):
    """`[data]` keys."""

    name: str = Field(
        "digits",
        description="a data set: digits, mnist, fashion_mnist, cifar10 or owner/name of the hub",
    )
    dir: str = Field("", description="a folder in the hub's layout to read it from")
    text_column: str | None = Field(None, description="the column of the texts, where data are texts")
    label_column: str | None = Field(None, description="the column of their labels")
    partition: str = Field("dirichlet:0.5", description="iid, dirichlet:ALPHA, fedau:ALPHA or by:COLUMN")
    per_client: int | None = Field(
        None,
        ge=1,
        description="examples that each client draws for itself; not given: partitions are disjoint"
        ", or 50 each where there are more clients than examples",
    )
    holdout: float = Field(0.2, gt=0, lt=1, description="share held out for testing where there is no test split")
    scale: Literal["standard", "unit"] = Field(
        "standard",
        description="of pixels: standard (each channel mean 0, deviation 1) or unit (black -1, white 1)",
    )
    augment: str = Field(
        "none",
        description=f"random changes of training images: {', '.join(AUGMENTATIONS)}",
    )


class EvaluateOptions(Options):
    """`[evaluate]` keys."""

    every: int = Field(1, ge=1, description="rounds between evaluations; the last round is always evaluated")
    batch_size: int = Field(100, ge=2, description="examples in a batch; batch norm sees them together")
    clients: bool = Field(
        False,
        description="also evaluate on clients, each on a share of its data kept from training",
    )
    kept: float = Field(0.2, gt=0, lt=1, description="that share")


class Scalars(Options):
    """Top-level keys."""

    seed: int = Field(0, ge=0, lt=2**63, description="every random choice follows from it")
    rounds: int = Field(20, ge=1, description="rounds of training")
    clients: int = Field(20, ge=1, le=10**9, description="partitions of the data, each one client")
    per_round: int | None = Field(None, ge=1, description="clients that take part in a round; all if not given")
    codec: str = Field("float32", description="how arrays travel up")
    downlink: str = Field("float32", description="how arrays travel down")
    error_feedback: bool = Field(False, description="what packing lost is added to what a client sends next")
    attack: str | None = Field(None, description="NAME:SHARE: clients that want the model to fail; fedq show attacks")
    tolerate: float = Field(0.0, ge=0, le=1, description="share of clients that may fail in a round")
    engine: Literal["local", "ray"] | None = Field(
        None, description="local or ray; ray if workers > 1 or a ray_address is given"
    )
    workers: int | None = Field(None, ge=1, description="threads (local) or actors (ray) that train clients")
    ray_address: str | None = Field(None, description="auto or HOST:PORT: a running Ray cluster to join")
    device: Literal["cpu", "cuda"] | None = Field(None, description="cpu (default) or cuda: where networks are trained")
    precision: Literal["fp32", "bf16"] | None = Field(
        None, description="fp32 (default) or bf16: of the products in training; weights and evaluation stay fp32"
    )
    data: DataOptions = DataOptions()
    evaluate: EvaluateOptions = EvaluateOptions()


def common() -> dict[str, FieldInfo]:
    """Every key that is no part's, dotted: those of the top level, then those of its tables."""
    top, below = dict[str, FieldInfo](), dict[str, FieldInfo]()
    for key, field in Scalars.model_fields.items():
        if isinstance(field.default, Options):
            below |= {f"{key}.{inner}": found for inner, found in type(field.default).model_fields.items()}
        else:
            top[key] = field
    return top | below
