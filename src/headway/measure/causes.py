"""Why a variant is not faster than the one it was made from: causes, each with its evidence and what to try.

Each rule looks at the joined profiles for one thing that is known to cost more than a variant saves, and says what it
costs here. No operator counts for two of them. `docs/decisions/0036-why-not-faster.md` says what each was seen on.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from math import prod
from operator import attrgetter

from pydantic import BaseModel

from headway.core.machine import Machine, here
from headway.measure.evidence import Cause, Evidence, counted, kinds, lost, lost_ms, shape
from headway.measure.join import CONVERSIONS
from headway.measure.origin import PRODUCTS
from headway.measure.profile import Layer, Profile

WORTH = 0.1  # of the child's run: what costs less is not named
_UNCHANGED = 0.5  # of the child's run in operators that run as before
_ALIKE = 1.2  # a time may differ by this factor for nothing
_CALL_MS, _OPERATOR_MS = 0.010, 0.001  # a run's and an operator's own cost, about; measured, see the decision
_NAMED, _WORST = 5, 5  # operators that a text names
_SIGNED = ("ConvInteger", "MatMulInteger")
_DYNAMIC = frozenset({*_SIGNED, "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"})
_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_ORDERS = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})
# Float kinds that ONNX Runtime has an 8-bit kernel for, or moves in 8 bits.
_HAVE_8_BITS = frozenset({
    "Add", "AveragePool", "Concat", "Conv", "FusedConv", "FusedGemm", "Gemm", "GlobalAveragePool", "LeakyRelu",
    "MatMul", "MaxPool", "Mul", "Relu", "Reshape", "Resize", "Sigmoid", "Softmax", "Transpose",
})  # fmt: skip
_ACTIVATIONS = frozenset({"Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "Mish", "QuickGelu", "Softplus", "Tanh"})


class Comparison(BaseModel):
    """Two profiles, and what makes the child no faster than the parent.

    Attributes:
        causes: those that explain the whole run first or last, the others by what they cost; empty where no rule
            explains it.
        worst: the operators that lost most, as "what: ms, where the parent takes ms".
    """

    parent: Profile
    child: Profile
    causes: tuple[Cause, ...]
    worst: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The main cause in a sentence, or what lost most."""
        if self.causes:
            return f"{self.causes[0].evidence}. Try: {self.causes[0].remedy}"
        return "no known cause; what lost most: " + ("; ".join(self.worst) or "nothing")


def compare(parent: Profile, child: Profile, machine: Machine | None = None) -> Comparison:
    """Join two profiles and look for causes.

    Args:
        parent: of the model that the child was made from.
        child: of the variant.
        machine: that both were profiled on; this one without.
    """
    evidence = Evidence(parent, child, machine or here())
    found = [cause for rule in _RULES if (cause := rule(evidence)) and cause.share >= WORTH]
    found.sort(key=lambda cause: cause.ms, reverse=True)
    if small := _small(evidence):
        found.insert(0, small)
    elif unchanged := _unchanged(evidence):
        found.append(unchanged)
    losers = sorted((row for row in evidence.rows if row.lost_ms > 0), key=lambda row: row.lost_ms, reverse=True)
    return Comparison(
        parent=parent,
        child=child,
        causes=tuple(found),
        worst=tuple(lost(row) for row in losers[:_WORST]),
    )


def _dynamic(evidence: Evidence) -> Cause | None:
    """Ranges taken at run time, and what brings whole numbers back into floats."""
    products = [layer for layer in evidence.child.layers if layer.kind in _SIGNED]
    names = {layer.name for layer in products}
    for layer in products:  # Cast, then Mul by both scales, whose own product is a Mul
        for cast in evidence.after(layer):
            muls = [mul for mul in evidence.after(cast) if mul.kind == "Mul" and evidence.alone(mul)]
            names |= {cast.name, *(mul.name for mul in muls)}
            names |= {scale.name for mul in muls for scale in evidence.before(mul) if scale.kind == "Mul"}
    layers = evidence.pick(lambda layer: layer.kind in _DYNAMIC or layer.name in names, gains=True)
    convolutions = any(layer.kind == "ConvInteger" for layer in layers)
    return evidence.cause(
        "dynamic quantization",
        layers,
        attrgetter("lost_ms"),  # what products gain is set against it
        f"ranges are taken at every run: {counted(layers)} cost {{ms}} more than they save, {{share}}",
        "`mode: static` for convolutions, or leave them in 32 bits (Headway's own `mode: dynamic` does)"
        if convolutions
        else "`mode: static`, or a larger `least_weights`, so that small products stay in 32 bits",
    )


def _misaligned(evidence: Evidence) -> Cause | None:
    """Widths that do not fill the kernels' vectors."""
    sets = evidence.machine.instruction_sets
    lanes = 16 if "avx512f" in sets else 8 if "avx2" in sets else 4  # 32-bit numbers in a register

    def excess(layer: Layer) -> float:
        parent = evidence.partner(layer)
        if parent is None or not parent.weights or layer.weights == parent.weights:
            return 0.0
        odd = any(
            ours % lanes for ours, theirs in zip_longest(layer.weights, parent.weights) if ours and ours != theirs
        )
        fair = parent.ms * prod(layer.weights) / prod(parent.weights)
        return layer.ms - fair if odd and layer.ms > _ALIKE * fair else 0.0

    layers = [layer for layer in evidence.child.layers if excess(layer) > 0]
    if not layers:
        return None
    left = sum(not layer.blocked and getattr(evidence.partner(layer), "blocked", False) for layer in layers)
    shapes = ", ".join(dict.fromkeys(shape(layer) for layer in layers[:_NAMED]))
    return evidence.cause(
        "misaligned channels",
        layers,
        lambda row: excess(row.child) if row.child else 0.0,
        f"widths are no multiples of {lanes} ({shapes}): {counted(layers)} take {{ms}} more, {{share}}, than their "
        "number of products would" + (f"; {left} left the blocked layout for a slower kernel" if left else ""),
        "`align: auto` in the prune step, which measures the widths that kernels like here",
    )


def _islands(evidence: Evidence) -> Cause | None:
    """Float operators between conversions, within a graph of 8 bits."""
    opens = [it for it in evidence.child.layers if it.kind == "DequantizeLinear" and evidence.before(it)]
    closes = [it for it in evidence.child.layers if it.kind == "QuantizeLinear"]
    inside = _floats(opens, evidence.after) & _floats(closes, evidence.before)
    ends = {it.name for it in opens if inside & {reader.name for reader in evidence.after(it)}}
    ends |= {it.name for it in closes if inside & {maker.name for maker in evidence.before(it)}}
    floats = [it for it in evidence.child.layers if it.name in inside and it.kind not in CONVERSIONS]
    if not floats:
        return None
    layers = evidence.pick(lambda layer: layer.name in ends | inside)
    without = [layer for layer in floats if layer.kind not in _HAVE_8_BITS]
    kept = [layer for layer in floats if layer.kind in _HAVE_8_BITS]
    why = [f"{kinds(without)}, which ONNX Runtime computes in 32 bits only"] if without else []
    why += [f"{kinds(kept)}, left in 32 bits"] if kept else []
    return evidence.cause(
        "unfused Q/DQ islands",
        layers,
        lost_ms,
        f"{len(ends)} conversions stand around {' and '.join(why)}: {{ms}}, {{share}}",
        "`mixed` in the quantize step, which weighs what 8 bits save against conversions"
        + ("" if without else "; or fewer in `keep_fp32`")
        + ("; a ReLU in its place, if the model may change" if any(it.kind in _ACTIVATIONS for it in without) else ""),
    )


def _floats(ends: Sequence[Layer], follow: Callable[[Layer], list[Layer]]) -> set[str]:
    """Names of what is met from `ends` before the next conversion."""
    ahead, met = [layer for end in ends for layer in follow(end)], set[str]()
    while ahead:
        layer = ahead.pop()
        if layer.kind not in _PAIRS and layer.name not in met:
            met.add(layer.name)
            ahead += follow(layer)
    return met


def _reformats(evidence: Evidence) -> Cause | None:
    """Changes of layout."""
    layers = evidence.pick(lambda layer: layer.kind in _ORDERS)
    if not layers:
        return None
    blocked = any(layer.kind.startswith("Reorder") for layer in layers)
    return evidence.cause(
        "reformats",
        layers,
        lost_ms,
        f"values change their layout on the way: {counted(layers)} take {{ms}}, {{share}}",
        "widths that stay in the blocked layout: `align: auto` in the prune step"
        if blocked
        else "neighbouring layers in one precision: what has an 8-bit kernel between 8-bit layers, or a whole block in "
        "`keep_fp32`",
    )


def _kernels(evidence: Evidence) -> Cause | None:
    """8-bit kernels that are slower than the 32-bit ones they stand for."""

    def slower(layer: Layer) -> bool:
        parent = evidence.partner(layer)
        return _is_8_bit(layer) and parent is not None and not _is_8_bit(parent) and layer.ms > _ALIKE * parent.ms

    layers = evidence.pick(slower)
    if not layers:
        return None
    grouped = sum(layer.weights[1:2] == (1,) for layer in layers)
    names = [layer.aliases[0] for layer in sorted(layers, key=lambda it: it.ms, reverse=True) if layer.kind in PRODUCTS]
    remedy = f"`keep_fp32: [{', '.join(names[:_NAMED])}]`" if names else "those layers in `keep_fp32`"
    return evidence.cause(
        "slow 8-bit kernels",
        layers,
        lost_ms,
        f"{counted(layers)}"
        + (f" ({grouped} with one input channel a group)" if grouped else "")
        + " take {ms} more, {share}, than in 32 bits",
        f"{remedy}, or `mixed`, which measures each layer",
    )


def _unfused(evidence: Evidence) -> Cause | None:
    """Operators that the parent's runtime does within others. What only the parent has is set against them."""

    def computes(layer: Layer) -> bool:
        return layer.kind not in CONVERSIONS and layer.kind not in PRODUCTS

    layers = evidence.pick(lambda layer: computes(layer) and evidence.alone(layer))
    spent = sum(layer.ms for layer in layers)
    gone = sum(row.parent.ms for row in evidence.rows if row.child is None and row.parent and computes(row.parent))
    if spent <= gone:
        return None
    return evidence.cause(
        "lost fusions",
        layers,
        lambda row: lost_ms(row) * (1 - gone / spent),
        f"{counted(layers)} are operators of their own here, which the parent computes within others: "
        "{ms}, {share}",
        "`keep_fp32` for the layers before them, or `mixed`, which measures each layer",
    )


_RULES = (_dynamic, _misaligned, _islands, _reformats, _kernels, _unfused)


def _small(evidence: Evidence) -> Cause | None:
    """Runs that are made of calls, not of arithmetic."""
    parent = evidence.parent
    bound = _CALL_MS + _OPERATOR_MS * len(parent.layers)
    if parent.ms > bound:
        return None
    return Cause(
        cause="too small",
        evidence=f"the parent's run of {parent.ms:.3f} ms is {len(parent.layers)} operators, and calling them alone "
        "takes most of that",
        remedy="larger batches (look at throughput), or fewer operators; fewer bits or products cannot help",
        operators=(),
        ms=evidence.child.ms,
        share=1.0,
    )


def _unchanged(evidence: Evidence) -> Cause | None:
    """Time that the variant's steps did not touch."""
    same = [
        row.child
        for row in evidence.rows
        if row.parent and row.child and row.parent.kind == row.child.kind and row.parent.weights == row.child.weights
    ]
    ms = sum(layer.ms for layer in same)
    if ms < _UNCHANGED * evidence.child.ms:
        return None
    same.sort(key=lambda layer: layer.ms, reverse=True)
    listed = kinds(same, dearest=True)
    dearest = listed.split(",")[0].split()[-1]
    return Cause(
        cause="unchanged operators",
        evidence=f"{ms:.3f} ms, {ms / evidence.child.ms:.0%} of the run, is in operators that run as before: {listed}",
        remedy="a step that reaches these layers"
        if dearest in PRODUCTS
        else f"another form of {dearest}, which no step makes faster",
        operators=tuple(layer.name for layer in same[:_NAMED]),
        ms=ms,
        share=ms / evidence.child.ms,
    )


def _is_8_bit(layer: Layer) -> bool:
    return layer.kind.startswith(("QLinear", "QGemm", "MatMulNBits")) or layer.kind in _DYNAMIC
