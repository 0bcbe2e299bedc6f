"""Why a variant is not faster than the one it was made from: both are profiled, and the causes named."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.core import machine, plugins
from headway.core.errors import HeadwayError
from headway.core.files import write_atomic
from headway.core.progress import Progress
from headway.core.tensors import Array
from headway.measure.causes import Comparison, compare
from headway.measure.profile import profile
from headway.runtimes.profiling import Profiles
from headway.runtimes.runtime import Runtime
from headway.shipping.evaluate import OverParent, Subject
from headway.shipping.recipe import Target
from headway.shipping.store import Store

_GAIN = 1.05  # what is surely less is not worth a step
_METHOD = 1  # raised when profiles or causes come about in another way


@dataclass(frozen=True)
class Slower:
    """A variant that is not faster, beside its parent."""

    over: OverParent
    comparison: Comparison

    def document(self) -> dict[str, Any]:
        """What `headway ship --json` prints of it."""
        causes = [cause.document() for cause in self.comparison.causes]
        unknown = {"cause": "unknown", "evidence": self.comparison.summary, "try": ""}
        first = {key: causes[0][key] for key in unknown} if causes else unknown
        return {"than": self.over.parent, "speedup": list(self.over.speedup), **first, "causes": causes}


def not_faster(over: OverParent) -> bool:
    """Whether its speed calls for a reason: at the median it is no faster, or it is surely less than 5% faster."""
    _, middle, high = over.speedup
    return middle <= 1 or high < _GAIN


def explain(
    over_parent: Mapping[str, OverParent],
    subjects: Mapping[str, Subject],
    inputs: Mapping[str, Array],
    target: Target,
    store: Store,
    progress: Progress,
) -> dict[str, Slower]:
    """The reasons for every variant that is not faster than its parent, by id; profiles come from the store or anew.

    Args:
        over_parent: the variants' speed beside their parents'.
        subjects: all variants.
        inputs: one row to run on.
        target: threads and device.
        store: where comparisons are kept.
        progress: told of profiling, and of what cannot be profiled.
    """
    found = {}
    for id_, over in over_parent.items():
        if not not_faster(over):
            continue
        runtime = plugins.load("headway.runtimes", subjects[id_].runtime)()
        if not isinstance(runtime, Profiles):
            continue
        files = {over.parent: subjects[over.parent].built.file, id_: subjects[id_].built.file}

        def build(out: Path, scratch: Path, runtime: Runtime = runtime, files: Mapping[str, Path] = files) -> None:
            names = list(files)
            device = target.devices[0]
            made = profile(runtime, files, inputs, device=device, threads=target.threads, progress=progress)
            write_atomic(out / "comparison.json", compare(made[names[0]], made[names[1]]).model_dump_json())

        key = {
            "files": [subjects[name].built.digest for name in files],
            "runtime": [runtime.name, runtime.available().detail],
            "shapes": {name: list(value.shape) for name, value in inputs.items()},
            "threads": target.threads,
            "method": _METHOD,
            "machine": machine.here().model_dump(mode="json"),
        }
        try:
            text = (store.stage("profile", key, build) / "comparison.json").read_text(encoding="utf-8")
        except HeadwayError as error:  # a verdict does not depend on it
            progress.say(f"{id_} is not faster than {over.parent}, and cannot be profiled: {error}")
            continue
        found[id_] = Slower(over, Comparison.model_validate_json(text))
    return found
