"""Play a run on the screen, with Ctrl-C: once to stop after the round, twice to stop now."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fedq.build import Simulation
from fedq.cli.signals import heard
from fedq.errors import EXIT_DONE, EXIT_INTERRUPTED
from fedq.report.screen import Screen, outcome, plan
from fedq.runs import Run, best
from fedq.simulation import goal_of, play
from fedq.until import Until


def play_on_screen(
    run: Run, simulation: Simulation, *, until: str | None, as_json: bool, quiet: bool, next_: bool = True
) -> int:
    """Play the missing rounds of `run`; returns the exit status. With `as_json`, stdout gets one JSON object."""
    goal = goal_of(run, until or "")
    with Screen(simulation, json=as_json, quiet=quiet) as screen:
        screen.say(plan(simulation, str(run.path)))
        stopped = _play(run, simulation, goal, screen)
        totals = run.totals()
        if stopped:
            after = f"after round {totals['rounds']}; it is saved" if totals["rounds"] else "in the first round"
            screen.say(f"stopped {after}\nresume: fedq resume {run.path}")
        else:
            if goal:
                screen.say(f"goal {run.about['until']} " + ("reached" if goal.met(run.records()) else "not reached"))
            screen.say(outcome(totals, best(run.records())))
            screen.say(f"  {run.path}/   run.toml  metrics.jsonl  model.safetensors")
            if next_:
                screen.say(f"Next:  fedq compare {run.path.parent}/*")
    if as_json:
        print(json.dumps(totals))
    return EXIT_INTERRUPTED if stopped else EXIT_DONE


def _play(run: Run, simulation: Simulation, goal: Until | None, screen: Screen) -> bool:
    """Whether the person stopped it."""
    rounds = play(run, simulation, until=goal)
    with _interrupts(screen) as asked:
        try:
            for record in rounds:
                screen.show(record)
                if asked and record.round < simulation.config.top.rounds:
                    return True
        except KeyboardInterrupt:
            return True
        finally:
            rounds.close()  # type: ignore[attr-defined]
    return False


@contextmanager
def _interrupts(screen: Screen) -> Iterator[list[int]]:
    """A list that fills with the first SIGINT or SIGTERM; the second raises KeyboardInterrupt."""
    asked: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        asked.append(number)
        if len(asked) == 2:
            raise KeyboardInterrupt
        if len(asked) > 2:
            return  # already stopping
        again = "Ctrl-C again stops now, " if number == signal.SIGINT else ""
        screen.say(f"finishing this round; {again}the rounds before are saved")

    with heard(handle) as after:
        try:
            yield asked
        finally:
            if asked:  # once stopping, a late Ctrl-C shall not tear the way out
                after.update(dict.fromkeys(after, signal.SIG_IGN))
