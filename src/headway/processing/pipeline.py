"""The declared stages, opened: from what a client sends to the model's tensors, and from its answer to the client's."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from headway.core.config import Place
from headway.core.errors import RequestError
from headway.core.tensors import Array
from headway.processing.declaration import Feed, InputStage, Processing, serve_specs
from headway.processing.pictures import Normalise, pixels
from headway.processing.stage import Kit
from headway.processing.texts import Tokenize

# A picture is decoded and resized in whole steps of 8 bits, and another build of the decoder may round one the other
# way; what is more is another answer.
_STEPS = 2.5

Tensors = dict[str, Array]
Abandoned = Callable[[], bool]


class Pipeline:
    """Thread-safe.

    Args:
        processing: a declaration.
        kit: with what it needs.
        place: where a mistake at such a path of the declaration stands.

    Attributes:
        inputs: what clients send.
        outputs: what clients get.
        tolerance: by declared input, by how much a sound machine's tensors may differ from another's.

    Raises:
        ConfigError: it does not hold together, or does not fit the model.
        FormatError: a file that it needs is missing or damaged.
        MissingDependencyError: a package that it needs is not installed.
    """

    def __init__(self, processing: Processing, kit: Kit, place: Callable[[Place], str]) -> None:
        self.inputs, self.outputs = serve_specs(processing, kit, place)
        self.tolerance = {name: _tolerance(chain) for name, chain in processing.inputs.items()}
        self._before = {name: _opened(chain, kit) for name, chain in processing.inputs.items()}
        self._model = tuple(kit.inputs)
        self._specs = {spec.name: spec for spec in self.inputs}
        self._after = {
            name: (chain[0].output, [stage.open(kit) for stage in chain[1:]])  # type: ignore[union-attr]  # a Take
            for name, chain in processing.outputs.items()
        }

    def takes(self, inputs: Collection[str]) -> bool:
        """Whether any of these is to be processed; otherwise they are the model's own."""
        return any(name in self._before for name in inputs)

    def gives(self, outputs: Collection[str]) -> bool:
        """Whether any of these is made from the model's own."""
        return any(name in self._after for name in outputs)

    def before(self, inputs: Mapping[str, Array], abandoned: Abandoned = lambda: False) -> Tensors:
        """The model's tensors: each declared input by its stages, every other as it is.

        Args:
            inputs: by name; what is declared is BYTES [rows].
            abandoned: asked between rows whether anybody still waits.

        Raises:
            RequestError: what was sent cannot be processed; it says which row of which input, and why.
        """
        tensors: Tensors = {}
        for name, value in inputs.items():
            run = self._before.get(name)
            if run is None and name not in self._model:
                known = f"The inputs are: {', '.join(self._specs)}; or the model's own: {', '.join(self._model)}."
                raise RequestError(f"no input is called {name[:100]!r}", remedy=known)
            made = {name: value} if run is None else self._processed(name, value, run, abandoned)
            if twice := set(made) & set(tensors):
                raise RequestError(f"the model's input {min(twice)!r} is given twice")
            tensors |= made
        return tensors

    def after(self, outputs: Mapping[str, Array], names: Collection[str]) -> Tensors:
        """The outputs called so, each by its stages where it is declared, and as it is where it is the model's."""
        found: Tensors = {}
        for name in names:
            source, stages = self._after.get(name, (name, ()))
            value: Any = outputs[source]
            for stage in stages:
                value = stage(value)
            found[name] = value
        return found

    def _processed(self, name: str, value: Array, run: "_Run", abandoned: Abandoned) -> Tensors:
        where, spec = f"input {name!r}", self._specs[name]
        if value.dtype.kind not in "OSU" or not spec.admits(value.shape) or not value.size:
            found = f"{value.dtype} {list(value.shape)}"
            raise RequestError(f"must be BYTES of shape {list(spec.shape)}, not {found}", where=where)
        try:
            return run(value.tolist(), abandoned)
        except RequestError as error:
            place = f"{where}, {error.where}" if error.where else where
            raise RequestError(error.message, where=place, remedy=error.remedy) from error.__cause__


_Run = Callable[[Sequence[Any], Abandoned], Tensors]


def _opened(chain: Sequence[InputStage], kit: Kit) -> _Run:
    """All stages of one input in one function, from rows to the model's tensors."""
    first, feed = chain[0], chain[-1]
    assert isinstance(feed, Feed)  # noqa: S101  (the chain was checked)
    if isinstance(first, Tokenize):
        tokenize = first.open(kit)

        def tokens(rows: Sequence[Any], _abandoned: Abandoned) -> Tensors:
            made = tokenize(rows)
            return {target: made[name] for target, name in feed.targets.items()}

        return tokens
    stages: list[Callable[[Any], Any]] = [stage.open(kit) for stage in chain[:-1]]

    def pictures(rows: Sequence[Any], abandoned: Abandoned) -> Tensors:
        batch = _each(rows, [*stages, pixels], abandoned)
        return dict.fromkeys(feed.targets, batch)

    return pictures


def _each(rows: Sequence[Any], stages: Sequence[Callable[[Any], Any]], abandoned: Abandoned) -> Array:
    """Every row through every stage, one after the other: a decoded picture is large, and only one is held."""
    batch: Array | None = None
    for number, row in enumerate(rows):
        if abandoned():
            raise RequestError("nobody waits for it any more")
        try:
            value = row
            for stage in stages:
                value = stage(value)
            if batch is None:
                batch = np.empty((len(rows), *value.shape), value.dtype)
            if value.shape != batch.shape[1:]:
                raise RequestError(f"it becomes {list(value.shape)}, where row 0 becomes {list(batch.shape[1:])}")
        except RequestError as error:
            raise RequestError(error.message, where=f"row {number}") from error.__cause__
        batch[number] = value
    assert batch is not None  # noqa: S101  (there is a row)
    return batch


def _tolerance(chain: Sequence[InputStage]) -> float:
    if isinstance(chain[0], Tokenize):
        return 0.0
    return _STEPS * next((stage.step for stage in chain if isinstance(stage, Normalise)), 1.0)
