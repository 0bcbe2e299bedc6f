"""Where a model goes wrong in a runtime: the first tensor inside its graph that is not what the file says.

Every tensor between two nodes is made an output, in ONNX Runtime node by node and in the runtime in question, and they
are compared in the graph's order. What a runtime would fuse it then computes apart: a fault of a fusion does not show.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headway.bundles.golden import Sample, difference
from headway.core.errors import HeadwayError
from headway.core.tensors import Array
from headway.runtimes.onnx_runtime import OnnxRuntime
from headway.runtimes.runtime import Runtime, Session
from headway.shipping.golden_inputs import tolerances

_MOST = 2_000  # tensors that are looked at


@dataclass(frozen=True)
class Divergence:
    """The first layer that differs, or why none is named.

    Attributes:
        layer: the node's name; "" where there is none to name.
        operator: of the node.
        tensor: its output that differs.
        error: largest difference, as a share of the tensor's largest value; infinite where it has another shape, or is
            not finite where the file's is.
        why: where `layer` is "".
    """

    layer: str
    operator: str
    tensor: str
    error: float
    why: str = ""


def first_divergence(
    file: Path, runtime: Runtime, device: str, sample: Sample, allowed: Mapping[str, float], *, quantized: bool
) -> Divergence:
    """Look for the first tensor of an ONNX file that `runtime` computes otherwise than the file says.

    Args:
        file: the ONNX file.
        runtime: reads ONNX.
        device: that it runs on.
        sample: one run, and what the original answered.
        allowed: what each output may differ by.
        quantized: whether the file computes in 8 bits, so that more is allowed.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        return _unknown("looking inside a graph needs onnx: pip install 'headway[ship]'")
    model = onnx.load(file)
    nodes = [node for node in model.graph.node if node.input][:_MOST]  # without constants: they are weights, not layers
    outputs = {value.name for value in model.graph.output}
    tensors = [name for node in nodes for name in node.output if name and name not in outputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    with tempfile.TemporaryDirectory(prefix="headway-") as folder:
        tapped = Path(folder, "tapped.onnx")
        onnx.save(model, tapped)
        try:
            wanted = _run(OnnxRuntime().reference(tapped), sample.inputs)
            found = _run(runtime.load(tapped, device=device), sample.inputs)
        except HeadwayError as error:
            return _unknown(f"its tensors cannot be looked at: {error.message}")
    for node in nodes:
        for name in node.output:
            if name in wanted and (share := _share(wanted[name], found.get(name), quantized)) is not None:
                return Divergence(node.name or f"the node that makes {name}", node.op_type, name, share)
    if any(difference(name, v, wanted[name]) > allowed.get(name, 0.0) for name, v in sample.outputs.items()):
        return _unknown("the file itself, computed node by node, does not answer as the original does")
    return _unknown("computed one by one, all layers are right: the difference comes of how they are fused")


def _run(session: Session, inputs: Mapping[str, Array]) -> dict[str, Array]:
    try:
        return session.run(inputs)
    finally:
        session.close()


def _share(wanted: Array, found: Array | None, quantized: bool) -> float | None:
    """By what share of its largest value a tensor differs; None where no more than is allowed."""
    if wanted.dtype.kind == "O":
        return None
    if found is None or found.shape != wanted.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        apart = np.abs(wanted.astype(np.float64) - found.astype(np.float64))
    apart = np.where((wanted == found) | (np.isnan(wanted) & np.isnan(found)), 0.0, apart)
    worst = float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))
    allowed = tolerances({"": [wanted]}, {"": 0.0}, quantized=quantized)[""]
    finite = np.abs(wanted[np.isfinite(wanted)].astype(np.float64))
    return worst / max(float(finite.max(initial=0.0)), 1e-12) if worst > allowed else None


def _unknown(why: str) -> Divergence:
    return Divergence("", "", "", 0.0, why)
