"""All records of a message as one array, while it travels between server and sites.

Flower sends every array of a record as two objects, each with ids of 64 letters and a request of its own: about 0.7 kB
an array, and a round trip for each. One array costs that once, however many tensors a model has. Ledger, checks and
strategies see the records themselves.
"""

from flwr.app import Array, ArrayRecord, RecordDict

from fedq._flower import from_bytes, to_bytes
from fedq.errors import FedqError

STYPE = "fedq.bundle"


def bundled(content: RecordDict) -> RecordDict:
    """The records of `content` in one array of bytes."""
    data = to_bytes(content)
    return RecordDict({"bundle": ArrayRecord({"records": Array("uint8", (len(data),), STYPE, data)})})


def unbundled(content: RecordDict) -> RecordDict:
    """The inverse of `bundled`; records that are in no bundle as they are. FedqError FQ302 for anything else."""
    if "bundle" not in content:
        return content
    record = content["bundle"]
    array = record.get("records") if isinstance(record, ArrayRecord) and len(content) == len(record) == 1 else None
    if not isinstance(array, Array) or array.stype != STYPE:
        raise FedqError("FQ302", "a bundle that is not one array of records")
    try:
        return from_bytes(array.data)
    except Exception as error:
        raise FedqError("FQ302", f"a bundle that cannot be read: {type(error).__name__}: {error}") from error
