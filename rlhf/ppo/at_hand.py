"""The step that a thread of the driver works for. It is shown to people; nothing else depends on it."""

from __future__ import annotations

from contextvars import ContextVar

STEP: ContextVar[int | None] = ContextVar("step at hand", default=None)
"""Counted from 1; None where there is none. Every thread has its own."""
