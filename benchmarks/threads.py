"""When do worker threads pay? Seconds of a round with one worker and with one a core, by the size of the model.

    python benchmarks/threads.py [--repeats 3]

Python holds one thread at a time between kernels, so threads help only where those are long. The size at which `fedq
simulate` begins to use them (`SMALL` in fedq/build.py) is read off this table.
"""

import argparse
from os import cpu_count
from statistics import median

from fedq.build import build, one_torch_thread
from fedq.config import make_config
from fedq.kernels import records
from fedq.rounds import rounds

HIDDEN = ([32], [64], [128], [128, 64], [256, 128], [400, 300], [800, 400])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    counts = (1, cpu_count() or 1)
    print("weights   " + "   ".join(f"{w} worker(s), s" for w in counts) + "   gain")
    for hidden in HIDDEN:
        built = [build(make_config({"model.hidden": hidden}, workers=w, engine="local")) for w in counts]
        times: list[list[float]] = [[] for _ in counts]
        for round_ in range(1, repeats + 1):
            for simulation, seconds in zip(built, times, strict=True):
                s, arrays = simulation, records.to_record(simulation.initial)
                with one_torch_thread():
                    (record,) = rounds(s.strategy, s.grid, arrays, first=round_, last=round_)
                seconds.append(record.seconds)
        one, many = (median(s) for s in times)
        weights = sum(x.size for x in built[0].initial.values())
        print(f"{weights:>7,}   {one:>14.3f}   {many:>14.3f}   {one / many:4.2f}x")


if __name__ == "__main__":
    main()
