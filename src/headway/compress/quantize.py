"""Static 8-bit quantization of an ONNX graph: ranges are fixed from calibration data, weights are stored in 8 bits."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from headway.compress.step import JsonRecord, StepContext
from headway.core.config import Config
from headway.core.errors import TaskError
from headway.core.machine import Int8Choice
from headway.core.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import onnx

_MEMORY = 256e6  # bytes of activations that one calibration run may bring about
_MOST_ROWS = 64


class QuantizeConfig(Config):
    """Static INT8 in ONNX QDQ form."""

    mode: Literal["static"] = Field("static", description="`static`: activation ranges come from calibration data.")
    calibration: Literal["minmax", "percentile", "entropy"] = Field(
        "entropy", description="How ranges are chosen: the extremes, without the rarest values, or by least divergence."
    )
    percentile: float = Field(
        99.99, gt=50, le=100, description="Percent of an activation's values kept in range, for `percentile`."
    )
    keep_fp32: tuple[str, ...] = Field(
        ("first", "last"), description="Layers left in 32 bits: `first`, `last` (of those with weights), or node names."
    )
    per_channel: bool = Field(True, description="One weight scale for each output channel, else one for each tensor.")
    weight_range: Literal["auto", "full", "reduced"] = Field(
        "auto",
        description="`reduced` weights span [-64, 64], so that CPUs without VNNI do not saturate; `auto` asks the CPU.",
    )
    samples: int = Field(512, ge=1, description="Rows of the calibration part that are used, at most.")


class Quantize:
    """Writes an ONNX graph in 8 bits; needs the graph and calibration data, no torch module.

    Args:
        config: the settings.
    """

    stage: ClassVar[Literal["graph"]] = "graph"
    Config: ClassVar[type[Config]] = QuantizeConfig
    precision: ClassVar[str] = "int8"

    def __init__(self, config: QuantizeConfig | None = None) -> None:
        self.config = config or QuantizeConfig()

    def apply(self, graph: Path, out: Path, context: StepContext) -> JsonRecord:
        """Calibrate `graph` on the task's calibration part and write it in 8 bits to `out`.

        Returns:
            The ranges and the form: with `graph`, all that the file is made of.

        Raises:
            TaskError: nothing to quantize, or the task's inputs do not fit the graph's.
            ConfigError: `keep_fp32` names a node that is not there.
            DataError: no calibration data, or NaN in what it brings about.
            FormatError: not an ONNX model.
        """
        from headway.compress import qdq

        choice = self._choice(context.machine.int8)
        model = qdq.prepare(graph)
        form = qdq.Form(
            weight_range=choice.weight_range,
            activations=choice.activations,
            per_channel=self.config.per_channel,
            float_nodes=qdq.float_nodes(model, self.config.keep_fp32),
        )
        ranges = self._ranges(model, qdq.activations(model, form.float_nodes), context)
        record: JsonRecord = {
            "form": {
                "weight_range": form.weight_range,
                "activations": form.activations,
                "per_channel": form.per_channel,
                "float_nodes": list(form.float_nodes),
            },
            "reason": choice.reason,
            "ranges": {name: list(limits) for name, limits in ranges.items()},
        }
        qdq.write(model, out, ranges, form)
        made = qdq.fusion(out)
        context.progress.say(
            f"int8: {made.integer} layers in 8 bits, {made.floating} in 32, {made.conversions} conversions between; "
            f"{form.weight_range} weight range ({choice.reason})"
        )
        return record

    def replay(self, graph: Path, out: Path, record: Mapping[str, Any]) -> None:
        """Write the same bytes again from the same graph and the record, without data."""
        from headway.compress import qdq

        form = dict(record["form"])
        form["float_nodes"] = tuple(form["float_nodes"])
        ranges = {name: (low, high) for name, (low, high) in record["ranges"].items()}
        qdq.write(qdq.prepare(graph), out, ranges, qdq.Form(**form))

    def _choice(self, machine: Int8Choice) -> Int8Choice:
        if self.config.weight_range == "auto":
            return machine
        return machine.model_copy(update={"weight_range": self.config.weight_range, "reason": "as the recipe says"})

    def _ranges(
        self, model: "onnx.ModelProto", tensors: Sequence[str], context: StepContext
    ) -> dict[str, tuple[float, float]]:
        from headway.compress import calibration, qdq
        from headway.runtimes.onnx_runtime import OnnxRuntime

        part = context.task.parts.calibration
        rows = np.sort(np.random.default_rng(0).permutation(len(part))[: self.config.samples])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "exposed.onnx"
            file.write_bytes(qdq.exposing(model, tensors).SerializeToString())
            session = OnnxRuntime().load(file, threads=context.threads)
        wanted = set(tensors)

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            return {name: value for name, value in {**inputs, **session.run(inputs)}.items() if name in wanted}

        passes = 1 if self.config.calibration == "minmax" else 2
        try:
            first = run(match(session.inputs, part.batch(rows[:1])[0])) if len(rows) else {}
            together = int(np.clip(_MEMORY // max(1, sum(v.nbytes for v in first.values())), 1, _MOST_ROWS))
            with context.progress.work("calibrate", len(rows) * passes) as bar:

                def batches() -> Iterator[dict[str, Array]]:
                    for start in range(0, len(rows), together):
                        chosen = rows[start : start + together]
                        yield match(session.inputs, part.batch(chosen)[0])
                        bar.advance(len(chosen))

                return calibration.find_ranges(run, batches, self.config.calibration, self.config.percentile)
        finally:
            session.close()


def match(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The task's inputs under the graph's names: by name where the names are the same, else by position.

    Raises:
        TaskError: their number, a datatype or a shape differs from what the graph takes.
    """
    by_name = {spec.name for spec in specs} == set(inputs)
    if len(specs) != len(inputs):
        raise TaskError(
            f"the graph takes {[spec.name for spec in specs]}, the task gives {list(inputs)}",
            remedy="Give the task's inputs the graph's names.",
        )
    values = [inputs[spec.name] for spec in specs] if by_name else list(inputs.values())
    for spec, value in zip(specs, values, strict=True):
        if value.dtype != spec.dtype or not spec.admits(value.shape):
            raise TaskError(
                f"input {spec.name!r} takes {spec.datatype} {list(spec.shape)}, "
                f"the task gives {value.dtype} {list(value.shape)}"
            )
    return {spec.name: value for spec, value in zip(specs, values, strict=True)}
