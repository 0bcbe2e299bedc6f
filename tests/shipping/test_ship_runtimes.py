"""Which runtimes a variant is tried on, and that one of them does not change what another's is called."""

import sys
from pathlib import Path

import pytest

import headway
from headway.core.errors import ConfigError, MissingDependencyError
from headway.runtimes.openvino import OpenVinoRuntime
from headway.serve.loading import load_bundle
from headway.shipping.ship import ship

needs_openvino = pytest.mark.skipif(not OpenVinoRuntime().available().ready, reason="openvino is not installed")


@needs_openvino
def test_openvino_is_tried_with_the_original_and_not_with_onnx_runtimes_8_bits(project: Path) -> None:
    overrides = ["target.runtimes=[]"]  # all that are here; naming OpenVINO would make its 8 bits as well
    result = ship(project / "tiny.yaml", out=project / "out", overrides=overrides, register=False)
    runtimes = {id_: judged.runtime for id_, judged in result.judged.items()}
    assert runtimes == {"original": "onnxruntime", "original-openvino": "openvino", "quantized": "onnxruntime"}
    both = (result.judged[id_].card.accuracy.value for id_ in ("original", "original-openvino"))
    assert len(set(both)) == 1, "the same model answers the same in both"
    bundle = headway.Bundle.open(project / "out")
    sealed = bundle.manifest.variant("original-openvino")
    assert (sealed.runtime, sealed.format) == ("openvino", "onnx")
    loaded = load_bundle(bundle, variant=sealed.id, trust_any=True)  # replays its golden samples
    loaded.session.close()


def test_a_runtime_that_nobody_offers_or_that_is_not_here_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="abacus"):
        ship(project / "tiny.yaml", out=project / "out", overrides=["target.runtimes=[abacus]"])
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match="openvino is not installed"):
        ship(project / "tiny.yaml", out=project / "out", overrides=["target.runtimes=[openvino]"])
