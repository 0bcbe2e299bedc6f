"""`headway.load`: the same checks as the server's, in the caller's own thread."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

import headway
from headway.bundles.bundle import Bundle
from headway.core.errors import BundleError, RequestError, TamperedError
from headway.registry.registry import Registry
from headway.serve.errors import InferenceError

Seal = Callable[..., Bundle]
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def test_it_answers_from_a_bundle_a_path_and_a_registry_name(sealed: Seal) -> None:
    bundle = sealed("linear", version="1")
    Registry().add(bundle)
    Registry().alias("linear", "production", "1")
    value = np.ones((2, 4), np.float32)
    for source in (bundle, bundle.path, str(bundle.path), "linear", "linear:1", "linear@production"):
        with headway.load(source) as model:
            assert model.manifest.name == "linear"
            np.testing.assert_allclose(model(inputs={"input": value})["logits"], value @ WEIGHTS, rtol=1e-5)
            np.testing.assert_allclose(model.predict({"input": value})["logits"], value @ WEIGHTS, rtol=1e-5)


def test_what_does_not_fit_is_said_before_it_runs(sealed: Seal) -> None:
    with headway.load(sealed("linear")) as model:
        with pytest.raises(RequestError, match=r"must be FP32 \(numpy float32\), not float64"):
            model({"input": np.ones((2, 4))})
        with pytest.raises(RequestError, match="no input is called 'x'"):
            model({"x": np.ones((2, 4), np.float32)})


def test_a_tampered_bundle_and_a_changed_model_do_not_load(sealed: Seal) -> None:
    bundle = sealed("linear")
    variant = bundle.model_file(bundle.manifest.variant())
    variant.write_bytes(variant.read_bytes()[:-1] + b"\x00")
    with pytest.raises(TamperedError):
        headway.load(bundle.path)
    with pytest.raises(BundleError, match="no such bundle"):
        headway.load(bundle.path / "none")


def test_threads_share_a_model(sealed: Seal) -> None:
    right: list[bool] = []
    with headway.load(sealed("linear")) as model:

        def call(number: int) -> None:
            value = np.full((3, 4), number, np.float32)
            right.extend(np.allclose(model({"input": value})["logits"], value @ WEIGHTS) for _ in range(50))

        threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 200


def test_a_closed_model_says_so(sealed: Seal) -> None:
    model = headway.load(sealed("linear"))
    model.close()
    with pytest.raises(InferenceError, match="closed"):
        model({"input": np.ones((1, 4), np.float32)})
