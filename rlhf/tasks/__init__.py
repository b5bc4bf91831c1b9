"""A small bilingual world of instruction tasks with a checker that knows the right answer.

The checker is independent of any reward model, so the effect of reinforcement learning from a learned
reward can be measured instead of believed.
"""

from rlhf.tasks.checker import correct_answer, gold_score, is_checkable, require_answerable
from rlhf.tasks.sums import SumsConfig, write_sums
from rlhf.tasks.world import WorldConfig, write_world

__all__ = [
    "SumsConfig", "WorldConfig", "correct_answer", "gold_score", "is_checkable", "require_answerable",
    "write_sums", "write_world",
]
