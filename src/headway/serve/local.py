"""A bundle in this process: `headway.load(bundle)` answers as the server would, without one."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from threading import Lock

from headway.bundles.manifest import Manifest
from headway.bundles.processing import as_rows
from headway.core.errors import HeadwayError, RequestError
from headway.core.tensors import Array, TensorSpec
from headway.serve.choice import Choice
from headway.serve.config import CHOOSE_SECONDS
from headway.serve.errors import InferenceError
from headway.serve.loading import Loaded, Source, load_bundle
from headway.serve.signature import Signature


class LocalModel:
    """A model that has proved itself, for callers in this process. Threads may share it.

    Requests pass the same checks as the server's, and then run at once, in the caller's thread: a Python caller has
    whole batches in hand, so gathering single rows would only add waiting, and no event loop is there to do it.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._signature = Signature(loaded.bundle.manifest.inputs, shares_runs=False)
        self._turn = None if loaded.session.thread_safe else Lock()

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._loaded.bundle.manifest

    @property
    def choice(self) -> Choice:
        """Which variant answers, with how many threads, and why."""
        return self._loaded.choice

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `predict` takes; where processing is declared, the model's own inputs, as in the manifest, do too."""
        return (self._loaded.processing or self.manifest).inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `predict` returns."""
        return (self._loaded.processing or self.manifest).outputs

    def predict(self, inputs: Mapping[str, Array | Sequence[bytes | str]]) -> dict[str, Array]:
        """Outputs by name, each [rows, ...].

        Args:
            inputs: by name, of the datatypes and shapes that `inputs` states; pictures and texts may come in a list.

        Raises:
            RequestError: the inputs do not fit, or a picture or text cannot be processed.
            InferenceError: the model failed.
        """
        tensors = {name: _tensor(name, value) for name, value in inputs.items()}
        processing = self._loaded.processing
        if processing is None:
            return self._run(tensors)
        outputs = self._run(processing.before(tensors))
        return processing.after(outputs, [spec.name for spec in processing.outputs])

    __call__ = predict

    def _run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        checked = self._signature.check(tensors)
        try:
            with self._turn or nullcontext():
                return self._loaded.session.run(checked.inputs)
        except HeadwayError:
            raise
        except Exception as error:
            raise InferenceError(f"the model failed: {error}", where=self.manifest.name) from error

    def close(self) -> None:
        """Free the model."""
        self._loaded.session.close()

    def __enter__(self) -> "LocalModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tensor(name: str, value: Array | Sequence[bytes | str]) -> Array:
    if isinstance(value, bytes | str):
        raise RequestError("one row alone; give a list of rows", where=f"input {name!r}")
    return as_rows(value) if isinstance(value, Sequence) else value


def load(
    bundle: Source,
    *,
    variant: str | None = None,
    threads: int | None = None,
    choose_seconds: float = CHOOSE_SECONDS,
    public_key: Path | None = None,
    trust_any: bool = False,
) -> LocalModel:
    """Verify a bundle, replay its golden samples, and load the variant that serves best on this machine.

    The first load of a bundle on a machine measures its variants; the choice is kept.

    Args:
        bundle: a bundle, its path, or a registry reference such as `digits`, `digits:3` and `digits@production`.
        variant: id of the variant to load; nothing is measured then.
        threads: CPU threads of one run; without it, 1 and the usable cores are tried.
        choose_seconds: to measure in, about; 0 measures nothing and takes the manifest's choice.
        public_key: PEM file of the only signer to accept.
        trust_any: accept any signer, if nothing was changed since.

    Raises:
        BundleError: not a bundle, not trusted, no such variant, or none answers as it did when it was sealed.
    """
    return LocalModel(
        load_bundle(
            bundle,
            variant=variant,
            threads=threads,
            choose_seconds=choose_seconds,
            public_key=public_key,
            trust_any=trust_any,
        )
    )
