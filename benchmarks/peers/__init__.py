"""Contenders that run in environments of their own, without fedq."""
