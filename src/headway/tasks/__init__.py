"""Floor 2, training side: what a recipe's `task` names. A user's own task needs only `Task`, `Parts` and `Arrays`."""

from headway.tasks.parts import Arrays, Parts, split
from headway.tasks.task import ACCURACY, Metric, Task

__all__ = ["ACCURACY", "Arrays", "Metric", "Parts", "Task", "split"]
