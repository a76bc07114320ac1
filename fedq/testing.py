"""The contracts of codecs, strategies and clients, usable by anybody's extension.

    from fedq.testing import check_codec
    check_codec(MyCodec())

Each check raises AssertionError with what was broken and what to do. They draw from fixed keys, so a failure repeats.
"""

from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedq.errors import FedqError
from fedq.kernels import PackedCodec, records
from fedq.rng import key, rng
from fedq.strategies import STRATEGIES, PackedStrategy

SIZES = (0, 1, 7, 8, 63, 320, 321, 1000, 4097)


# ------------------------------------------------------------------------------------------------- codecs


def check_codec(c: PackedCodec, *, draws: int = 2000) -> None:
    """Shapes, sizes, determinism, round trip, the aggregate law, unbiasedness where declared, and malformed bytes."""
    for d in SIZES:
        x = _values(c, (d,))
        payload = c.encode(x, key=key(0, "check", d))
        _check_payload(c, x, payload)
        _check_malformed(c, payload)
    cube = _values(c, (3, 4, 5))
    assert c.decode(c.encode(cube, key=key(0, "shape"))).shape == (3, 4, 5), (
        f"{c.name}: shape is lost; keep the shape of x in the payload, as `PackedCodec` does"
    )
    _check_rows(c)
    _check_aggregate(c)
    _check_refusals(c)
    if c.unbiased:
        _check_unbiased(c, draws)


def _check_payload(c: PackedCodec, x: NDArray[np.float32], payload: Array) -> None:
    d = x.size
    before = x.copy()
    again = c.encode(x, key=key(0, "check", d))
    assert (x == before).all(), f"{c.name}: encode writes to its argument; `pack` must work on a copy"
    assert payload.data == again.data, f"{c.name}: the same key gives other bytes; draw random bits from `key` alone"
    assert len(payload.data) in c.lengths(d), (
        f"{c.name}: {len(payload.data)} bytes for {d} values, not {c.lengths(d)}; `nbytes` must say what `pack` gives"
    )
    assert (payload.dtype, payload.shape) == ("float32", x.shape), f"{c.name}: dtype or shape of the decoded array"
    assert payload.stype.startswith("fedq."), f"{c.name}: stype {payload.stype}"
    y = c.decode(payload)
    assert y.dtype == np.float32, f"{c.name}: decodes to {y.dtype}; end `unpack` with .astype(np.float32)"
    assert y.shape == x.shape, (
        f"{c.name}: decodes to shape {y.shape}; `unpack` must return as many values as it is told"
    )
    assert np.isfinite(y).all(), f"{c.name}: decodes to values that are not finite; `pack` loses large values"


def _check_malformed(c: PackedCodec, payload: Array) -> None:
    data = payload.data
    changed: dict[str, tuple[Any, ...]] = {
        "truncated": (payload.dtype, payload.shape, payload.stype, data[:-1]),
        "over-long": (payload.dtype, payload.shape, payload.stype, data + b"\0"),
        "wrong stype": (payload.dtype, payload.shape, "numpy.ndarray", data),
        "wrong dtype": ("float64", payload.shape, payload.stype, data),
        "larger shape": (payload.dtype, (payload.shape[0] + 100,), payload.stype, data),
        "negative shape": (payload.dtype, (-1,), payload.stype, data),
    }
    if not data:
        del changed["truncated"]
    for what, fields in changed.items():
        for use in (c.decode, c.open):
            try:
                use(Array(*fields))
            except FedqError as error:
                assert error.code == "FQ302", f"{c.name}: {what} payload: {error.code}; raise self.malformed(...)"
            else:
                raise AssertionError(f"{c.name}: a {what} payload passes {use.__name__}; call `self.size` first")
    random = rng(0, "mutate", c.name, len(data))
    extremes = [np.array(v, "<f4").tobytes() for v in (np.nan, np.inf, -1.0, np.finfo(np.float32).max, 1e30)]
    spoiled = [e + data[4:] for e in extremes] + [data[:-4] + e for e in extremes]
    for bytes_ in [b for b in spoiled if len(b) == len(data)] + [random.bytes(len(data)) for _ in range(20)]:
        noise = Array(payload.dtype, payload.shape, payload.stype, bytes_)  # decodes to finite values or is refused
        try:
            c.open(noise)
            y = c.decode(noise)
            assert np.isfinite(y).all(), (
                f"{c.name}: spoiled bytes decode to nan or inf; `unpack` must raise self.malformed(...)"
            )
            assert np.isfinite(c.aggregate([noise] * 8, [2.0**31] * 8)).all(), (
                f"{c.name}: sums overflow; `unpack` must refuse values that large"
            )
        except FedqError as error:
            assert error.code == "FQ302", f"{c.name}: random bytes: {error.code}; raise self.malformed(...)"


def _check_aggregate(c: PackedCodec) -> None:
    weights = [1.0, 0.25, 3.0, 1.0]
    payloads = [c.encode(_values(c, (777,), k), key=key(0, "sum", k)) for k in range(4)]
    expected = sum(w * c.decode(p).astype(np.float64) for p, w in zip(payloads, weights, strict=True))
    streamed = c.aggregate(iter(payloads), iter(weights))
    np.testing.assert_allclose(
        streamed,
        expected,
        rtol=1e-5,
        atol=1e-5,
        err_msg=f"{c.name}: the aggregate law; `add_` must add w * decode(payload)",
    )
    equal = c.aggregate(payloads, [1.0] * 4)
    decoded = sum(c.decode(p).astype(np.float64) for p in payloads)
    np.testing.assert_allclose(
        equal,
        decoded,
        rtol=1e-5,
        atol=1e-5,
        err_msg=f"{c.name}: the aggregate law at equal weights; `add_` must add w * decode(payload)",
    )


def _check_rows(c: PackedCodec) -> None:
    x_K, keys = np.stack([_values(c, (7, 11), k) for k in range(3)]), [key(0, "rows", k) for k in range(3)]
    each = [c.encode(x, key=k) for x, k in zip(x_K, keys, strict=True)]
    many = c.encode_rows(x_K, keys)
    fields = [[(p.data, tuple(p.shape), p.stype, p.dtype) for p in payloads] for payloads in (each, many)]
    assert fields[0] == fields[1], f"{c.name}: rows packed together are not the bytes of each alone"


def _check_refusals(c: PackedCodec) -> None:
    bad = [np.array([0.5, np.nan], np.float32), np.array([-np.inf], np.float32)]
    if c.unit:
        bad.append(np.array([1.5], np.float32))
    for x in bad:
        try:
            c.encode(x, key=key(0, "bad"))
        except FedqError as error:
            assert error.code == "FQ303", (
                f"{c.name}: {x} gives {error.code}; FQ303 is the code of what cannot be encoded"
            )
        else:
            raise AssertionError(
                f"{c.name}: encodes {x}; refuse what is not finite, and with `unit` what is outside [-1, 1]"
            )


def _check_unbiased(c: PackedCodec, draws: int) -> None:
    """Each coordinate's mean over many keys is within 5.5 standard errors of x (plus float rounding)."""
    x = _values(c, (64,))
    y = np.stack([c.decode(c.encode(x, key=key(k, "unbiased"))).astype(np.float64) for k in range(draws)])
    error = np.abs(y.mean(0) - x)
    limit = 5.5 * y.std(0) / np.sqrt(draws) + 1e-6 + 5.5 * np.sqrt(np.abs(x) / draws) / draws**0.5
    assert (error <= limit).all(), (
        f"{c.name}: biased, off by up to {error.max():.3g} at {x[error.argmax()]}; is it `unbiased = False`?"
    )


def _values(c: PackedCodec, shape: tuple[int, ...], place: int = 0) -> NDArray[np.float32]:
    x = rng(0, "values", place, *shape).standard_normal(shape, np.float32)
    return np.clip(0.5 * x, -1, 1) if c.unit else 3 * x


# ------------------------------------------------------------------------------------------------- strategies


def check_strategy(strategy: str | type[PackedStrategy], **settings: Any) -> None:
    """Deterministic, independent of workers, resumable, arguments and replies untouched, malformed replies refused.

    `strategy` is a registered name, or a class that is not registered yet.
    """
    name = strategy if isinstance(strategy, str) else strategy.__name__
    if not isinstance(strategy, str):
        STRATEGIES[name] = strategy  # for this check
        try:
            check_strategy(name, **settings)
        finally:
            del STRATEGIES[name]
        return
    config = _tiny(strategy=name, **settings)
    try:
        straight, lines, state = _played(config, 1, 3)
    except ValueError as error:
        assert "read-only" not in str(error), (
            f"{name}: writes to arrays that it is given; `self.current` is read only, make new arrays"
        )
        raise
    assert _same(straight, _played(config, 1, 3)[0]), (
        f"{name}: the same config gives another model; draw from fedq.rng.rng(seed, purpose, round)"
    )
    assert _same(straight, _played(_tiny(strategy=name, workers=3, **settings), 1, 3)[0]), (
        f"{name}: depends on workers; fold replies as they come (`self.folded`) and share nothing between clients"
    )
    half, _, at_half = _played(config, 1, 2)
    assert _same(straight, _played(config, 3, 3, half, at_half)[0]), (
        f"{name}: a resumed run ends elsewhere; `state` must give all that lasts, `restore` take it"
    )
    assert all(line["up_bytes"] > 0 and line["down_bytes"] > 0 for line in lines), (
        f"{name}: bytes are not counted; send messages over the grid that is given"
    )
    assert state is not None
    _check_arguments(name, config)


def _check_arguments(name: str, config: Any) -> None:
    """configure_train and aggregate_train write to nothing they are given; strange replies are refused."""
    from fedq.build import build

    simulation = build(config)
    server, grid = simulation.strategy, simulation.grid
    arrays, told = records.to_record(simulation.initial), ConfigRecord({"mine": 1})
    kept = {n: a.data for n, a in arrays.items()}
    if asked := list(server.configure_query(1, arrays, told, grid)):
        assert server.asks_first, f"{name}: `configure_query` asks, but `asks_first` is False; make it True"
        server.aggregate_query(1, grid.send_and_receive(asked))
    messages = list(server.configure_train(1, arrays, told, grid))
    replies = list(grid.send_and_receive(messages))
    copies = [{n: a.data for n, a in r.content["arrays"].items()} for r in replies]  # type: ignore[union-attr]
    for reply in replies:
        server.check_reply(reply)
    server.aggregate_train(1, iter(replies))
    assert dict(told) == {"mine": 1}, f"{name}: writes to the config record; make one of your own"
    assert {n: a.data for n, a in arrays.items()} == kept, (
        f"{name}: writes to the global arrays; `self.current` is read only, make new arrays"
    )
    after = [{n: a.data for n, a in r.content["arrays"].items()} for r in replies]  # type: ignore[union-attr]
    assert after == copies, f"{name}: writes to the replies; decode them into arrays of your own"
    for what, reply in _strange(replies[0]):
        try:
            server.check_reply(reply)
        except FedqError as error:
            assert error.code == "FQ302", (
                f"{name}: {what}: {error.code}; `check_reply` raises FQ302 for what is malformed"
            )
        else:
            raise AssertionError(f"{name}: accepts {what}; call super().check_reply first")


def _strange(reply: Message) -> Iterator[tuple[str, Message]]:
    from fedq._flower import with_content

    arrays, metrics = reply.content["arrays"], reply.content["metrics"]
    assert isinstance(arrays, ArrayRecord)
    assert isinstance(metrics, MetricRecord)
    first = next(iter(arrays))
    a = arrays[first]
    changes = {
        "a missing array": {n: x for n, x in arrays.items() if n != first},
        "an unknown array": {**arrays, "strange": a},
        "a truncated payload": {**arrays, first: Array(a.dtype, a.shape, a.stype, a.data[:-1])},
        "a payload of another codec": {**arrays, first: Array(a.dtype, a.shape, "fedq.other", a.data)},
        "a payload of another shape": {**arrays, first: Array(a.dtype, (*a.shape, 1), a.stype, a.data)},
    }
    for what, changed in changes.items():
        yield what, with_content(reply, RecordDict({"arrays": ArrayRecord(changed), "metrics": metrics}))
    changes_m: list[dict[str, Any]] = [{"num-examples": n} for n in (float("nan"), -1, 0, 2.5, 2**40, [3])]
    changes_m += [{"train-loss": x} for x in (float("inf"), [1.0])] + [{"more": 1.0}]
    for change in changes_m:
        wrong = MetricRecord({**metrics, **change})
        yield f"metrics with {change}", with_content(reply, RecordDict({"arrays": arrays, "metrics": wrong}))
    yield "no metrics", with_content(reply, RecordDict({"arrays": arrays}))


def _played(
    config: Any, first: int, last: int, start: Any = None, state: dict[str, Any] | None = None
) -> tuple[dict[str, NDArray[np.float32]], list[dict[str, Any]], dict[str, Any]]:
    from fedq.build import build
    from fedq.runs import Run

    simulation = build(config)
    if state is not None:
        simulation.restore(state)
    played = list(simulation.rounds(start or simulation.initial, first, last))
    with TemporaryDirectory() as folder:  # model and state as a checkpoint gives them back
        run = Run.create(folder, "check", "", {})
        for record in played:
            run.append(record.metrics() | {"round": record.round})
        for round_ in range(1, first):
            run.append({**played[-1].metrics(), "round": round_})
        run.checkpoint(last, records.to_arrays(played[-1].arrays), simulation.state())
        _, arrays, kept = run.latest()
        run.release()
    return arrays, [r.metrics() for r in played], kept


def _same(a: dict[str, NDArray[np.float32]], b: dict[str, NDArray[np.float32]]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def _tiny(**settings: Any) -> Any:
    from fedq.config import make_config

    tiny = {
        "clients": 9,
        "rounds": 3,
        "client.local_steps": 2,
        "client.batch_size": 8,
        "model.hidden": [16],
        "data.partition": "iid",
        "engine": "local",
        "workers": 1,
        "evaluate.every": 3,
    }
    return make_config({**tiny, **settings})


# ------------------------------------------------------------------------------------------------- clients


def check_client(client: str | type[Any], **settings: Any) -> None:
    """A local algorithm: same key same bytes, arguments untouched, K clients together as each alone, and it learns.

    `client` is a registered name, or a class that is not registered yet.
    """
    import torch

    from fedq import clients
    from fedq.clients.private import check_private

    kind = clients.client(client) if isinstance(client, str) else client
    name = kind.__name__
    if hasattr(kind, "release"):
        check_private(name, kind, **settings)
        return
    algorithm = kind(kind.Options(**{"local_steps": 8, **settings}))
    w_KD = torch.from_numpy(rng(0, "w").uniform(-0.5, 0.5, (3, 12)).astype(np.float32))
    batches = [_toy_batch(step, 3) for step in range(8)]
    before = w_KD.clone()
    together, loss_K = _trained(algorithm, w_KD, batches)
    assert torch.equal(w_KD, before), f"{name}: writes to the weights it is given; begin with w_KD.clone()"
    assert together.shape == w_KD.shape, f"{name}: returns shape {tuple(together.shape)}, not that of w_KD: [K, D]"
    assert loss_K.shape == (3,), f"{name}: returns losses of shape {tuple(loss_K.shape)}; one a client is wanted: [K]"
    again, _ = _trained(algorithm, w_KD, batches)
    assert torch.equal(together, again), (
        f"{name}: the same call gives another result; keep no state and draw no random numbers"
    )
    for k in range(3):
        alone, _ = _trained(algorithm, w_KD[k : k + 1], [(x[k : k + 1], y[k : k + 1]) for x, y in batches])
        torch.testing.assert_close(
            alone[0], together[k], rtol=1e-6, atol=1e-6, msg=f"{name}: client {k} alone differs; never mix rows of w_KD"
        )
    moved = together if algorithm.returns == "weights" else w_KD - 0.05 * together
    first = batches[0]
    assert (_Toy().gradient(moved, *first)[0] < _Toy().gradient(w_KD, *first)[0]).all(), (
        f'{name}: does not learn; step against the gradient, or return it (`returns = "gradient"`)'
    )


def _trained(algorithm: Any, w_KD: Any, batches: list[Any]) -> tuple[Any, Any]:
    """One round; two of a remembering algorithm, the second on the memories of the first."""
    import torch

    from fedq.clients.local import Remembering

    if not isinstance(algorithm, Remembering):
        trained: tuple[Any, Any] = algorithm.train(_Toy(), w_KD, iter(batches))
        return trained
    _, _, memory_KD = algorithm.train_on(_Toy(), w_KD, torch.zeros_like(w_KD), iter(batches))
    before = memory_KD.clone()
    sent, loss_K, _ = algorithm.train_on(_Toy(), w_KD, memory_KD, iter(batches))
    assert torch.equal(memory_KD, before), f"{type(algorithm).__name__}: writes to the memory it is given"
    return sent, loss_K


class _Toy:
    """Least squares: loss of client k is the mean of (x w_k - y)^2 over its batch."""

    def __init__(self) -> None:
        import torch

        self.matrices = torch.ones(12)
        self.chain: Any = None

    def gradient(self, w_KD: Any, x_KB: Any, y_KB: Any) -> tuple[Any, Any]:
        error = (x_KB * w_KD[:, None, :]).sum(-1) - y_KB
        return (error**2).mean(1), 2 * (error[..., None] * x_KB).mean(1)


def _toy_batch(step: int, clients: int) -> tuple[Any, Any]:
    import torch

    x = torch.from_numpy(rng(0, "x", step).standard_normal((clients, 16, 12), np.float32))
    truth = torch.from_numpy(rng(0, "truth").uniform(-0.5, 0.5, 12).astype(np.float32))
    return x, x @ truth


def run_client(app: ClientApp, message: Message, partition: int, partitions: int) -> Message:
    """Call a ClientApp as a grid would: one message, one fresh context."""
    context = Context(1, partition + 1, {"partition-id": partition, "num-partitions": partitions}, RecordDict(), {})
    return app(message, context)


__all__ = ["check_client", "check_codec", "check_strategy", "run_client"]
