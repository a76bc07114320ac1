"""The configuration of a run: TOML and flags in, one frozen checked object out, and back to TOML.

The strategy brings defaults of its own; each part (strategy, client, model) checks the keys of its section with its own
`Options`. Errors quote what the user wrote and where.
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, final

from pydantic import ValidationError

from fedq.attacks import parse as parse_attack
from fedq.clients import CLIENTS, client
from fedq.data.augment import augmentation
from fedq.data.partition import parse as parse_partition
from fedq.errors import FedqError, nearest
from fedq.kernels import codec
from fedq.models import MODELS, model
from fedq.options import Options
from fedq.participation import PARTICIPATION, participation
from fedq.plugins import names
from fedq.sections import DataOptions, EvaluateOptions, Scalars, common
from fedq.settings import Setting, Settings, flatten, nest, read_toml
from fedq.strategies import STRATEGIES, strategy

V = TypeVar("V")

PARTS: dict[str, tuple[Callable[[str], Any], Mapping[str, Any]]] = {
    "strategy": (strategy, STRATEGIES),
    "client": (client, CLIENTS),
    "model": (model, MODELS),
    "participation": (participation, PARTICIPATION),
}
FIXED = ("full", "uniform")  # participation in which the same number of clients comes in every round
EITHER = {"client.local_steps": "client.local_epochs", "client.local_epochs": "client.local_steps"}
CHECKED = {
    "codec": codec,
    "downlink": codec,
    "data.partition": parse_partition,
    "data.augment": augmentation,
    "attack": parse_attack,
}  # keys whose values are words with a meaning
NOT_HASHED = {"data.dir", "workers", "engine", "ray_address"}  # they change where a run happens, never its bits


@dataclass(frozen=True)
class Part:
    """A named part of a run and its checked options."""

    name: str
    options: Any


@final
@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run's bits, checked; made by `resolve`, `load_config` or `make_config`."""

    top: Scalars
    strategy: Part
    client: Part
    model: Part
    participation: Part
    origins: Settings = field(default_factory=dict, compare=False, repr=False)  # where the user gave each key

    @property
    def per_round(self) -> int:
        """Clients that take part in a round, at most."""
        return self.top.per_round or self.top.clients

    @property
    def engine(self) -> str:
        """Local or ray: what is given, else what follows from `workers` and `ray_address`."""
        top = self.top
        return top.engine or ("ray" if top.ray_address or (top.workers or 1) > 1 else "local")

    def as_dict(self) -> dict[str, Any]:
        """The resolved configuration as nested plain values, in the order of run.toml."""
        top = self.top.model_dump(mode="json", exclude_none=True)
        sections = {k: top.pop(k) for k in ("data", "evaluate")}
        parts = {k: getattr(self, k) for k in PARTS}
        if self.participation.name in FIXED:
            del parts["participation"]  # per_round says it
        named = {k: {"name": p.name, **p.options.model_dump(mode="json", exclude_none=True)} for k, p in parts.items()}
        return {**top, **named, **sections}

    def to_toml(self) -> str:
        """The text of run.toml."""
        import tomli_w

        return tomli_w.dumps(self.as_dict())

    @cached_property
    def hash(self) -> str:
        """SHA-256 over every key that determines the bits, in hexadecimal."""
        return hash_of(self.as_dict())

    def with_(self, **changes: Any) -> "RunConfig":
        """A copy with some keys changed; write dots as double underscores: `cfg.with_(seed=1, client__lr=0.1)`.

        A new strategy, client, model or participation starts from its own defaults, and a new strategy from its own
        client, its own codec and whatever else stands in the `defaults` of the one before.
        """
        given = named(flatten({k.replace("__", "."): v for k, v in changes.items()}))
        now = flatten(self.as_dict())
        gone = replaced(now, given, also_chosen=True)
        partition = given.get("data.partition", self.top.data.partition)
        if str(partition).startswith("by:") and "clients" not in self.origins:
            gone.add("clients")  # the data say how many
        if given.get("data.dir") and now["data.name"] == "digits":
            gone.add("data.name")  # the folder's, as in a config of its own
        return make_config({**{k: v for k, v in now.items() if k not in gone}, **given})


def hash_of(values: Mapping[str, Any]) -> str:
    """The hash of a resolved config's keys, as `RunConfig.as_dict` or a run.toml gives them."""
    kept = {k: v for k, v in flatten(values).items() if k not in NOT_HASHED}
    if str(kept.get("data.partition", "")).startswith("by:"):
        kept.pop("clients", None)  # it follows from the data
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def keys() -> list[str]:
    """Every key there is, dotted: those of all runs, then those of each part that is registered."""
    found = list(common())
    for part, (find, registry) in PARTS.items():
        for name in names(part, registry):
            with suppress(FedqError):  # some need a package that is not installed
                found += [f"{part}.{k}" for k in find(name).Options.model_fields]
    return list(dict.fromkeys(found))


def make_config(values: Mapping[str, Any] | None = None, **more: Any) -> RunConfig:
    """A config from dotted or nested keys: `make_config({"client.lr": 0.1}, strategy={"name": "fedavg"}, seed=1)`."""
    flat = flatten({**(values or {}), **more})
    return resolve({key: Setting(value, f"{key} = {value!r}") for key, value in flat.items()})


def load_config(path: str | Path) -> RunConfig:
    """The config of a TOML file."""
    return resolve(read_toml(path))


def resolve(settings: Settings) -> RunConfig:
    """Check settings and add defaults. FedqError for the first wrong one; the others stand in its `also`."""
    settings = named(settings)
    errors: list[FedqError] = []
    folder = settings.get("data.dir", Setting(""))
    if folder.value and isinstance(folder.value, str):  # the run may go on from another working directory
        settings["data.dir"] = replace(folder, value=str(Path(folder.value).expanduser().absolute()))
    if folder.value and "data.name" not in settings:
        settings["data.name"] = Setting(Path(str(folder.value)).name or "data", folder.where, folder.from_file)
    name = settings.get("strategy.name", Setting("fedvote"))
    chosen = _attempt([], name, lambda: strategy(name.value)) or _alike("strategy", name)
    defaults = flatten(chosen.defaults)
    merged = {"client.name": Setting("sgd"), "model.name": Setting("mlp"), "strategy.name": name}
    merged["participation.name"] = Setting("uniform" if "per_round" in settings else "full")
    merged |= {k: Setting(v) for k, v in defaults.items() if not _overridden(k, settings, defaults)} | dict(settings)
    _check_either(settings, errors)
    parts = {part: _part(part, merged, errors) for part in PARTS}
    kinds = {name: type(part.options) for name, part in parts.items() if part}
    top = _checked(Scalars, "", {k: s for k, s in merged.items() if k.split(".")[0] not in PARTS}, errors, kinds)
    for key, check in CHECKED.items():
        if isinstance(merged.get(key, Setting(None)).value, str):  # of another type: told above
            _attempt(errors, merged[key], lambda key=key, check=check: check(merged[key].value))
    _check_per_round(merged, errors)
    _check_engine(merged, errors)
    if errors:
        errors[0].also = tuple(errors[1:])
        raise errors[0]
    assert top is not None
    defaults = {"per_round": top.clients, "device": "cpu", "precision": "fp32"}  # same run, same hash
    top = top.model_copy(update={k: None for k, v in defaults.items() if getattr(top, k) == v})
    made = {name: part for name, part in parts.items() if part}
    if made["participation"].name in FIXED and top.per_round is None:
        made["participation"] = Part("full", participation("full").Options())
    return RunConfig(top=top, **made, origins=merged)


@contextmanager
def blaming(settings: Settings) -> Iterator[None]:
    """Say of a FedqError that names a setting where the user gave it."""
    try:
        yield
    except FedqError as error:
        given = settings.get(error.key, Setting(None))
        if not error.key or error.where:
            raise
        where = given.where or f"{error.key} = {given.value} (a default)" if given.value is not None else error.key
        raise FedqError(error.code, error.message, where=where, hint=error.hint, from_file=given.from_file) from error


def over(file: Settings, given: Settings) -> dict[str, Setting]:
    """A file's settings with others over them; what those replace takes its own along.

    Under another strategy, the file's keys of the old one do not stand.
    """
    given, file = named(given), named(file)
    gone = replaced({k: s.value for k, s in file.items()}, {k: s.value for k, s in given.items()})
    return {k: s for k, s in file.items() if k not in gone} | given


def replaced(now: Mapping[str, Any], given: Mapping[str, Any], *, also_chosen: bool = False) -> set[str]:
    """The dotted keys of `now` that do not stand where `given` comes over it.

    They are the keys of a part that both name, differently; the one of two keys that say the same; and, under another
    strategy, what the old one brought along, `also_chosen` or only where it is still as brought.
    """
    changed = {p for p in PARTS if (old := now.get(f"{p}.name")) is not None and given.get(f"{p}.name", old) != old}
    gone = {k for k in now if EITHER.get(k) in given or ("." in k and k.split(".")[0] in changed)}
    if "strategy" in changed:
        own, new = _brought(now["strategy.name"]), _brought(given["strategy.name"])
        brought = {"client.name": "sgd", "codec": "float32", "downlink": "float32", **own}
        gone |= {k for k, v in now.items() if k in brought and v == brought[k]}
        if also_chosen:
            gone |= {k for k in now if k in own or k == "codec" or k.startswith("client.")}
        elif "client.name" in gone - given.keys():
            gone |= {k for k in now if k.startswith("client.")}
        if "model.name" in {**own, **new} and now.get("model.name") == own.get("model.name", "mlp"):
            gone |= {k for k in now if k.startswith("model.")}
    return gone


def _brought(name: Any) -> dict[str, Any]:
    """The settings that a strategy brings along; none if there is no such strategy."""
    try:
        return flatten(strategy(name).defaults) if isinstance(name, str) else {}
    except FedqError:
        return {}


def named(keys: Mapping[str, V]) -> dict[str, V]:
    """Dotted keys, with a part's bare name written out: `strategy` is `strategy.name`."""
    return {f"{k}.name" if k in (*PARTS, "data") else k: v for k, v in keys.items()}


def _overridden(key: str, settings: Settings, defaults: Mapping[str, Any]) -> bool:
    """Whether the user chose otherwise: the one of two keys, or a client that the strategy's settings are not for."""
    if EITHER.get(key) in settings:
        return True
    theirs = settings.get("client.name")
    return key.startswith("client.") and theirs is not None and theirs.value != defaults.get("client.name", "sgd")


def _check_per_round(merged: Settings, errors: list[FedqError]) -> None:
    """A number of clients per round that cannot be, or that its participation does not go with."""
    given, name = merged.get("per_round", Setting(None)), merged["participation.name"]
    clients = merged.get("clients", Setting(Scalars.model_fields["clients"].default)).value
    per_round = given.value if type(given.value) is int else None
    wrong, hint = "", ""
    if per_round is not None and type(clients) is int and per_round > clients > 0:
        wrong = f"{per_round} clients per round, but there are {clients} clients"
        hint = "raise --clients or lower --per-round"
    elif per_round is not None and name.value != "uniform" and name.value in PARTICIPATION:
        wrong = f"{per_round} clients per round, but participation `{name.value}` says itself who comes"
        hint = "leave --per-round out, or use --participation uniform"
    elif given.value is None and name.value == "uniform":
        wrong, hint, given = "participation `uniform` of how many clients?", "give --per-round", name
    if wrong:
        errors.append(FedqError("FQ105", wrong, where=given.where, from_file=given.from_file, hint=hint))


def _check_engine(merged: Settings, errors: list[FedqError]) -> None:
    given = merged.get("ray_address", Setting(None))
    if given.value and merged.get("engine", Setting(None)).value == "local":
        wrong, hint = "engine `local` joins no Ray cluster", "leave out --engine, or --ray-address"
        errors.append(FedqError("FQ105", wrong, where=given.where, from_file=given.from_file, hint=hint))


def _check_either(settings: Settings, errors: list[FedqError]) -> None:
    steps, epochs = (settings.get(key) for key in EITHER)
    if steps and epochs:
        errors.append(
            FedqError(
                "FQ105",
                "`client.local_steps` and `client.local_epochs` are both given, and one says it all",
                where=f"{steps.where}, {epochs.where}",
                from_file=steps.from_file and epochs.from_file,
                hint="leave one of them out",
            )
        )


def _part(part: str, merged: Settings, errors: list[FedqError]) -> Part | None:
    find, _ = PARTS[part]
    name = merged[f"{part}.name"]
    found = _attempt(errors, name, lambda: find(name.value)) or _alike(part, name)
    own = {k: s for k, s in merged.items() if k.startswith(f"{part}.") and k != f"{part}.name"}
    options = _checked(found.Options, f"{part}.", own, errors)
    return Part(name.value, options) if options is not None else None


def _alike(part: str, name: Setting) -> Any:
    """The part whose name is nearest to one that does not exist, so that its other keys are checked all the same."""
    find, registry = PARTS[part]
    known = names(part, registry)
    return find((difflib.get_close_matches(str(name.value), known, n=1) or known)[0])


def _checked(
    kind: type[Options],
    prefix: str,
    own: Settings,
    errors: list[FedqError],
    parts: Mapping[str, type[Options]] | None = None,
) -> Any:
    frozen = {k: tuple(s.value) if isinstance(s.value, list) else s.value for k, s in own.items()}
    values = nest({k.removeprefix(prefix): v for k, v in frozen.items()})
    try:
        return kind.model_validate(values, strict=True)
    except ValidationError as error:
        errors += [_explained(dict(e), kind, prefix, own, parts or {}) for e in error.errors()]
    return None


def _explained(
    e: dict[str, Any], kind: type[Options], prefix: str, own: Settings, parts: Mapping[str, type[Options]]
) -> FedqError:
    """One pydantic complaint in the user's words; `parts` have the keys that may be meant."""
    path = [str(p) for p in e["loc"]]
    key = prefix + ".".join(path)
    given = next((own[k] for k in (key, f"{prefix}{path[0]}") if k in own), None)
    given = given or next((s for k, s in own.items() if k.startswith(f"{key}.")), Setting(None))
    place: dict[str, Any] = {"where": given.where, "from_file": given.from_file}
    if e["type"] == "extra_forbidden":
        fields = kind.model_fields
        for p in path[:-1]:
            fields = fields[p].annotation.model_fields  # type: ignore[union-attr]
        known = [*fields, *(["name"] if prefix else PARTS if len(path) == 1 else [])]
        hint = nearest(path[-1], known) if prefix or len(path) > 1 else _elsewhere(key, parts) or nearest(key, known)
        return FedqError("FQ102", f"unknown key `{key}`", hint=hint, **place)
    said = e["msg"][0].lower() + e["msg"][1:]
    return FedqError("FQ103", f"`{key}` is {given.value!r}: {said}", **place)


def _elsewhere(key: str, parts: Mapping[str, type[Options]]) -> str:
    """A hint for a key that belongs into a section: `lr` or `client_lr` for `client.lr`."""
    sections: dict[str, type[Options]] = {"data": DataOptions, "evaluate": EvaluateOptions, **parts}
    dotted = [f"{section}.{field}" for section, kind in sections.items() for field in kind.model_fields]
    meant = next((d for d in dotted if key in (d.split(".")[1], d.replace(".", "_"))), None)
    return f"did you mean `{meant}`?" if meant else ""


def _attempt(errors: list[FedqError], given: Setting, look: Any) -> Any:
    place: dict[str, Any] = {"where": given.where, "from_file": given.from_file}
    if not isinstance(given.value, str | None):
        errors.append(FedqError("FQ103", f"a name is wanted, not {given.value!r}", **place))
        return None
    try:
        return look()
    except FedqError as error:
        errors.append(FedqError(error.code, error.message, hint=error.hint, **place))
        return None
