"""Mixed precision from measurement: which layers cost accuracy in 8 bits, and what each would cost in 32.

Layers are looked at one group at a time (one layer each, or several in a row where the time is short):

- alone in 8 bits: how far the outputs move, and what of the metric is lost, on selection data;
- alone in 32 bits, all others in 8: how many milliseconds a run takes longer.

Then groups stay in 32 bits, those first that move the outputs most for each millisecond, until the metric on selection
data keeps what is asked. Errors of single layers are taken to add up as independent ones do (squares), which orders
candidates well; the metric itself is measured again on each file that is tried.

Beside that stands how far 8 bits move each layer's weights, channel by channel. It says what an error comes from: the
weights (channels of unlike ranges under one scale), or else the ranges of what flows through.

Every group's figures are kept in the step's folder, so that an interrupted search goes on; `trials.py` bounds memory.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.compress.calibration import Range
from headway.compress.qdq import Form
from headway.compress.quantize import MixedConfig
from headway.compress.rewrite import LIMITS, scaled
from headway.compress.step import JsonRecord, StepContext
from headway.compress.trials import SECONDS, Scored, Trials
from headway.core.files import digest_json, write_atomic

if TYPE_CHECKING:
    import onnx

_SHARE = 0.75  # of the budget that the ranking may take; the search among its prefixes has the rest
_RECTIFIERS = ("Relu", "Clip", "LeakyRelu")  # ONNX Runtime fuses them with the layer before


@dataclass(frozen=True)
class Finding:
    """What is known of a group of layers.

    Attributes:
        nodes: their names.
        error: of the outputs, with these layers alone in 8 bits: root of the summed squares, against those of FP32.
        lost: of the metric, likewise, as a share of FP32's.
        saved_ms: milliseconds a run that 8 bits save here, everything else being in 8 bits.
    """

    nodes: tuple[str, ...]
    error: float
    lost: float
    saved_ms: float

    def order(self, least_ms: float) -> float:
        """Squared error for each millisecond: the greatest first stays in 32 bits."""
        return self.error**2 / max(self.saved_ms, least_ms)


class Search:
    """Finds which layers stay in 32 bits.

    Args:
        model: as `qdq.prepare` gives it.
        ranges: of all activations that `form` quantizes.
        form: all that may be in 8 bits is.
        weighted: names of the layers that are weighed against each other.
        config: target and budget.
        context: where the step works.
    """

    def __init__(
        self,
        model: "onnx.ModelProto",
        ranges: Mapping[str, Range],
        form: Form,
        weighted: Sequence[str],
        config: MixedConfig,
        context: StepContext,
    ) -> None:
        self.model, self.form, self.config, self.context = model, form, config, context
        self.layers = [name for name in weighted if name not in form.float_nodes]
        self._trials = Trials(model, ranges, form, config.rows, context)
        self._demand = config.keep_accuracy * self._trials.original
        self._kept = context.folder / "sensitivity.json"
        self._end = time.monotonic() + _SHARE * 60 * config.minutes
        self._key = digest_json(
            {
                "graph": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
                "form": asdict(form),
                "ranges": {name: list(limits) for name, limits in ranges.items()},
                "data": context.task.parts.selection.digest(),
                "rows": len(self._trials.rows),
                "minutes": config.minutes,
            }
        )

    def run(self) -> tuple[Form, JsonRecord]:
        """The form with the least number of groups in 32 bits that reaches the target, and the whole story.

        Raises:
            TaskError: the task's metric fails.
        """
        began, trials = time.monotonic(), self._trials
        try:
            whole, seconds = trials.timed_score(self.form)
            groups = self._groups(seconds)
            findings = self._findings(groups)
            least = trials.milliseconds / (100 * len(self.layers))  # less is noise
            ranked = sorted(findings, key=lambda finding: finding.order(least), reverse=True)
            kept, tried = self._shortest(ranked, whole)
        finally:
            trials.close()
        chosen = [node for finding in ranked[:kept] for node in finding.nodes]
        score, reached = tried[kept].score, tried[kept].score >= self._demand
        self.context.progress.say(
            f"mixed precision: {len(chosen)} of {len(self.layers)} layers stay in 32 bits; on selection data "
            f"{score:.4f} of FP32's {trials.original:.4f}"
            + ("" if reached else f", below the {self._demand:.4f} asked")
        )
        return self._without(chosen), {
            "rows": len(trials.rows),
            "original": trials.original,
            "all_8_bit": whole.score,
            "demand": self._demand,
            "reached": reached,
            "p50_ms": trials.milliseconds,
            "per_channel": self.form.per_channel,
            "ranking": [{**self._told(f), "fp32": i < kept} for i, f in enumerate(ranked)],
            "unmeasured": [list(group) for group in groups[len(findings) :]],
            "tried": [{"groups": k, "score": s.score, "error": s.error} for k, s in sorted(tried.items())],
            "seconds": round(time.monotonic() - began, 1),
        }

    def _told(self, finding: Finding) -> JsonRecord:
        """A finding under the names that a module's author knows; the layer whose weights err most comes first."""
        weights = [weight_error(self.model, name, self.form) for name in finding.nodes]
        weights.sort(key=lambda weight: weight[1], reverse=True)
        return {
            **asdict(finding),
            "nodes": list(finding.nodes),
            "layers": [name for name, _ in weights],
            "weight_error": weights[0][1],
        }

    # -- the ranking -----------------------------------------------------------------------------------------------

    def _groups(self, seconds: float) -> list[tuple[str, ...]]:
        """Layers, in as many groups as the budget can measure; those of an interrupted search are kept."""
        saved = self._read()
        if saved is not None:
            return [tuple(group) for group in saved["groups"]]
        each = 2 * seconds + SECONDS
        count = int(np.clip(_SHARE * 60 * self.config.minutes / each, 1, len(self.layers)))
        cuts = np.array_split(np.arange(len(self.layers)), count)
        return [tuple(self.layers[i] for i in cut) for cut in cuts]

    def _findings(self, groups: Sequence[tuple[str, ...]]) -> list[Finding]:
        """As many groups as there is time for, at least one; the groups come in graph order."""
        saved = self._read()
        found = [Finding(tuple(f.pop("nodes")), **f) for f in saved["findings"]] if saved else []
        if found:
            self.context.progress.say(f"sensitivity: going on after {len(found)} of {len(groups)} groups")
        with self.context.progress.work("sensitivity", len(groups)) as bar:
            bar.advance(len(found))
            for group in groups[len(found) :]:
                if found and time.monotonic() > self._end:
                    break
                found.append(self._measure(group))
                self._write(groups, found)
                bar.advance(1, group[0])
            bar.advance(len(groups) - len(found))
        return found

    def _measure(self, group: tuple[str, ...]) -> Finding:
        alone = self._trials.score(self._only(group))
        saved_ms = self._trials.slower_ms(self._without(group))
        return Finding(group, alone.error, 1 - alone.score / self._trials.original, saved_ms)

    def _read(self) -> dict[str, Any] | None:
        try:
            saved = json.loads(self._kept.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return saved if isinstance(saved, dict) and saved.get("key") == self._key else None

    def _write(self, groups: Sequence[tuple[str, ...]], findings: Sequence[Finding]) -> None:
        content = {"key": self._key, "groups": groups, "findings": [asdict(finding) for finding in findings]}
        write_atomic(self._kept, json.dumps(content))

    # -- the choice ------------------------------------------------------------------------------------------------

    def _shortest(self, ranked: Sequence[Finding], whole: Scored) -> tuple[int, dict[int, Scored]]:
        """How many of the first groups stay in 32 bits, and the figures of every number tried.

        By bisection: each group more is taken to bring the metric nearer. The last of all stays in 8 bits whatever it
        costs, as the file would otherwise be the one that was given.
        """
        tried = {0: whole}
        if whole.score >= self._demand or len(ranked) < 2:
            return 0, tried
        low, high = 0, len(ranked) - 1
        with self.context.progress.work("mixed precision", math.ceil(math.log2(high + 1)) + 1) as bar:
            tried[high] = self._prefix(ranked, high)
            bar.advance(1)
            while tried[high].score >= self._demand and high - low > 1:
                middle = (low + high) // 2
                tried[middle] = self._prefix(ranked, middle)
                low, high = (low, middle) if tried[middle].score >= self._demand else (middle, high)
                bar.advance(1, f"{high} groups in 32 bits")
        if tried[high].score < self._demand:  # out of reach: the best of what was tried, and of these the fastest
            high = min(tried, key=lambda count: (-tried[count].score, count))
        return high, tried

    def _prefix(self, ranked: Sequence[Finding], count: int) -> Scored:
        return self._trials.score(self._without([node for finding in ranked[:count] for node in finding.nodes]))

    def _without(self, nodes: Sequence[str]) -> Form:
        """`form` with `nodes` in 32 bits."""
        return replace(self.form, float_nodes=tuple(dict.fromkeys((*self.form.float_nodes, *nodes))))

    def _only(self, nodes: Sequence[str]) -> Form:
        """Only `nodes`, and the rectifiers that fuse with them, in 8 bits."""
        made = {out for node in self.model.graph.node if node.name in nodes for out in node.output}
        fused = {n.name for n in self.model.graph.node if n.op_type in _RECTIFIERS and n.input[0] in made}
        others = (n.name for n in self.model.graph.node if n.name not in nodes and n.name not in fused)
        return replace(self.form, float_nodes=tuple(others), tables=())


def weight_error(model: "onnx.ModelProto", node: str, form: Form) -> tuple[str, float]:
    """What a layer's weight is called, and how far its 8 bits move a channel of it: norm by norm, the mean of all.

    The name is the module's, where a module was exported.
    """
    from onnx import numpy_helper

    found = next(item for item in model.graph.node if item.name == node)
    constants = {item.name: item for item in model.graph.initializer}
    name = next(name for name in found.input if name in constants)
    values = numpy_helper.to_array(constants[name])
    turned = any(item.name == "transB" and item.i for item in found.attribute)
    axis = 0 if found.op_type == "Conv" or turned else values.ndim - 1
    values = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)  # [channels, weights]
    codes, scale = scaled(values, 0 if form.per_channel else None, LIMITS[form.weight_range])
    off = np.linalg.norm(values - codes * scale.reshape(-1, 1), axis=1)
    share = off / np.maximum(np.linalg.norm(values, axis=1), np.finfo(np.float32).tiny)
    return name.removeprefix("model.").removesuffix(".weight"), float(share.mean())
