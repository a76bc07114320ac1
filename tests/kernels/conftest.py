"""Each test that asks for `isa` runs once with every instruction set of this machine."""

import pytest

from fedq.kernels import _library, _native
from tests.kernels.cores import FOUND, ISAS


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setattr(_library, "library", lambda: FOUND)
    monkeypatch.setattr(_native, "library", lambda: FOUND)
    assert FOUND.force(request.param)
    yield request.param
    FOUND.force("auto")
