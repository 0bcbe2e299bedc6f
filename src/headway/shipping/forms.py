"""Every plan as the runtimes want it: ONNX for all, and 8 bits in OpenVINO's own form where they can be had."""

from collections.abc import Sequence

from headway.compress import nncf
from headway.core.errors import MissingDependencyError, WorkerError
from headway.core.progress import Progress
from headway.export.environments.environment import environment, ready
from headway.runtimes.runtime import Runtime
from headway.shipping.build import Builder, Built, has_openvino
from headway.shipping.plan import Plan

_OPENVINO = "openvino"


def build_all(builder: Builder, plans: Sequence[Plan], runtimes: Sequence[Runtime], progress: Progress) -> list[Built]:
    """Build every plan, and beside those with a static `quantize` their form for OpenVINO.

    That is made by NNCF in an environment of its own, which is made here only where the recipe names OpenVINO in
    `target.runtimes`: nobody else expects 430 MB. What cannot be made is told, and is no variant.

    Args:
        builder: of the recipe.
        plans: to build, in this order.
        runtimes: that variants will be tried on.
        progress: told of what is not tried, and why.
    """
    wanted = any(runtime.name == _OPENVINO for runtime in runtimes) and any(map(has_openvino, plans))
    wanted = wanted and _can_be_made(builder, progress)
    built = []
    for plan in plans:
        built.append(builder.build(plan))
        if wanted and (own := _openvino(builder, plan, progress)) is not None:
            built.append(own)
    return built


def _can_be_made(builder: Builder, progress: Progress) -> bool:
    """Whether the environment is there, made now where the recipe asks for it."""
    if ready(nncf.NAME) is not None:
        return True
    if _OPENVINO not in builder.recipe.config.target.runtimes:
        progress.say(
            "8 bits are not tried in OpenVINO: what makes them needs an environment of 430 MB; make it once with"
            " `headway cache make nncf`, or name openvino in target.runtimes"
        )
        return False
    try:
        environment(nncf.NAME, progress)
    except MissingDependencyError as error:
        progress.say(f"8 bits are not tried in OpenVINO: {error}")
        return False
    return True


def _openvino(builder: Builder, plan: Plan, progress: Progress) -> Built | None:
    try:
        return builder.build_openvino(plan)
    except WorkerError as error:  # it does not suit NNCF; the other variants do not hang on that
        progress.say(f"{plan.id} is not tried in OpenVINO: {error}")
        return None
