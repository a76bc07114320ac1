"""The Ray cluster that a process plays clients on: one that it joins, or a private one that leaves nothing behind.

A private cluster has no dashboard and sends no usage statistics; its files stand in a temporary folder of its own.
What was not started here is not shut down here.
"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory, gettempdir
from types import ModuleType
from typing import final

from fedq.errors import FedqError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what later versions of Ray do, and this one warns of
}
WORKERS = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
KNOCK = 10.0  # seconds for a cluster's address to answer
LONGEST = 40  # characters of a temporary folder whose sockets' paths the system still takes


@final
class Cluster:
    """A connection to Ray: that of this process if it has one, else to `address`, else to a private cluster.

    `workers` want a processor each; None is as many as there are, but at most `most`. With `gpus` they share its GPUs.
    """

    def __init__(self, address: str | None, workers: int | None, most: int, *, gpus: bool = False) -> None:
        self._address, self._wanted, self._most, self._gpus = address, workers, most, gpus
        self._ours = False
        self._folder: TemporaryDirectory[str] | None = None
        self.workers, self.gpu_share = workers or 0, 0.0

    def __str__(self) -> str:
        workers = self._wanted or (min(os.cpu_count() or 1, self._most) if self._address is None else 0)
        many = f"{workers} process{'es' if workers > 1 else ''}" if workers else "a process for each processor"
        return f"{many} of the Ray cluster at {self._address}" if self._address else f"{many} of a private Ray cluster"

    def open(self) -> ModuleType:
        """Connect, and give Ray.

        FedqError FQ206 if there is no Ray, nothing at the address, no processor for each worker, or no GPU.
        """
        self.ray = _ray()
        if not self.ray.is_initialized():
            self._ours = True
            with _handlers_kept():
                self._join(self._address) if self._address else self._start()
        try:
            self.workers, self.gpu_share = self._room()
        except FedqError:
            self.close()
            raise
        return self.ray

    def close(self) -> None:
        """Leave; a private cluster ends, and its files are removed."""
        if self._ours:
            with _handlers_kept():
                self.ray.shutdown()
                self.ray._private.worker._worker_logs_enabled = True
            self._ours = False
        if self._folder is not None:
            self._folder.cleanup()

    def _start(self) -> None:
        workers = self._wanted or min(os.cpu_count() or 1, self._most)
        parent = gettempdir() if len(gettempdir()) < LONGEST else "/tmp"
        self._folder = TemporaryDirectory(prefix="fedq-", dir=parent, ignore_cleanup_errors=True)
        self._init(address="local", num_cpus=workers, include_dashboard=False, _temp_dir=self._folder.name)

    def _join(self, address: str) -> None:
        try:
            if ":" in address.removeprefix("ray://"):
                _knock(address)  # Ray itself would try for ever
            self._init(address=address)
        except (OSError, ValueError, RuntimeError) as error:
            said = str(error).strip().split("\n")[0]
            raise FedqError(
                "FQ206",
                f"no Ray cluster could be joined at `{address}`: {said}",
                key="ray_address",
                hint="start one with `ray start --head`, or leave --ray-address out for a private one",
            ) from error

    def _init(self, **how: object) -> None:
        settings = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": WORKERS}}
        self.ray.init(**settings, **how)
        self.ray._private.worker._worker_logs_enabled = False  # it would write on stdout what RayGrid says itself

    def _room(self) -> tuple[int, float]:
        has = self.ray.cluster_resources()
        cores, devices = int(has.get("CPU", 0)), has.get("GPU", 0)
        workers = self._wanted or max(1, min(cores, self._most))
        if workers > cores:
            raise FedqError(
                "FQ206",
                f"{workers} workers want a processor each, and the Ray cluster has {cores}",
                key="workers",
                hint=f"--workers {max(1, cores)}, or more nodes",
            )
        if self._gpus and not devices:
            raise FedqError("FQ206", "the Ray cluster has no GPU", key="device", hint="--device cpu")
        return workers, (min(1.0, devices / workers) if self._gpus else 0.0)


def _knock(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        raise ValueError("write HOST:PORT")
    socket.create_connection((host, int(port)), timeout=KNOCK).close()


def _ray() -> ModuleType:
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    try:
        import ray
    except ImportError as error:
        raise FedqError(
            "FQ206", f"Ray cannot be imported: {error}", key="engine", hint="pip install ray, or --engine local"
        ) from error
    return ray


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; give it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
