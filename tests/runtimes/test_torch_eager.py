"""The reference session: what it returns, what it shares, and how it treats PyTorch's threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from headway.core.errors import TaskError
from headway.core.tensors import TensorSpec
from headway.runtimes.torch_eager import TorchEagerSession, to_torch

IMAGE = TensorSpec(name="image", datatype="FP32", shape=(-1, 1, 8, 8))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Named(nn.Module):
    """Returns a mapping, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"total": left + right, "logits": self.linear(left - right)}


def test_it_answers_as_the_module_in_evaluation_mode_does() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.5)).train()
    session = TorchEagerSession(model, (IMAGE,), ("logits",))
    image = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    answered = session.run({"image": image})
    with torch.no_grad():
        expected = model(torch.from_numpy(image)).numpy()
    assert not model.training
    np.testing.assert_array_equal(answered["logits"], expected)
    assert [(o.name, o.datatype, o.shape) for o in session.outputs] == [("logits", "FP32", (-1, 10))]


def test_inputs_are_taken_in_the_order_of_the_specs_whatever_the_mapping() -> None:
    specs = tuple(TensorSpec(name=name, datatype="FP32", shape=(-1, 4)) for name in ("left", "right"))
    session = TorchEagerSession(Named(), specs, ("logits", "total"))
    right, left = np.ones((2, 4), np.float32), np.full((2, 4), 3, np.float32)
    swapped = session.run({"right": right, "left": left})
    assert list(swapped) == ["logits", "total"]
    np.testing.assert_array_equal(swapped["logits"], session.run({"left": left, "right": right})["logits"])


def test_memory_is_shared_unless_pytorch_cannot() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert to_torch(array).data_ptr() == array.ctypes.data
    array.flags.writeable = False
    assert (
        to_torch(array).data_ptr() != array.ctypes.data
    )  # and no warning, which the test run would turn into an error
    np.testing.assert_array_equal(to_torch(array[:, ::-1]).numpy(), array[:, ::-1])


def test_threads_are_set_for_runs_and_put_back_by_close() -> None:
    torch.set_num_threads(2)
    seen: list[int] = []

    class Watch(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return image

    session = TorchEagerSession(Watch(), (IMAGE,), ("image",), threads=1)
    session.run({"image": np.zeros((1, 1, 8, 8), np.float32)})
    session.close()
    assert seen == [1]
    assert torch.get_num_threads() == 2


def test_bfloat16_comes_out_as_float32() -> None:
    model = nn.Sequential(_ToBfloat16(), nn.Linear(4, 2).bfloat16())
    session = TorchEagerSession(model, (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),), ("y",))
    assert session.run({"x": np.ones((1, 4), np.float32)})["y"].dtype == np.float32


class _ToBfloat16(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.bfloat16()


@pytest.mark.parametrize(
    ("returned", "message"),
    [((), "0 outputs where the task names 1"), ((3.0,), "returns a float as 'y'"), ({"x": None}, "not 'y'")],
)
def test_a_module_that_returns_something_else_is_the_tasks_mistake(returned: object, message: str) -> None:
    class Wrong(nn.Module):
        def forward(self, image: torch.Tensor) -> object:
            return returned

    session = TorchEagerSession(Wrong(), (IMAGE,), ("y",))
    with pytest.raises(TaskError, match=message):
        session.run({"image": np.zeros((1, 1, 8, 8), np.float32)})
