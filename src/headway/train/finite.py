"""Why a loss or a gradient is no longer finite, as far as can be told."""

import torch

from headway.core.errors import DataError, HeadwayError, TaskError
from headway.tasks.parts import Indices, Part
from headway.train.health import not_finite
from headway.train.loader import read
from headway.train.plan import Plan
from headway.train.precision import Precision


def why_not_finite(
    what: str, rows: Indices, model: torch.nn.Module, part: Part, plan: Plan, step: int, precision: Precision
) -> HeadwayError:
    """The error to raise: the data's fault where a row is not finite before augmentation, else what might help.

    Args:
        what: "the loss" or "a gradient".
        rows: of the batch it was seen on.
    """
    config = plan.config
    where = f"step {step + 1} of {plan.steps}, epoch {plan.epoch(step) + 1}"
    for name, value in read(part, rows)[0].items():
        bad = [i for i, row in enumerate(torch.from_numpy(value)) if not row.isfinite().all()]
        if bad:
            return DataError(f"input {name!r} of training row {rows[bad[0]]} is not finite", where=where)
    advice = [f"a smaller train.lr (now {config.lr:g})", "a longer train.warmup"]
    advice += ["train.clip: 1.0"] if config.clip is None else []
    advice += ["train.precision: fp32"] if precision.name != "fp32" else []
    if layers := not_finite(model):
        what += f" (of {layers[0]}{f' and {len(layers) - 1} more' if len(layers) > 1 else ''})"
    return TaskError(f"{what} is no longer finite", where=where, remedy=f"Try {', or '.join(advice)}.")
