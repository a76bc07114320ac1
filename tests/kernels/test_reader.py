"""Records that many clients are sent are read once, and only those."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from fedq.errors import FedqError
from fedq.kernels import records


def test_a_record_is_known_by_its_very_payloads() -> None:
    """Copies of a record too; not one with other names, other payloads or other bytes."""
    read, w = records.Reader(), {"a": np.arange(3, dtype=np.float32), "b": np.ones((2, 2), np.float32)}
    sent = records.to_record(w)
    first = read(sent)
    assert first is read(sent) is read(sent.copy())
    assert first.keys() == w.keys()
    assert all((first[n] == w[n]).all() for n in w)
    equal = records.to_record(w)
    again = read(equal)
    assert again is not first
    equal["b"].data = np.full(4, 7, "<f4").tobytes()  # the same payload, changed
    assert (read(equal)["b"] == 7).all()
    assert set(read(records.record({"c": sent["a"], "b": sent["b"]}))) == {"c", "b"}
    assert len(read(ArrayRecord())) == 0


def test_what_cannot_be_read_is_not_known() -> None:
    read, w = records.Reader(), {"a": np.arange(3, dtype=np.float32)}
    read(records.to_record(w))
    bad = records.record({"a": Array("float32", (3,), "fedq.float32", np.full(3, np.nan, "<f4").tobytes())})
    for _ in range(2):
        with pytest.raises(FedqError, match="NaN"):
            read(bad)
    assert (read(records.to_record(w))["a"] == w["a"]).all()
