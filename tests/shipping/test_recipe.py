"""A recipe is checked whole before any work, and its mistakes are named where they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

from headway.core.errors import ConfigError
from headway.shipping.plan import plans
from headway.shipping.recipe import Recipe

GOOD = """\
name: digits
task: {use: headway.tasks.images:digits}
steps:
  - prune: {keep: 0.6}
  - quantize
"""
STEPS = "name: x\ntask: {use: a:b}\nsteps:\n"


def load(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return Recipe.load(path, overrides)


def test_variants_are_the_combinations_of_steps(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD, "steps.0.prune.keep=0.7", "target.confidence=0.9")
    assert recipe.config.target.confidence == 0.9
    assert recipe.steps[0].config.model_dump()["keep"] == 0.7
    assert [plan.id for plan in plans(recipe.steps)] == ["original", "pruned", "quantized", "pruned-quantized"]
    last = plans(recipe.steps)[-1]
    assert [[s.name for s in steps] for steps in (last.module_steps, last.graph_steps)] == [["prune"], ["quantize"]]


def test_a_step_that_needs_another_comes_only_with_it(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD.replace("  - quantize", "  - qat\n  - quantize"))
    ids = [plan.id for plan in plans(recipe.steps)]
    assert ids == ["original", "pruned", "quantized", "pruned-quantized", "qat-quantized", "pruned-qat-quantized"]


@pytest.mark.parametrize(
    ("steps", "ids"),
    [
        ("  - prune\n  - distill", ["original", "pruned", "pruned-distilled"]),
        ("  - distill: {narrow: 0.5}\n  - quantize", ["original", "distilled", "quantized", "distilled-quantized"]),
        ("  - distill: {student: 'a.py:b'}\n  - prune", ["original", "distilled", "pruned", "distilled-pruned"]),
    ],
)
def test_a_model_without_a_teacher_is_no_variant(tmp_path: Path, steps: str, ids: list[str]) -> None:
    recipe = load(tmp_path, f"name: x\ntask: {{use: a:b}}\nsteps:\n{steps}\n")
    assert [plan.id for plan in plans(recipe.steps)] == ids


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (GOOD.replace("prune:", "prun:"), 4, "did you mean 'prune'"),
        (GOOD.replace("keep:", "kep:"), 4, "did you mean 'keep'"),
        (GOOD.replace("0.6", "1.6"), 4, "less than"),
        (GOOD.replace("name: digits", "name: ../digits"), 1, "pattern"),
        (GOOD + "  - quantize\n", 6, "stands twice"),
        (GOOD + "target: {keep_acuracy: 0.9}\n", 6, "did you mean 'keep_accuracy'"),
        (GOOD + "target: {devices: [tpu]}\n", 6, "'cpu'"),
        (GOOD + "target: {threads: 100000}\n", 6, "less than or equal to 1024"),
        (GOOD + "target: {confidence: 0.99999}\n", 6, "less than or equal to 0.9999"),
        (GOOD + "train: {threads: 100000}\n", 6, "less than or equal to 1024"),
        (GOOD + "train: {seed: 4294967296}\n", 6, "less than or equal to 4294967295"),
        (GOOD + "train: {batch_size: 1000000000}\n", 6, "less than or equal to 1048576"),
        (GOOD + "train: {lr: 1e7}\n", 6, "less than or equal to 1000000"),
        (GOOD + "model: {weights: " + "x" * 300 + "}\n", 6, "no such file"),
        (GOOD + "model: {}\n", 6, "either `weights` or `onnx`"),
        (GOOD + "model: {weights: none.safetensors}\n", 6, "no such file"),
        ("name: x\ntask: {use: a:b}\nsteps: [quantize, prune]\n", 3, "Put prune before quantize"),
        ("name: x\ntask: {use: a:b}\nmodel: {onnx: recipe.yaml}\nsteps: [prune]\n", 4, "needs a torch module"),
        ("name: x\ntask: {use: a:b}\nsteps: [qat]\n", 3, "Add quantize after qat"),
        ("name: x\ntask: {use: a:b}\nsteps:\n  - qat\n  - quantize: {mode: dynamic}\n", 4, "needs mode: static"),
        (STEPS + "  - distill\n", 4, "Put prune before distill"),
        (STEPS + "  - distill\n  - prune\n", 4, "the original would learn from itself"),
        (STEPS + "  - prune\n  - distill: {student: 'a.py:b'}\n", 5, "what was pruned is lost"),
        (STEPS + "  - qat\n  - prune\n  - quantize\n", 5, "Put prune before qat"),
        (STEPS + "  - qat\n  - distill: {narrow: 0.5}\n  - quantize\n", 5, "would undo what qat trained"),
        (STEPS + "  - quantize\n  - distill: {narrow: 0.5}\n", 5, "Put distill before quantize"),
        (STEPS + "  - prune: {distill: {temprature: 2}}\n", 4, "did you mean 'temperature'"),
        (GOOD + "  - quantize: {mixed: {minuts: 1}}\n", 6, "did you mean 'minutes'"),
        ("name: x\ntask: {use: a:b}\nsteps:\n  - {prune: {}, quantize: {}}\n", 4, "one name with its settings"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert f"recipe.yaml:{line}" in str(caught.value)
    assert says in str(caught.value)


def test_checking_a_recipe_imports_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD)
    code = f"import sys; from headway import Recipe; Recipe.load({str(path)!r}); print('torch' in sys.modules)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "False"
