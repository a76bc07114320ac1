"""The two jobs on which simulators are compared, and what each contender is given and gives back.

A contender is a program: `python CONTENDER JOB.npz ROUNDS`. The file holds x [C, n, ...] float32 and y [C, n]
of C clients, and the job's numbers. In every round `per_round` clients make `steps` steps of plain SGD, batches of
`batch`, and their weights are averaged. It prints one JSON line: {"ends": [time.time() at the end of each round]}.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fedq.data import Dataset, Examples


@dataclass(frozen=True)
class Job:
    """So many clients with `examples` each; the model is an MLP 64-32-10, or LeNet-5 with 61,706 weights."""

    name: str
    model: str
    shape: tuple[int, ...]
    clients: int
    examples: int
    per_round: int
    steps: int
    batch: int
    lr: float
    rounds: int

    def save(self, path: Path) -> None:
        """The job as a file for a contender."""
        data = noise(clients=self.clients, examples=self.examples, shape=self.shape)
        x = (data.train.x / np.float32(255)).reshape(self.clients, self.examples, *self.shape)
        numbers = {k: v for k, v in asdict(self).items() if k not in ("name", "shape", "rounds")}
        np.savez(path, x=x.astype(np.float32), y=data.train.y.reshape(self.clients, -1), **numbers)


JOBS = {
    "mlp": Job("mlp", "mlp", (1, 8, 8), 100, 16, 20, 2, 8, 0.05, 60),
    "lenet5": Job("lenet5", "lenet5", (1, 28, 28), 100, 100, 10, 5, 20, 0.05, 20),
}


def noise(*, clients: int, examples: int, shape: tuple[int, ...]) -> Dataset:
    """Images of uniform noise with random labels: what is timed does not depend on what is in them."""
    r, n = np.random.default_rng(0), clients * examples
    x, y = r.integers(0, 256, (n, *shape), np.uint8), r.integers(0, 10, n)
    return Dataset("noise", Examples(x, y), Examples(x[:10], y[:10]), 10)


def job_data(*, folder: str, holdout: float, seed: int) -> Dataset:
    """The data of the job that the name of an existing `folder` ends with, as a loader for `fedq.data.DATA`."""
    job = JOBS[Path(folder).name]
    return noise(clients=job.clients, examples=job.examples, shape=job.shape)
