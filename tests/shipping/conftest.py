"""A project of a user's own: a small network on real digits, trained in a second."""

from pathlib import Path

import pytest

TASK = '''
"""A small network on scikit-learn's digits."""

import torch
from sklearn.datasets import load_digits

from headway.tasks import Task, split


def digits(width: int = 16) -> Task:
    data = load_digits()
    parts = split({"image": (data.images[:, None] / 16).astype("float32")}, data.target, fractions=(0.4, 0.1, 0.1, 0.4))

    def model() -> torch.nn.Module:
        nn = torch.nn
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
        )

    return Task(parts=parts, model=model, labels=tuple("0123456789"))
'''
RECIPE = """
name: tiny
task: {use: "tiny.py:digits"}
train: {epochs: 6, batch_size: 32, threads: 1}
steps:
  - quantize: {calibration: minmax}
target: {keep_accuracy: 0.95, seconds: 0.2, runtimes: [onnxruntime]}
"""


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Path:
    """A folder with `tiny.py` and `tiny.yaml`, and an empty `HEADWAY_HOME`."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "tiny.py").write_text(TASK)
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder
