"""Rows of different lengths in one run: shorter ones are padded as the manifest declares, and answers cut back.

That padding changes no answer (because an attention mask says what is padding, for instance) is a claim of the
bundle's, and `refuted` puts it to the test wherever the bundle is loaded.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.bundles.golden import Runs, Sample, errors
from headway.bundles.padding import varying
from headway.core.errors import HeadwayError, RequestError
from headway.core.tensors import Array, TensorSpec
from headway.observe.logs import logger
from headway.serve.errors import InferenceError

if TYPE_CHECKING:
    from headway.bundles.bundle import Bundle
    from headway.bundles.manifest import Variant

Arrays = Mapping[str, Array]
Lengths = tuple[int, ...]


_Places = Sequence[tuple[int, int]]  # axes of a tensor, each with its index in `Lengths`


class Padding:
    """How the requests of one model are padded.

    Args:
        inputs: of the model.
        outputs: of the model; a dimension that has the name of a padded one is cut back.
        values: by input, as in a manifest, where they were checked.

    Attributes:
        names: of the inputs that are padded.
    """

    def __init__(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], values: Mapping[str, float]
    ) -> None:
        padded = [spec for spec in inputs if spec.name in values]
        dims = dict.fromkeys(dim for spec in padded for dim in varying(spec).values())
        index = {dim: number for number, dim in enumerate(dims)}

        def places(spec: TensorSpec) -> _Places:
            return [(axis, index[dim]) for axis, dim in varying(spec).items() if dim in index]

        self.names = tuple(spec.name for spec in padded)
        self._count = len(index)
        self._values: dict[str, Any] = {spec.name: spec.dtype.type(values[spec.name]) for spec in padded}
        self._inputs = {spec.name: places(spec) for spec in padded}
        self._outputs = {spec.name: places(spec) for spec in outputs}

    def lengths(self, inputs: Arrays) -> Lengths:
        """The lengths of a request's padded dimensions. Raises `RequestError` where its own inputs disagree."""
        found = [0] * self._count
        for name, places in self._inputs.items():
            shape = inputs[name].shape
            for axis, index in places:
                if found[index] not in (0, shape[axis]):
                    raise RequestError(
                        f"dimension {axis} is {shape[axis]}, where another input has {found[index]}",
                        where=f"input {name!r}",
                    )
                found[index] = shape[axis]
        return tuple(found)

    def join(self, requests: Sequence[Arrays], lengths: Sequence[Lengths]) -> dict[str, Array]:
        """The inputs of one run over all these requests, padded to the longest."""
        longest = tuple(map(max, zip(*lengths, strict=True)))
        return {name: self._joined(name, [inputs[name] for inputs in requests], longest) for name in requests[0]}

    def _joined(self, name: str, values: Sequence[Array], longest: Lengths) -> Array:
        shape = list(values[0].shape)
        for axis, index in self._inputs.get(name, ()):
            shape[axis] = longest[index]
        if all(list(value.shape[1:]) == shape[1:] for value in values):
            return np.concatenate(values)
        shape[0] = sum(len(value) for value in values)
        joined = np.full(shape, self._values[name], values[0].dtype)
        row = 0
        for value in values:
            joined[(slice(row, row + len(value)), *map(slice, value.shape[1:]))] = value
            row += len(value)
        return joined

    def cut(self, outputs: Sequence[Arrays], lengths: Sequence[Lengths]) -> list[dict[str, Array]]:
        """Each request's outputs, cut back from the longest of the run to its own lengths.

        Raises:
            InferenceError: an output is not as long as the inputs were.
        """
        longest = tuple(map(max, zip(*lengths, strict=True)))
        for name, places in self._outputs.items():
            shape = outputs[0][name].shape
            if any(shape[axis] != longest[index] for axis, index in places):
                raise InferenceError(f"output {name!r} has shape {shape} for inputs of lengths {longest}")
        return [
            {name: _cut(value, self._outputs[name], own) for name, value in one.items()}
            for one, own in zip(outputs, lengths, strict=True)
        ]

    def shortened(self, inputs: Arrays) -> dict[str, Array]:
        """The same request at half its lengths."""
        half = tuple((length + 1) // 2 for length in self.lengths(inputs))
        return {name: _cut(value, self._inputs.get(name, ()), half) for name, value in inputs.items()}


def _cut(value: Array, places: _Places, lengths: Lengths) -> Array:
    kept = [slice(None)] * value.ndim
    for axis, index in places:
        kept[axis] = slice(lengths[index])
    return value[tuple(kept)]


def proven(bundle: "Bundle", variant: "Variant", session: Runs) -> Padding | None:
    """How `session` may be padded: None where the bundle declares nothing, or something that does not hold here."""
    manifest = bundle.manifest
    if not manifest.padding:
        return None
    padding = Padding(manifest.inputs, manifest.outputs, manifest.padding)
    if reason := refuted(padding, session, bundle.golden(), variant.tolerance):
        fields = {"model": manifest.name, "version": manifest.version, "variant": variant.id, "reason": reason}
        logger.warning("requests are not padded: the bundle's claim does not hold here", extra={"fields": fields})
        return None
    return padding


def refuted(padding: Padding, session: Runs, samples: Iterable[Sample], tolerance: Mapping[str, float]) -> str:
    """Why padding may not be used; empty where nothing speaks against it.

    Each golden sample is cut to half its lengths, and that half is run alone, and then padded beside the whole.

    Args:
        padding: what is tried.
        session: of the variant that is to serve.
        samples: the golden samples.
        tolerance: largest absolute difference that padding may make, by output.
    """
    tried = False
    for sample in samples:
        try:
            half = padding.shortened(sample.inputs)
            if padding.lengths(half) == padding.lengths(sample.inputs):
                continue
            tried = True
            alone = Sample(half, session.run(half))
            found = errors([alone], _Beside(padding, session, sample.inputs))
        except Exception as error:  # noqa: BLE001  (an engine raises what it likes)
            return error.message if isinstance(error, HeadwayError) else f"{type(error).__name__}: {error}"[:300]
        for name, largest in found.items():
            if not largest <= tolerance.get(name, 0.0):
                return (
                    f"padding changes output {name!r} by {largest:.3g}, where {tolerance.get(name, 0.0):.3g} is allowed"
                )
    return "" if tried else "no golden sample is long enough to try it"


class _Beside:
    """A session that runs everything padded, beside a longer request."""

    def __init__(self, padding: Padding, session: Runs, longer: Arrays) -> None:
        self._padding, self._session, self._longer = padding, session, longer

    def run(self, inputs: Arrays) -> dict[str, Array]:
        both = [inputs, self._longer]
        lengths = [self._padding.lengths(one) for one in both]
        outputs = self._session.run(self._padding.join(both, lengths))
        rows = len(inputs[self._padding.names[0]])
        halves = [{name: value[:rows] for name, value in outputs.items()}] * 2
        return self._padding.cut(halves, lengths)[0]
