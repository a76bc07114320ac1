"""What share of the weights' votes agrees with the plurality after one round: honest clients' and attackers'.

python -m experiments.fedvote_byzantine.agreement
"""

from statistics import mean
from tempfile import TemporaryDirectory

import fedq
from fedq.attacks import attackers


def agreement(attack: str, seed: int) -> tuple[float, float]:
    """Mean agreement of the honest clients and of the attackers: credibility before its smoothing (B2), 1 at first."""
    with TemporaryDirectory() as out:
        attacked = {"attack": attack} if attack else {}
        run = fedq.simulate(clients=31, rounds=1, seed=seed, strategy__weighting="reputation", out=out, **attacked)
        (line,) = run.records()
    bad = set(attackers(attack, 31, seed).partitions) if attack else set()
    credibility = {int(client): 2 * nu - 1 for client, nu in line["strategy"]["credibility"].items()}
    sides = [[cr for client, cr in credibility.items() if (client in bad) is evil] for evil in (False, True)]
    return mean(sides[0]), mean(sides[1] or [float("nan")])


if __name__ == "__main__":
    for attack in ("", "inverse:10", "inverse:15"):
        honest, evil = (mean(side) for side in zip(*(agreement(attack, seed) for seed in range(3)), strict=True))
        print(f"{attack or 'no attack':<12} honest {honest:.2f}   attackers {evil:.2f}")
