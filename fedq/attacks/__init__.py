"""Clients that want the model to fail: what they send, how many they are, and who.

To add an attack: write it in a file of its own, add one line to `ATTACKS`. Other packages register theirs under the
entry-point group `fedq.attacks`. A spec is `NAME:SHARE`: a share of the clients below 1, or a number of them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from fedq.errors import FedqError
from fedq.plugins import find
from fedq.rng import rng

if TYPE_CHECKING:
    from fedq.attacks.base import Attack, Wire

ATTACKS: dict[str, str] = {
    "inverse": "fedq.attacks.votes:Inverse",
    "mimic": "fedq.attacks.votes:Mimic",
    "camouflage": "fedq.attacks.votes:Camouflage",
    "crowd": "fedq.attacks.votes:Crowd",
    "stall": "fedq.attacks.votes:Stall",
    "sign_flip": "fedq.attacks.own:SignFlip",
    "random": "fedq.attacks.own:Random",
    "gaussian": "fedq.attacks.own:Gaussian",
    "label_flip": "fedq.attacks.labels:LabelFlip",
    "alie": "fedq.attacks.moments:Alie",
    "ipm": "fedq.attacks.moments:Ipm",
}


MOST = 5_000_000  # attackers, whose partitions are listed


@final
@dataclass(frozen=True)
class Attackers:
    """An attack, and the partitions whose clients make it."""

    name: str
    attack: "Attack"
    partitions: frozenset[int]


def attack(name: str) -> "type[Attack]":
    """The attack of this name. FedqError FQ101 if there is none."""
    found: type[Attack] = find("attack", name, ATTACKS)
    return found


def parse(spec: str) -> "tuple[str, Attack, float]":
    """`inverse:10` -> name, attack and share or number. FedqError FQ101 or FQ106 for a wrong spec."""
    name, _, value = spec.partition(":")
    found: Any = attack(name)
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not (0 < share < 1 or (1 <= share < 2**31 and share == int(share))):
        hint = f"write {name}:SHARE, with a share of the clients below 1 or a number of them: {name}:0.3, {name}:10"
        raise FedqError("FQ106", f"a malformed attack `{spec}`", hint=hint)
    return name, found(), share


def attackers(spec: str, clients: int, seed: int) -> Attackers:
    """Who attacks and how, a function of `seed`. FedqError FQ105 if nobody or everybody would."""
    name, made, share = parse(spec)
    n = round(share * clients) if share < 1 else int(share)
    if not 0 < n < clients:
        who = "nobody attacks" if n == 0 else "no honest client is left"
        hint = f"write {name}:N with N from 1 to {clients - 1}"
        raise FedqError("FQ105", f"`{spec}` of {clients} clients: {who}", key="attack", hint=hint)
    if n > MOST:
        hint = f"write {name}:N with N up to {MOST:,}"
        raise FedqError("FQ105", f"`{spec}` of {clients} clients: too many to list", key="attack", hint=hint)
    chosen = rng(seed, "attack").choice(clients, n, replace=False)
    return Attackers(name, made, frozenset(int(k) for k in chosen))


def check_fit(who: Attackers, wire: "Wire", strategy: str) -> None:
    """FedqError FQ105 if the attack is on votes, and the strategy's clients send none."""
    needs = who.attack.needs
    if (needs == "votes" and not wire.hard) or (needs == "soft votes" and not wire.soft):
        raise FedqError(
            "FQ105",
            f"`{who.name}` attacks {needs}, and clients of `{strategy}` send none by `{wire.codec.name}`",
            key="attack",
            hint="use --strategy fedvote with --codec binary or ternary, or an attack on any values: sign_flip, ipm",
        )


__all__ = ["ATTACKS", "Attackers", "attack", "attackers", "check_fit", "parse"]
