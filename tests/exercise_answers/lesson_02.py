"""Wrong answers to the exercises of lesson 02, with what the learner is told."""

from __future__ import annotations

WRONG: dict[str, list] = {}
