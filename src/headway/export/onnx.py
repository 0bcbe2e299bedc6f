"""ONNX: the format that every runtime here reads.

PyTorch's exporter traces the module with `torch.export`, folds batch normalization into convolutions and translates
the rest; `docs/decisions/0010-onnx-export.md` says which settings and why. What it wrote is then run in ONNX Runtime
on one row and on three and compared with the module, since a trace that froze a batch size or a branch looks sound.
"""

import re
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headway.core.errors import TaskError, UsageError
from headway.core.files import write_atomic
from headway.core.tensors import DYNAMIC, Array, TensorSpec, from_numpy
from headway.export.export import NOTHING
from headway.export.quiet import quiet
from headway.runtimes.formats import require_whole_onnx

if TYPE_CHECKING:
    import onnx
    import torch

Varying = Mapping[str, Mapping[int, str]]
OPSET = (
    20  # what PyTorch 2.13's translations are written to: an older one needs a conversion, a newer one gains nothing
)
_LARGEST = 2**31 - 2**20  # a protobuf message ends at 2 GiB; a mebibyte is left for the graph itself
_AGREEMENT = 1e-4
_OPERATION = re.compile(r"OpOverload\(op='(?:aten\.|prims\.)?([^']+)'")
_TRACED = re.compile(r'File "([^"]+)", line (\d+)')


class OnnxExport:
    """Writes ONNX with the weights inside the file."""

    format = "onnx"
    suffix = ".onnx"

    def write(
        self,
        model: "torch.nn.Module",
        example: Mapping[str, Array],
        output_names: Sequence[str],
        out: Path,
        varying: Varying = NOTHING,
    ) -> None:
        """Write `model`, put into evaluation mode, to `out`; the first dimension of inputs and outputs is `batch`.

        Args:
            model: the module; it stays as it is, in evaluation mode.
            example: inputs by name, in the order the module takes them, each [2, ...].
            output_names: what the outputs are to be called.
            out: the file; it appears whole or not at all.
            varying: further dimensions that vary, by input, with their names; the example is at least 2 in each.

        Raises:
            TaskError: an operation has no ONNX form, a dimension cannot vary, the weights pass 2 GB, or ONNX Runtime
                disagrees with the module by more than 1e-4 of its largest output.
        """
        size = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
        if size > _LARGEST:
            raise TaskError(f"{size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB", remedy="Shrink the model.")
        references = [(inputs, _eager(model, inputs, output_names)) for inputs in _rows(example, varying)]
        graph = _clean(_export(model, example, output_names, varying), varying)
        _check(graph, references)
        write_atomic(out, graph.SerializeToString(deterministic=True))

    def convert(self, file: Path, out: Path, *, batch: int | None = None) -> tuple[Path, ...]:
        """The file as it is, or with a batch that is fixed; see `Converts`."""
        require_whole_onnx(file)
        write_atomic(out, file.read_bytes() if batch is None else _fix_batch(file, batch))
        return (out,)


def _fix_batch(file: Path, batch: int) -> bytes:
    """The file with the first dimension of what varies in it set to `batch`, and so wherever it has the same name."""
    import onnx

    model = onnx.load(file)
    weights = {tensor.name for tensor in model.graph.initializer}
    firsts = [i.type.tensor_type.shape.dim[:1] for i in model.graph.input if i.name not in weights]
    varying = [dim for first in firsts for dim in first if not dim.HasField("dim_value")]
    if not varying:
        raise UsageError("the batch does not vary", where=str(file), remedy="Leave --batch out.")
    symbols = {dim.dim_param for dim in varying} - {""}
    for dim in varying:
        dim.dim_value = batch
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = batch
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def _rows(example: Mapping[str, Array], varying: Varying) -> list[dict[str, Array]]:
    """The example as one row and as three: batch sizes that the trace has not seen. One row has half of what else
    varies: no model need take more than it was traced with.
    """
    one, three = ({name: value.take(rows, axis=0) for name, value in example.items()} for rows in ([0], [0, 1, 0]))
    for name, dims in varying.items():
        for axis in dims:
            one[name] = one[name].take(np.arange((one[name].shape[axis] + 1) // 2), axis)
    return [one, three]


def _eager(model: "torch.nn.Module", inputs: Mapping[str, Array], output_names: Sequence[str]) -> dict[str, Array]:
    """What the module itself answers.

    Raises:
        TaskError: it raises, or its outputs have not one row for each row of the inputs.
    """
    from headway.runtimes.torch_eager import TorchEagerSession

    specs = tuple(
        TensorSpec(name=name, datatype=from_numpy(value.dtype).name, shape=(DYNAMIC, *value.shape[1:]))
        for name, value in inputs.items()
    )
    session = TorchEagerSession(model, specs, output_names)
    try:
        outputs = session.run(inputs)
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"the model raises {type(error).__name__}: {_line(error)}", where=_place(error)) from error
    finally:
        session.close()
    rows = len(next(iter(inputs.values())))
    for name, value in outputs.items():
        if value.dtype.kind == "f" and np.isnan(value).any():
            raise TaskError(f"output {name!r} is NaN for rows of the data", remedy="Look for NaN in weights and data.")
        if value.shape[:1] != (rows,):
            raise TaskError(
                f"output {name!r} has shape {value.shape} for {rows} rows of input",
                remedy="The first dimension of every output must be the batch.",
            )
    return outputs


def _export(
    model: "torch.nn.Module", example: Mapping[str, Array], output_names: Sequence[str], varying: Varying
) -> "onnx.ModelProto":
    import torch

    from headway.export.wrapper import ByName
    from headway.runtimes.torch_eager import to_torch

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    # Cloned: a view of a large array would be exported with all of it.
    tensors = tuple(to_torch(value).clone().to(device) for value in example.values())
    dims = {name: torch.export.Dim(name) for name in ("batch", *_names(varying))}
    shapes = tuple({0: dims["batch"], **{a: dims[n] for a, n in varying.get(name, {}).items()}} for name in example)
    with quiet():
        try:
            program = torch.export.export(
                ByName(model, tuple(example), tuple(output_names)).eval(),
                tensors,
                dynamic_shapes=(shapes,),
                strict=False,
            )
            written = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(example),
                output_names=list(output_names),
            )
        except Exception as error:
            raise _refusal(error, sorted(_names(varying))) from error
    assert written is not None  # noqa: S101  (only the retired exporter returns None)
    proto: onnx.ModelProto = written.model_proto
    return proto


def _names(varying: Varying) -> set[str]:
    """Of the dimensions that vary beside the batch."""
    return {name for dims in varying.values() for name in dims.values()}


def _refusal(error: Exception, names: Sequence[str] = ()) -> TaskError:
    """The exporter's error as one that names the operation or the line at fault."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    text = "\n".join(str(link) for link in reversed(chain))
    if operation := _OPERATION.search(text):
        return TaskError(
            f"the operation {operation[1]!r} has no ONNX form", remedy="Express it with operations that have one."
        )
    if "data-dependent" in text:
        traced = _TRACED.search(text)
        return TaskError(
            "the model branches on a value, which a graph cannot",
            where=f"{traced[1]}:{traced[2]}" if traced else _place(error),
            remedy="Use torch.where, or decide outside the model.",
        )
    if "Constraints violated" in text or "specialized" in text:
        others = "".join(f" or {name}" for name in names)
        return TaskError(
            f"the model works for one batch size{others} only, so its batch dimension{others} cannot vary",
            remedy="Use x.shape[...] or -1 where a size is written as a number.",
        )
    return TaskError(
        f"the model cannot be exported to ONNX: {type(chain[-1]).__name__}: {_line(chain[-1])}",
        where=_place(chain[-1]),
        remedy="forward may hold only what torch.export can trace.",
    )


def _place(error: BaseException) -> str | None:
    """`file:line` of the innermost frame that is neither PyTorch's nor ours."""
    ours = str(Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = frame.filename.replace("\\", "/")
        if not re.search(r"/site-packages/|^<", file) and not frame.filename.startswith(ours):
            return f"{frame.filename}:{frame.lineno}"
    return None


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")


def _clean(graph: "onnx.ModelProto", varying: Varying) -> "onnx.ModelProto":
    """Take out what the exporter noted of this machine (stack traces with file paths), and name what varies.

    Two exports of the same weights are then the same bytes.
    """
    names = {}
    for value in graph.graph.input:
        for axis, name in {0: "batch", **varying.get(value.name, {})}.items():
            names[value.type.tensor_type.shape.dim[axis].dim_param] = name
    symbol = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in names if symbol) or r"(?!)")
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.initializer, *graph.functions):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for function in graph.functions:
        for node in function.node:
            node.ClearField("metadata_props")
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        value.ClearField("metadata_props")
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = symbol.sub(lambda found: names[found[0]], dim.dim_param)
    return graph


def _check(graph: "onnx.ModelProto", references: Sequence[tuple[dict[str, Array], dict[str, Array]]]) -> None:
    """Hold the graph against the ONNX specification, and its answers against the module's."""
    import onnx

    from headway.runtimes.onnx_runtime import OnnxRuntime

    try:
        onnx.checker.check_model(graph)
    except onnx.checker.ValidationError as error:
        raise TaskError(f"the exporter wrote what is no valid ONNX: {_line(error)}") from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(graph.SerializeToString())
        session = OnnxRuntime().load(file)
    try:
        for inputs, expected in references:
            _agree(session.run(inputs), expected, len(next(iter(inputs.values()))))
    finally:
        session.close()


def _agree(answered: Mapping[str, Array], expected: Mapping[str, Array], rows: int) -> None:
    remedy = "Look for Python numbers, branches or random numbers that depend on the inputs or their shape."
    for name, want in expected.items():
        have = answered[name]
        if have.shape != want.shape:
            raise TaskError(
                f"at {rows} rows output {name!r} is {have.shape} in ONNX Runtime and {want.shape} in PyTorch",
                remedy=remedy,
            )
        wide = want.astype(np.float64)
        with np.errstate(invalid="ignore"):  # equal infinities agree
            difference = np.where(have == want, 0.0, np.abs(have.astype(np.float64) - wide)).max(initial=0.0)
        largest = np.abs(wide[np.isfinite(wide)]).max(initial=0.0)
        if not difference <= _AGREEMENT * max(largest, 1e-6):  # written so that NaN fails too
            raise TaskError(
                f"at {rows} rows output {name!r} differs by {difference:.3g} between ONNX Runtime and PyTorch",
                remedy=remedy,
            )
