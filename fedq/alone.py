"""One client of one round, in this process: nothing is caught, so a debugger sees what the client sees."""

import json
import sys
from pathlib import Path

from flwr.app import ConfigRecord, Message

from fedq import messages
from fedq.build import Simulation, build, one_torch_thread
from fedq.config import RunConfig, make_config
from fedq.errors import FedqError
from fedq.kernels import records
from fedq.kernels.records import Arrays
from fedq.ledger import payload_bytes
from fedq.runs import Run
from fedq.settings import flatten


def play_alone(config: RunConfig, source: Path | None, client: int, round_: int, *, as_json: bool, debug: bool) -> int:
    """Train one client as it would be in round `round_`, and print what it sends: as one JSON object, or in words.

    The rounds before are played first, or taken from a checkpoint of the run that `source` belongs to. FedqError FQ105
    where there is no such round, or the client does not take part in it, FQ301 where it fails; with `debug` on a
    terminal, a debugger opens there.
    """
    if round_ > config.top.rounds:
        raise FedqError("FQ105", f"the run has {config.top.rounds} rounds", where=f"--round {round_}")
    here = {k: v for k, v in flatten(config.as_dict()).items() if k not in ("ray_address", "workers", "engine")}
    simulation = build(make_config(here, engine="local"))
    with one_torch_thread():
        arrays = _model(simulation, source, round_)
        message = _asked(simulation, arrays, client, round_)
        try:
            reply, _ = simulation.crew.alone(message, simulation.clients.memory.of(client + 1))
            simulation.strategy.check_reply(reply)
        except Exception as error:
            if debug and sys.stdin.isatty():
                import pdb

                pdb.post_mortem(error.__traceback__)
            said = error.message if isinstance(error, FedqError) else f"{type(error).__name__}: {error}"
            hint = "--debug shows the traceback, and opens the debugger on a terminal"
            raise FedqError(
                "FQ301", f"client {client} failed in round {round_}: {said}", where=_place(error), hint=hint
            ) from error
    told, sent = dict(messages.metrics(reply.content)), messages.arrays(reply.content)
    if as_json:
        payloads = {n: {"shape": p.shape, "stype": p.stype, "bytes": len(p.data)} for n, p in sent.items()}
        metrics = {k.replace("-", "_"): v for k, v in told.items()}
        up_bytes = payload_bytes(reply.content)
        print(json.dumps({"client": client, "round": round_, **metrics, "up_bytes": up_bytes, "payloads": payloads}))
        return 0
    print(f"client {client} in round {round_}: " + "  ".join(f"{k}={v}" for k, v in told.items()))
    for name, payload in sent.items():
        print(f"  {name}  {tuple(payload.shape)}  {payload.stype}  {len(payload.data)} bytes")
    return 0


def _model(simulation: Simulation, source: Path | None, round_: int) -> Arrays:
    """The model that clients are sent in this round; the simulation is then where it was before it."""
    folder = source if source is None or source.is_dir() else source.parent
    run = Run(folder, lock=False) if folder else None
    same = run is not None and run.about.get("config_hash") == simulation.config.hash
    saved = run.checkpoint_of(round_ - 1) if run is not None and same else None
    if saved is not None:
        simulation.restore(saved[1])
        return saved[0]
    arrays: Arrays = dict(simulation.initial)
    for record in simulation.rounds(arrays, 1, round_ - 1):
        arrays = records.to_arrays(record.arrays)
    return arrays


def _asked(simulation: Simulation, arrays: Arrays, client: int, round_: int) -> Message:
    """The client's message; where strategies ask something first, all are asked, and this one is not shielded."""
    server, grid, record = simulation.strategy, simulation.grid, records.to_record(arrays)
    if queries := list(server.configure_query(round_, record, ConfigRecord(), grid)):
        server.aggregate_query(round_, grid.send_and_receive(queries))
    asked = list(server.configure_train(round_, record, ConfigRecord(), grid))
    who = {m.metadata.dst_node_id - 1: m for m in asked}
    if client not in who:
        some = ", ".join(map(str, sorted(who)[:20])) + (" ..." if len(who) > 20 else "")
        raise FedqError(
            "FQ105",
            f"client {client} takes no part in round {round_}",
            where=f"--only-client {client}",
            hint=f"those who do: {some or 'nobody'}",
        )
    grid.push_messages([who[client]])  # gives it an id
    return who[client]


def _place(error: BaseException) -> str:
    """Where it was raised: the last of its frames."""
    from traceback import extract_tb

    frames = extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}  {frames[-1].line}" if frames else ""
