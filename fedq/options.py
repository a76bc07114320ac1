"""Frozen options: the base of every configurable part's own settings."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Settings of one part (a strategy, a client algorithm, a model), checked, frozen, with no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
