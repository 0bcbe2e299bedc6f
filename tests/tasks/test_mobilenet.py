"""MobileNetV2 has torchvision's shape and names, and starts from weights under them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from headway.core.errors import FormatError, WeightsError
from headway.tasks.mobilenet import MobileNetV2, mobilenet_v2


def test_the_size_and_the_names_are_torchvisions() -> None:
    model = MobileNetV2()
    assert sum(p.numel() for p in model.parameters()) == 3_504_872  # as torchvision's documentation has it
    names = list(model.state_dict())
    assert len(names) == 314
    assert {"features.0.0.weight", "features.2.conv.1.0.weight", "features.17.conv.3.bias", "classifier.1.bias"} < {
        *names
    }


@pytest.mark.parametrize("side", [32, 45])
def test_any_size_of_picture_gives_logits(side: int) -> None:
    assert MobileNetV2(7, 0.25).eval()(torch.rand(3, 3, side, side)).shape == (3, 7)


def test_features_come_from_the_file_and_the_classifier_is_new(tmp_path: Path) -> None:
    given, file = MobileNetV2(5, 0.25), tmp_path / "w.safetensors"
    save_file(given.state_dict(), file)
    model = mobilenet_v2(2, 0.25, file)
    assert torch.equal(model.features[9].conv[1][0].weight, given.features[9].conv[1][0].weight)
    assert model.classifier[1].weight.shape[0] == 2


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="cannot be read"):
        mobilenet_v2(2, 0.25, file)
    save_file(MobileNetV2(2, 0.5).state_dict(), file)
    with pytest.raises(WeightsError, match=r"width 0\.25"):
        mobilenet_v2(2, 0.25, file)
    file.write_bytes(b"nothing")
    with pytest.raises(FormatError, match="safetensors"):
        mobilenet_v2(2, 0.25, file)
