"""8-bit quantization of an ONNX graph: static, dynamic, or of its weights alone; each with 8-bit embedding tables."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from headway.compress.searchable import OneOf
from headway.compress.step import JsonRecord, StepContext
from headway.core.config import Config
from headway.core.errors import TaskError
from headway.core.machine import Int8Choice
from headway.core.tensors import Array, TensorSpec
from headway.tasks.parts import Indices

if TYPE_CHECKING:
    import onnx

    from headway.compress.qdq import Form

_MEMORY = 256e6  # bytes of activations that one calibration run may bring about
_MOST_ROWS = 64


class MixedConfig(Config):
    """Leaves the layers in 32 bits that lose most in 8, as measured on selection data."""

    keep_accuracy: float = Field(
        0.995, gt=0, le=1.5, description="Share of the FP32 graph's metric on selection data that is to be kept."
    )
    minutes: float = Field(
        10, gt=0, le=10_000, description="Time for measuring; with less, layers are taken in groups."
    )
    rows: int = Field(512, ge=1, description="Rows of the selection part that are used, at most.")


class QuantizeConfig(Config):
    """INT8 in ONNX, and embedding tables of 8 bits."""

    mode: Annotated[Literal["static", "dynamic", "weights"], OneOf("static", "dynamic")] = Field(
        "static",
        description="`static`: activation ranges come from calibration data. `dynamic`: they are taken at run time, of "
        "MatMul and Gemm alone. `weights`: only the weights of MatMul and Gemm are in 8 bits.",
    )
    calibration: Annotated[Literal["minmax", "percentile", "entropy"], OneOf()] = Field(
        "entropy", description="How ranges are chosen: the extremes, without the rarest values, or by least divergence."
    )
    percentile: float = Field(
        99.99, gt=50, le=100, description="Percent of an activation's values kept in range, for `percentile`."
    )
    keep_fp32: Annotated[tuple[str, ...] | None, OneOf(None, [])] = Field(
        None,
        description="Layers left in 32 bits: `first`, `last` (of those with weights), or node names; by default "
        "`[first, last]` for `static` without `mixed`, else none.",
    )
    embeddings: Literal["int8", "fp32"] = Field("int8", description="How embedding tables are stored: one scale a row.")
    least_weights: int = Field(
        16384,
        ge=0,
        description="Elements of the smallest weight that `dynamic` and `weights` take, and of the smallest table: "
        "less gains neither time nor size.",
    )
    per_channel: bool = Field(True, description="One weight scale for each output channel, else one for each tensor.")
    weight_range: Literal["auto", "full", "reduced"] = Field(
        "auto",
        description="`reduced` weights span [-64, 64], so that CPUs without VNNI do not saturate; `auto` asks the CPU.",
    )
    samples: int = Field(512, ge=1, description="Rows of the calibration part that are used, at most.")
    mixed: Annotated[MixedConfig | None, OneOf(None, {"minutes": 1})] = Field(
        None, description="Layers that lose too much in 8 bits stay in 32; null leaves it at `keep_fp32`."
    )

    @property
    def layers_kept(self) -> tuple[str, ...]:
        """`keep_fp32`, or its default."""
        if self.keep_fp32 is not None:
            return self.keep_fp32
        return ("first", "last") if self.mode == "static" and self.mixed is None else ()

    def choice(self, machine: Int8Choice) -> Int8Choice:
        """The 8-bit form, where the machine would take `machine`."""
        if self.mode == "weights":  # seen on an emulated Haswell
            return machine.model_copy(update={"weight_range": "full", "reason": "8-bit weights alone saturate nowhere"})
        if self.weight_range == "auto":
            return machine
        return machine.model_copy(update={"weight_range": self.weight_range, "reason": "as the recipe says"})

    def calibration_rows(self, count: int) -> Indices:
        """Rows of a calibration part of `count` rows, drawn once, in ascending order."""
        return np.sort(np.random.default_rng(0).permutation(count)[: self.samples])


class Quantize:
    """Writes an ONNX graph in 8 bits; needs the graph and, where it is static, calibration data, but no torch module.

    Args:
        config: the settings.
    """

    stage: ClassVar[Literal["graph"]] = "graph"
    Config: ClassVar[type[Config]] = QuantizeConfig
    precision: ClassVar[str] = "int8"

    def __init__(self, config: QuantizeConfig | None = None) -> None:
        self.config = config or QuantizeConfig()

    def apply(self, graph: Path, out: Path, context: StepContext) -> JsonRecord:
        """Write `graph` in 8 bits to `out`; a static form is calibrated on the task's calibration part.

        Returns:
            The ranges and the form: with `graph`, all that the file is made of.

        Raises:
            TaskError: nothing to quantize, or the task's inputs do not fit the graph's.
            ConfigError: `keep_fp32` names a node that is not there.
            DataError: no calibration data, or NaN in what it brings about.
            FormatError: not an ONNX model.
        """
        from headway.compress import qdq

        choice = self.config.choice(context.machine.int8)
        model = qdq.prepare(graph)
        form = self._form(model, choice)
        static = form.mode == "static"
        ranges = self._ranges(model, qdq.activations(model, form.float_nodes), context) if static else {}
        found: JsonRecord = {}
        if self.config.mixed is not None and (layers := self._layers(model)):
            from headway.compress.sensitivity import Search

            form, story = Search(model, ranges, form, layers, self.config.mixed, context).run()
            found = {"mixed": story}
        qdq.write(model, out, ranges, form)
        context.progress.say(_summary(out, form, choice.reason))
        return {
            **found,
            "form": {**dataclasses.asdict(form), "float_nodes": list(form.float_nodes), "tables": list(form.tables)},
            "reason": choice.reason,
            "ranges": {name: list(limits) for name, limits in ranges.items()},
        }

    def replay(self, graph: Path, out: Path, record: Mapping[str, Any]) -> None:
        """Write the same bytes again from the same graph and the record, without data."""
        from headway.compress import qdq

        form = dict(record["form"])
        form["float_nodes"], form["tables"] = tuple(form["float_nodes"]), tuple(form["tables"])
        ranges = {name: (low, high) for name, (low, high) in record["ranges"].items()}
        qdq.write(qdq.prepare(graph), out, ranges, qdq.Form(**form))

    def _layers(self, model: "onnx.ModelProto") -> list[str]:
        """Names of the nodes with weights that this mode can quantize."""
        from headway.compress import qdq, rewrite

        return qdq.weighted_nodes(model) if self.config.mode == "static" else rewrite.products(model)

    def _form(self, model: "onnx.ModelProto", choice: Int8Choice) -> "Form":
        """What is quantized: a form that names every node and table."""
        from headway.compress import qdq, rewrite

        config, static = self.config, self.config.mode == "static"
        tables = rewrite.tables(model, config.least_weights) if config.embeddings == "int8" else []
        weighted = self._layers(model)
        kinds = qdq.WEIGHTED if static else ("MatMul", "Gemm")
        if not tables or not static:
            qdq.require_weighted(model, [*weighted, *tables], kinds)
        kept = qdq.float_nodes(model, weighted, config.layers_kept) if weighted else ()
        if not static:
            worth = set(rewrite.products(model, config.least_weights))
            kept = tuple(name for name in weighted if name in kept or name not in worth)
        else:
            left = [node for node in model.graph.node if node.op_type == "Gather" and node.name not in kept]
            others = set(rewrite.tables(model, 0)) - set(tables)
            kept += tuple(node.name for node in left if node.input[0] in others)
        if not tables and set(weighted) <= set(kept):
            raise TaskError(
                f"all {len(weighted)} layers with weights stay in 32 bits: there is nothing left to quantize",
                where="quantize",
                remedy="Keep fewer in 32 bits (keep_fp32)" + (", or lower least_weights." if not static else "."),
            )
        mode = config.mode if weighted else "weights"  # a table alone needs no calibration
        return qdq.Form(mode, choice.weight_range, choice.activations, config.per_channel, kept, tuple(tables))

    def _ranges(
        self, model: "onnx.ModelProto", tensors: Sequence[str], context: StepContext
    ) -> dict[str, tuple[float, float]]:
        from headway.compress import calibration, qdq
        from headway.runtimes.onnx_runtime import OnnxRuntime

        part = context.task.parts.calibration
        rows = self.config.calibration_rows(len(part))
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
            together = 1 if context.task.varying else together  # padding has activations too, and no place in a range
            with context.progress.work("calibrate", len(rows) * passes) as bar:

                def batches() -> Iterator[dict[str, Array]]:
                    for start in range(0, len(rows), together):
                        chosen = rows[start : start + together]
                        yield match(session.inputs, part.batch(chosen)[0])
                        bar.advance(len(chosen))

                return calibration.find_ranges(run, batches, self.config.calibration, self.config.percentile)
        finally:
            session.close()


def _summary(file: Path, form: "Form", reason: str) -> str:
    from headway.compress import qdq

    made = qdq.fusion(file)
    parts = [f"{made.integer} layers in 8 bits, {made.floating} in 32, {made.conversions} conversions between"]
    parts += [f"{len(form.tables)} tables in 8 bits"] if form.tables else []
    return f"int8, {form.mode}: {'; '.join(parts)}; {form.weight_range} weight range ({reason})"


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
