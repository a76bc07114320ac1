"""All records of a message as one, while it travels between server and sites.

Flower sends every record, array and piece of an array of a message as an object with an id of 64 letters and a request
of its own, whose headers alone are 0.8 kB. One record costs that once, however many tensors a model has. Ledger, checks
and strategies see the records themselves.
"""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedq._flower import from_bytes, to_bytes
from fedq.errors import FedqError

STYPE = "fedq.bundle"
PIECE = 5 * 2**20  # bytes above which an array is the better form: Flower cuts it in pieces, and repeats single ones


def bundled(content: RecordDict) -> RecordDict:
    """The records of `content` as bytes, in one record."""
    data = to_bytes(content)
    if len(data) <= PIECE:
        return RecordDict({"bundle": ConfigRecord({"records": data})})
    return RecordDict({"bundle": ArrayRecord({"records": Array("uint8", (len(data),), STYPE, data)})})


def unbundled(content: RecordDict) -> RecordDict:
    """The inverse of `bundled`; records that are in no bundle as they are. FedqError FQ302 for anything else."""
    if "bundle" not in content:
        return content
    record = content["bundle"]
    found = record.get("records") if len(content) == len(record) == 1 else None
    data = found.data if isinstance(found, Array) and found.stype == STYPE else found
    if not isinstance(data, bytes):
        raise FedqError("FQ302", "a bundle that is not one record of bytes")
    try:
        return from_bytes(data)
    except Exception as error:
        raise FedqError("FQ302", f"a bundle that cannot be read: {type(error).__name__}: {error}") from error
