"""`headway train`: the road's first stage alone, which `ship` then takes as it is."""

import json
from pathlib import Path

import pytest

from headway.core.errors import ConfigError, StorageError
from headway.runs.read import recorded
from headway.shipping.ship import ship
from headway.shipping.train import train

QUICK = ("train.epochs=1", "steps=[]", "target.keep_accuracy=0.5")


def _stages(project: Path) -> list[str]:
    return [path.name for path in (project.parent / "home" / "cache" / "ship" / "train").iterdir() if path.is_dir()]


def test_ship_takes_what_was_trained_and_a_record_stays_of_both(project: Path) -> None:
    trained = train(project / "tiny.yaml", out=project / "tiny.safetensors", overrides=QUICK)
    assert trained.weights.is_file()
    assert json.loads((project / "tiny.json").read_text()) == json.loads(json.dumps(trained.record))
    (stage,) = _stages(project)
    ship(project / "tiny.yaml", out=project / "out", overrides=QUICK)
    assert _stages(project) == [stage]
    runs = {run.record.kind: run.record for run in recorded()}
    assert runs["train"].result["weights"] == str(project / "tiny.safetensors")
    assert runs["train"].result["steps"] == trained.record["steps"]
    assert {record.status for record in runs.values()} == {"finished"}


def test_what_cannot_be_trained_is_told_before_any_work(project: Path) -> None:
    with pytest.raises(StorageError, match="is a folder"):
        train(project / "tiny.yaml", out=project)
    with pytest.raises(ConfigError, match="processes"):
        train(project / "tiny.yaml", processes=2, overrides=["train.parallel.shard=3"])
    with pytest.raises(ConfigError, match="no two linear layers"):
        train(project / "tiny.yaml", processes=2, overrides=["train.parallel.tensor=2"])
    assert not (project.parent / "home" / "runs").exists()
