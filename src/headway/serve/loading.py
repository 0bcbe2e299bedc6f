"""From a bundle to a session that has proved itself: verify, load, replay the golden samples, choose."""

from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from headway.bundles.bundle import Bundle
from headway.bundles.golden import of_rows, replay
from headway.bundles.manifest import Variant
from headway.bundles.processing import open_processing
from headway.core import plugins
from headway.core.errors import BundleError, MissingDependencyError
from headway.processing.pipeline import Pipeline
from headway.processing.stage import Limits
from headway.runtimes.runtime import Runtime, Session
from headway.serve.choice import Choice
from headway.serve.choose import choose
from headway.serve.config import CHOOSE_SECONDS
from headway.serve.durations import Durations
from headway.serve.padding import Padding, proven

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.core.tensors import TensorSpec

Source = str | Path | Bundle


@dataclass(frozen=True)
class Loaded:
    """A session whose golden samples matched, and why it is this one. `session.close()` frees it.

    Attributes:
        version: that it is served as: the number the registry knows the bundle by, or else the one it was sealed as.
        processing: what is done before and after it; None for nothing.
        padding: how requests of different lengths share a run, where the bundle says so and it proved true here.
        durations: of its runs, as far as they are known.
    """

    bundle: Bundle
    version: str
    variant: Variant
    session: Session
    choice: Choice
    processing: Pipeline | None = None
    padding: Padding | None = None
    durations: Durations = field(default_factory=Durations)

    @property
    def file_bytes(self) -> int:
        """Of the variant's files."""
        start = f"variants/{self.variant.id}/"
        return sum(file.size for name, file in self.bundle.manifest.files.items() if name.startswith(start))


def is_reference(source: Source) -> bool:
    """Whether a source is looked up in the registry, for it is no path that exists."""
    return not (isinstance(source, Path | Bundle) or Path(source).exists() or "/" in source)


def find(source: Source) -> tuple[Bundle, str]:
    """The bundle at a path that exists, or else the one a registry reference names; and the version it is served as.

    Raises:
        BundleError: there is none at the path.
        UsageError: the registry knows of none.
    """
    if is_reference(source):
        from headway.registry.registry import Registry

        registry = Registry()
        entry = registry.resolve(str(source))
        return registry.open(f"{entry.name}:{entry.version}"), entry.version
    bundle = source if isinstance(source, Bundle) else Bundle.open(Path(source))
    return bundle, bundle.manifest.version


def load_bundle(
    source: Source,
    *,
    version: str | None = None,
    variant: str | None = None,
    threads: int | None = None,
    choose_seconds: float = CHOOSE_SECONDS,
    public_key: Path | None = None,
    trust_any: bool = False,
    limits: Limits = Limits(),  # noqa: B008  (it is immutable)
) -> Loaded:
    """Open a bundle, check that it is what was sealed, and load the variant that serves best here.

    It is checked where it lies, for a copy from earlier may be sound where the bundle is so no longer; then again in a
    folder of this user's own, from which it is loaded, so that nobody changes a file between check and load.

    Args:
        source: a bundle, its path, or a registry reference.
        version: to serve it as; by default the one that `find` says.
        variant: pinned, and so are `threads`; see `choose`.
        threads: CPU threads of one run.
        choose_seconds: to measure in, about; 0 takes the manifest's choice.
        public_key: PEM file of the only signer to accept.
        trust_any: accept any signer, if nothing was changed since.
        limits: of what processing takes from a client.

    Raises:
        BundleError: not a bundle, not trusted, no such variant, or none answers as it did when it was sealed.
        TamperedError: its bytes are not what was sealed.
        FormatError: its runtime cannot read the only model file.
        MissingDependencyError: the only runtime, or what processing needs, is not installed.
    """
    given, found = find(source)
    given.verify(public_key=public_key, trust_any=trust_any)
    bundle = given.private_copy()
    bundle.verify(public_key=public_key, trust_any=trust_any)
    processing = open_processing(bundle, limits)
    choice, session = choose(
        bundle, partial(open_variant, bundle), variant=variant, threads=threads, seconds=choose_seconds
    )
    serving = bundle.manifest.variant(choice.variant)
    padding = proven(bundle, serving, session)
    return Loaded(bundle, version or found, serving, session, choice, processing, padding)


def open_variant(bundle: Bundle, variant: Variant, threads: int) -> Session:
    """A session of this variant that fits the manifest and answers as it did when it was sealed."""
    runtime: Runtime = plugins.load("headway.runtimes", variant.runtime)()
    availability = runtime.available()
    if not availability.ready:
        raise MissingDependencyError(availability.detail, where=f"{bundle.manifest.name}: {variant.id}")
    session = runtime.load(bundle.model_file(variant), threads=threads)
    try:
        for spec in (*session.inputs, *session.outputs):
            _ = spec.dtype  # raises for BF16
        _check_specs(bundle.manifest.inputs, session.inputs, f"{bundle.manifest.name}: an input")
        _check_specs(bundle.manifest.outputs, session.outputs, f"{bundle.manifest.name}: an output")
        replay(bundle, variant, session)
    except BaseException:
        session.close()
        raise
    return session


def warm_up(loaded: Loaded, rows: "Sequence[int]") -> None:
    """Run batches of these sizes: memory grows before the first caller comes, and how long runs take is known."""
    sample = next(loaded.bundle.golden()).inputs
    size = prod(loaded.padding.lengths(sample)) if loaded.padding else 1
    for count in rows:
        inputs = of_rows(sample, loaded.bundle.manifest.inputs, count)
        loaded.session.run(inputs)
        began = perf_counter()
        loaded.session.run(inputs)
        loaded.durations.learn(count * size, perf_counter() - began)


def _check_specs(said: "Sequence[TensorSpec]", found: "Sequence[TensorSpec]", what: str) -> None:
    """Requests are checked against the manifest, so the model must agree with it."""
    model = {spec.name: spec for spec in found}
    for spec in said:
        other = model.get(spec.name)
        if other is None or other.datatype != spec.datatype or len(other.shape) != len(spec.shape):
            raise BundleError(f"{what} called {spec.name!r} is not so in the model file")
    if len(model) != len(said):
        raise BundleError(
            f"{what} of the model file is not in the manifest: {sorted(set(model) - {s.name for s in said})}"
        )
