"""The declaration: what a client sends and gets instead of the model's own tensors, and by which stages.

    inputs:
      image: [decode, {resize: 256}, {crop: {height: 224, width: 224}}, normalise, {layout: NCHW}, {feed: pixels}]
    outputs:
      score: [{take: logits}, softmax, {top_k: 3}]

A chain is checked from end to end before it is sealed, and again before it serves: each stage says what it gives for
what it is given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, Tag, model_validator

from headway.core.config import Config, Place
from headway.core.errors import ConfigError
from headway.core.tensors import DYNAMIC, TensorSpec
from headway.processing.outputs import Argmax, Labels, Sigmoid, Softmax, Threshold, TopK
from headway.processing.pictures import Crop, Decode, Layout, Normalise, Resize
from headway.processing.stage import Flow, Kit, Stage, known, named, tuples
from headway.processing.texts import TENSORS, Tokenize


class Feed(Stage):
    """The end of an input: which inputs of the model take it. A bare name for a picture; for a text, its tensors."""

    name: ClassVar[str] = "feed"
    tensor: str | None = Field(None, description="The model's input that takes the picture.")
    input_ids: str | None = Field(None, description="The one that takes the tokens of a text.")
    attention_mask: str | None = Field(None, description="The one that takes 1 for each token, 0 for padding.")
    token_type_ids: str | None = Field(None, description="The one that takes the tokens' segment.")

    @model_validator(mode="after")
    def _differ(self) -> Self:
        given = [target for _, target in self._pairs()]
        if twice := [target for target in given if given.count(target) > 1]:
            raise ValueError(f"{twice[0]!r} is to take two tensors")
        return self

    @property
    def targets(self) -> dict[str, str]:
        """By the model's input, which tensor it takes; "" is the picture."""
        return {target: name for name, target in self._pairs()}

    def _pairs(self) -> list[tuple[str, str]]:
        given = {"": self.tensor} | {name: getattr(self, name) for name in TENSORS}
        return [(name, target) for name, target in given.items() if target is not None]

    def check(self, given: Flow, kit: Kit) -> Flow:
        """The rows that the model's inputs have."""
        tokens = given.kind == "tokens"
        if not tokens and given.kind not in ("pictures", "tensor"):
            raise ValueError("takes what a stage made of what was sent: put it after decode or tokenize")
        if not self.targets or any(bool(name) != tokens for name in self.targets.values()):
            wanted = f"{{{', '.join(f'{name}: ...' for name in TENSORS)}}}" if tokens else "the model's input"
            raise ValueError(f"must say which inputs take the {given.kind}: `feed: {wanted}`")
        rows = {_fit(given, kit, target) for target in self.targets}
        if len(rows) > 1:
            raise ValueError("the model's inputs have different numbers of rows")
        return Flow("fed", "BYTES", (rows.pop(),))


class Take(Stage):
    """The beginning of an output: which output of the model it is made of."""

    name: ClassVar[str] = "take"
    output: str = Field(description="The model's output.")

    def check(self, given: Flow, kit: Kit) -> Flow:
        """The output."""
        given.require("answer", "put it first")
        if self.output not in kit.outputs:
            raise ValueError(f"the model has no output {self.output!r}; it has {', '.join(kit.outputs)}")
        spec = kit.outputs[self.output]
        return Flow("tensor", spec.datatype, spec.shape)


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
INPUT_STAGES: tuple[type[Stage], ...] = (Decode, Resize, Crop, Normalise, Layout, Tokenize, Feed)
OUTPUT_STAGES: tuple[type[Stage], ...] = (Take, Softmax, Sigmoid, Threshold, TopK, Argmax, Labels)
InputStage = Annotated[
    Annotated[Decode, Tag("decode")]
    | Annotated[Resize, Tag("resize")]
    | Annotated[Crop, Tag("crop")]
    | Annotated[Normalise, Tag("normalise")]
    | Annotated[Layout, Tag("layout")]
    | Annotated[Tokenize, Tag("tokenize")]
    | Annotated[Feed, Tag("feed")],
    Discriminator(named),
    BeforeValidator(known(INPUT_STAGES)),
]
OutputStage = Annotated[
    Annotated[Take, Tag("take")]
    | Annotated[Softmax, Tag("softmax")]
    | Annotated[Sigmoid, Tag("sigmoid")]
    | Annotated[Threshold, Tag("threshold")]
    | Annotated[TopK, Tag("top_k")]
    | Annotated[Argmax, Tag("argmax")]
    | Annotated[Labels, Tag("labels")],
    Discriminator(named),
    BeforeValidator(known(OUTPUT_STAGES)),
]


class Processing(Config):
    """What is done before and after the model, by the names that clients use."""

    inputs: dict[Name, tuple[InputStage, ...]] = Field(
        {}, max_length=64, description="By the name of what a client sends, the stages from there to the model."
    )
    outputs: dict[Name, tuple[OutputStage, ...]] = Field(
        {}, max_length=64, description="By the name of what a client gets, the stages from the model to there."
    )

    @model_validator(mode="before")
    @classmethod
    def _freeze(cls, given: object) -> object:
        return tuples(given)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.inputs and not self.outputs:
            raise ValueError("declares neither inputs nor outputs")
        return self

    def chains(self) -> Iterator[tuple[Place, tuple[Stage, ...]]]:
        """Every chain of stages, with its place in the declaration."""
        yield from ((("inputs", name), chain) for name, chain in self.inputs.items())
        yield from ((("outputs", name), chain) for name, chain in self.outputs.items())

    def lines(self) -> dict[str, str]:
        """By input or output, its stages in one line for people."""
        way = {"inputs": "client sends", "outputs": "client gets"}
        return {f"{way[str(path[0])]} {path[1]}": " -> ".join(map(str, chain)) for path, chain in self.chains()}

    def packages(self) -> set[str]:
        """The distributions that its stages need."""
        return {stage.package for _, chain in self.chains() for stage in chain if stage.package}

    def files(self) -> dict[str, str]:
        """By input, the file that its stages need."""
        return {name: s.file for name, chain in self.inputs.items() for s in chain if isinstance(s, Tokenize)}

    def with_files(self, files: Mapping[str, str]) -> "Processing":
        """The same with other files, by input."""

        def moved(name: str, stage: InputStage) -> InputStage:
            return stage.model_copy(update={"file": files[name]}) if isinstance(stage, Tokenize) else stage

        inputs = {name: tuple(moved(name, stage) for stage in chain) for name, chain in self.inputs.items()}
        return Processing(inputs=inputs, outputs=self.outputs)


def serve_specs(
    processing: Processing, kit: Kit, place: Callable[[Place], str]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What clients send and get: the declared inputs and what else the model takes; the declared outputs, or its own.

    Args:
        processing: the declaration.
        kit: with the model's inputs, outputs and labels.
        place: where a mistake at such a path stands, for its message.

    Raises:
        ConfigError: a chain does not hold together, or does not fit the model.
    """
    ends = {path: _end(path, chain, kit, place) for path, chain in processing.chains()}
    fed: set[str] = set()
    for name, chain in processing.inputs.items():
        where = place(("inputs", name))
        if name in kit.inputs:
            raise ConfigError(f"the model has an input {name!r} itself: call this one otherwise", where=where)
        targets = {target for stage in chain if isinstance(stage, Feed) for target in stage.targets}
        if twice := fed & targets:
            raise ConfigError(f"the model's input {min(twice)!r} is fed twice", where=where)
        fed |= targets
    for name, stages in processing.outputs.items():
        if name in kit.outputs and stages != (Take(output=name),):
            where = place(("outputs", name))
            raise ConfigError(f"the model has an output {name!r} itself: call this one otherwise", where=where)
    specs = {path: _spec(str(path[1]), flow) for path, flow in ends.items()}
    inputs = [specs["inputs", name] for name in processing.inputs]
    outputs = [specs["outputs", name] for name in processing.outputs]
    inputs += [spec for name, spec in kit.inputs.items() if name not in fed]
    return tuple(inputs), tuple(outputs or kit.outputs.values())


def _end(path: Place, chain: Sequence[Stage], kit: Kit, place: Callable[[Place], str]) -> Flow:
    """What comes out of a chain."""
    flow = Flow("encoded" if path[0] == "inputs" else "answer")
    for number, stage in enumerate(chain):
        try:
            if stage.name in [other.name for other in chain[:number]]:
                raise ValueError("stands twice")
            flow = stage.check(flow, kit)
        except ValueError as error:
            raise ConfigError(f"{stage.name}: {error}", where=place((*path, number))) from None
    if path[0] == "inputs" and flow.kind != "fed":
        raise ConfigError("the stages of an input must end with feed", where=place(path))
    if flow.kind == "answer":
        raise ConfigError("the stages of an output must begin with take", where=place(path))
    return flow


def _spec(name: str, flow: Flow) -> TensorSpec:
    return TensorSpec(name=name, datatype=flow.datatype, shape=flow.shape)


def _fit(given: Flow, kit: Kit, target: str) -> int:
    """The rows of a model's input, if it takes what flows. Raises `ValueError`."""
    spec = kit.inputs.get(target)
    if spec is None:
        raise ValueError(f"the model has no input {target!r}; it has {', '.join(kit.inputs)}")
    shape = list(given.shape)
    if spec.datatype != given.datatype:
        raise ValueError(f"{target!r} takes {spec.datatype}, and gets {given.datatype}")
    if len(spec.shape) != len(shape):
        raise ValueError(f"{target!r} takes shape {list(spec.shape)}, and gets {shape}")
    for want, have in zip(spec.shape[1:], shape[1:], strict=True):
        if want not in (DYNAMIC, have):
            hint = ""
            if have == DYNAMIC:
                hint = "; set `pad: max_length`" if given.kind == "tokens" else "; end with an exact resize or a crop"
            raise ValueError(f"{target!r} takes shape {list(spec.shape)}, and gets {shape}{hint}")
    return spec.shape[0]
