"""The whole road on real data: shipping, refusing, resuming, and what must not be lost."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import headway
from headway.bundles.bundle import Bundle
from headway.bundles.golden import Sample
from headway.bundles.seal import Draft, seal
from headway.core.errors import (
    BundleError,
    BusyError,
    DataError,
    FormatError,
    StorageError,
    TamperedError,
    TaskError,
    UsageError,
    WeightsError,
)
from headway.core.files import exclusive
from headway.registry.registry import Registry
from headway.shipping.ship import prove, ship

HEADWAY = Path(sys.executable).with_name("headway")


def test_a_recipe_ships_and_the_bundle_answers(project: Path) -> None:
    result = ship(project / "tiny.yaml", out=project / "out")
    assert result.verdict == "shipped"
    bundle = headway.Bundle.open(project / "out")
    bundle.verify()
    assert bundle.manifest.chosen == result.chosen
    assert bundle.manifest.lineage.task == "tiny.py:digits"
    assert {v.id for v in bundle.manifest.variants} <= {"original", "quantized"}
    assert Registry().open("tiny").digest == bundle.digest
    for variant in bundle.manifest.variants:  # held to its own answers as closely as rounding allows
        own = next(bundle.golden()).own[variant.id]["logits"]
        assert 0 < variant.own_tolerance["logits"] < 0.1 * np.abs(own).max()
    with headway.load("tiny") as model:
        sample = next(bundle.golden())
        answers = model(sample.inputs)["logits"]
    assert (answers.argmax(1) == sample.outputs["logits"].argmax(1)).all()
    assert "<svg" in (project / "out" / "report.html").read_text()


def test_the_document_holds_what_the_contract_promises(project: Path) -> None:
    document = ship(project / "tiny.yaml", out=project / "out").document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["verdict"] == "shipped"
    assert {"accuracy", "latency_ms", "throughput", "size_mb"} <= document["reference"].keys()
    assert {"p50", "p99"} <= document["reference"]["latency_ms"].keys()
    for variant in document["variants"]:
        assert {"id", "runtime", "precision", "size_ratio", "why"} <= variant.keys()
        assert variant["accuracy_ci"][0] <= variant["accuracy"] <= variant["accuracy_ci"][1]
        low, middle, high = variant["speedup"]
        assert low <= middle <= high
        assert variant["gate"] in {"pass", "fail", "insufficient"}


@pytest.mark.parametrize(
    ("settings", "drawn"),
    [
        ("{calibration: minmax, mixed: {minutes: 0.05, keep_accuracy: 0.9}}", True),
        ("{mode: dynamic, least_weights: 0}", False),
    ],
)
def test_forms_of_quantization_ship_and_the_ranking_is_drawn(project: Path, settings: str, drawn: bool) -> None:
    result = ship(project / "tiny.yaml", out=project / "out", overrides=[f"steps=[{{quantize: {settings}}}]"])
    (record,) = result.judged["quantized"].built.records
    assert ("mixed" in record.record) == drawn
    report = result.report.read_text()
    assert ("what each layer costs in 8 bits" in report) == drawn
    assert report.count('height="12" role="img"') == (len(record.record["mixed"]["ranking"]) if drawn else 0)


def test_training_for_8_bits_is_a_variant_of_its_own(project: Path) -> None:
    steps = "[{qat: {epochs: 1}}, {quantize: {calibration: minmax}}]"
    result = ship(project / "tiny.yaml", out=project / "out", overrides=[f"steps={steps}"])
    assert list(result.judged) == ["original", "quantized", "qat-quantized"]
    trained, quantized = result.judged["qat-quantized"].built.records
    assert (trained.step, quantized.step) == ("qat", "quantize")
    assert trained.record["simulated"].keys() == {"fp32", "before", "after"}
    files = {id_: result.judged[id_].built.file.read_bytes() for id_ in result.judged}
    assert files["qat-quantized"] != files["quantized"]


STUDENT = """
import torch

def small() -> torch.nn.Module:
    nn = torch.nn
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
"""


def test_a_student_ships_and_the_ledger_says_what_each_step_did(project: Path) -> None:
    (project / "students.py").write_text(STUDENT)
    steps = "[{distill: {student: 'students.py:small', epochs: 6}}, {quantize: {calibration: minmax, keep_fp32: []}}]"
    result = ship(project / "tiny.yaml", out=project / "out", overrides=[f"steps={steps}"])
    assert list(result.judged) == ["original", "distilled", "quantized", "distilled-quantized"]
    learned, quantized = result.judged["distilled-quantized"].built.records
    assert learned == result.judged["distilled"].built.records[0]
    assert learned.record["parameters"]["student"] < 0.1 * learned.record["parameters"]["teacher"]
    for record in (learned, quantized):
        assert record.accuracy is not None
        assert all(0.5 < score <= 1 for score in record.accuracy)
        assert record.seconds is not None
        assert record.seconds > 0
        assert (project.parent / "home" / "cache" / "ship" / record.checkpoint / "record.json").is_file()
    assert learned.accuracy is not None
    assert learned.accuracy[1] == pytest.approx(quantized.accuracy and quantized.accuracy[0], abs=0.02)
    report = result.report.read_text()
    assert report.count(learned.checkpoint) == 1
    assert "<td>distill, quantize</td>" in report

    (project / "students.py").write_text(STUDENT.replace("nn.ReLU", "nn.Tanh"))
    again = ship(project / "tiny.yaml", out=project / "out", overrides=[f"steps={steps}"])
    assert again.judged["distilled"].built.records[0].checkpoint != learned.checkpoint, "the student's source counts"


def test_a_student_that_is_not_there_is_named_before_any_work(project: Path) -> None:
    steps = "[{distill: {student: 'tiny.py:digit'}}]"
    with pytest.raises(TaskError, match="did you mean 'digits'"):
        ship(project / "tiny.yaml", out=project / "out", overrides=[f"steps={steps}"])
    assert not (project.parent / "home" / "cache" / "ship" / "train").exists()


def test_the_pruned_learns_from_the_unpruned(project: Path) -> None:
    """Where the recipe has the step after pruning, the teacher is the trained model, and not what pruning left."""
    steps = "[{prune: {keep: 0.5, every: 0.5, finetune_epochs: 0, align: 1}}, {distill: {epochs: 3}}]"
    result = ship(project / "tiny.yaml", out=project / "out", overrides=[f"steps={steps}"])
    assert list(result.judged) == ["original", "pruned", "pruned-distilled"]
    pruned, learned = result.judged["pruned-distilled"].built.records
    parameters = learned.record["parameters"]
    assert parameters == {
        "teacher": pruned.record["parameters"]["before"],
        "student": pruned.record["parameters"]["after"],
    }
    assert pruned.accuracy is not None
    assert learned.accuracy is not None
    assert learned.accuracy[0] == pruned.accuracy[1]
    assert learned.accuracy[1] > learned.accuracy[0]


def test_a_second_run_takes_everything_from_the_first(project: Path) -> None:
    first = ship(project / "tiny.yaml", out=project / "out")
    digest = headway.Bundle.open(project / "out").digest
    second = ship(project / "tiny.yaml", out=project / "elsewhere")
    assert headway.Bundle.open(project / "elsewhere").digest == digest
    assert second.version == first.version == "1"
    assert ship(project / "tiny.yaml", out=project / "out", overrides=["target.keep_accuracy=0.94"]).version == "2"


def test_the_impossible_is_refused_and_nothing_is_registered(project: Path) -> None:
    result = ship(project / "tiny.yaml", out=project / "out", overrides=["target.p99_ms=0.00001"])
    assert (result.verdict, result.bundle, result.version, result.chosen) == ("refused", None, None, None)
    assert result.nearest in result.judged
    assert "above the bound" in result.report.read_text()
    assert not (project / "out").exists()
    assert not Registry().list()


def test_a_refusal_leaves_the_bundle_that_stands_there(project: Path) -> None:
    ship(project / "tiny.yaml", out=project / "out")
    digest = headway.Bundle.open(project / "out").digest
    ship(project / "tiny.yaml", out=project / "out", overrides=["target.max_size_mb=1e-6"])
    assert headway.Bundle.open(project / "out").digest == digest


def test_too_little_evidence_is_an_answer_of_its_own(project: Path) -> None:
    """The unchanged model loses no row; that it keeps everything, no finite number of rows can prove."""
    result = ship(project / "tiny.yaml", out=project / "out", overrides=["steps=[]", "target.keep_accuracy=1"])
    assert result.verdict == "insufficient"
    assert "not enough evidence" in result.report.read_text()


def test_weights_and_onnx_take_the_place_of_training(project: Path) -> None:
    first = ship(project / "tiny.yaml", out=project / "out")
    (weights,) = (project.parent / "home" / "cache" / "ship" / "train").glob("*/weights.safetensors")
    weights.rename(project / "given.safetensors")
    recipe = (
        (project / "tiny.yaml").read_text().replace("name: tiny", "name: given\nmodel: {weights: given.safetensors}")
    )
    (project / "given.yaml").write_text(recipe)
    given = ship(project / "given.yaml", out=project / "given")
    assert given.evaluation.reference.accuracy == first.evaluation.reference.accuracy

    recipe = recipe.replace("weights: given.safetensors", "onnx: out/variants/original/model.onnx")
    (project / "graph.yaml").write_text(recipe.replace("name: given", "name: graph"))
    graph = ship(project / "graph.yaml", out=project / "graph")
    assert graph.evaluation.reference.name == "the given ONNX file"
    assert graph.judged["original"].gate.outcome == "pass", "a model need not be faster than itself"


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (("return Task(", "raise ValueError('my mistake')\n    return Task("), TaskError, "my mistake"),
        (("nn.Linear(2 * width, 10)", "nn.Linear(2 * width, 9)"), UsageError, "9"),
        (("nn.Linear(2 * width, 10)", "nn.Linear(width, 10)"), UsageError, "shapes cannot be multiplied"),
        (("data.images[:, None] / 16", "data.images[:, None] / 0 * 0"), DataError, "NaN or infinity"),
        (("labels=tuple", "metric=None, labels=tuple"), UsageError, "Metric"),
    ],
)
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning")
def test_a_bad_task_is_named(project: Path, change: tuple[str, str], error: type[Exception], says: str) -> None:
    text = (project / "tiny.py").read_text()
    assert change[0] in text
    (project / "tiny.py").write_text(text.replace(*change))
    with pytest.raises(error, match=says):
        ship(project / "tiny.yaml", out=project / "out")
    assert not (project / "out").exists()


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ("np.ones(len(t))[: -1 if len(t) > 2 else None]", "one score a row"),
        ("np.ones(len(t)) * (np.nan if len(t) > 2 else 1)", "finite"),
        ("np.array(['a'] * len(t)) if len(t) > 2 else np.ones(2)", "must give numbers"),
        ("np.ones(len(t)) if len(t) == 2 else 1 // 0", "ZeroDivisionError"),
    ],
)
def test_a_metric_that_fails_on_the_test_part_is_named(project: Path, scores: str, says: str) -> None:
    metric = f"metric=Metric('mine', lambda o, t: {scores}, binary=True), labels=tuple"
    text = (
        (project / "tiny.py")
        .read_text()
        .replace("import Task, split", "import Metric, Task, split\nimport numpy as np")
    )
    (project / "tiny.py").write_text(text.replace("labels=tuple", metric))
    with pytest.raises(TaskError, match=says) as caught:
        ship(project / "tiny.yaml", out=project / "out", overrides=["train.epochs=1", "steps=[]"])
    assert "metric 'mine'" in str(caught.value)


def test_an_onnx_file_with_weights_elsewhere_is_refused_before_any_work(project: Path, linear_onnx: Path) -> None:
    import onnx

    onnx.save(
        onnx.load(linear_onnx), project / "split.onnx", save_as_external_data=True, size_threshold=0, location="w.bin"
    )
    recipe = (project / "tiny.yaml").read_text() + "model: {onnx: split.onnx}\n"
    (project / "tiny.yaml").write_text(recipe)
    with pytest.raises(FormatError, match="1 tensors lie in other files"):
        ship(project / "tiny.yaml", out=project / "out")
    assert not (project.parent / "home" / "cache").exists()


def test_a_bundle_kept_from_before_that_was_damaged_is_not_shipped(project: Path) -> None:
    ship(project / "tiny.yaml", out=project / "out")
    (kept,) = (project.parent / "home" / "cache" / "ship" / "bundle").glob("*/bundle/variants/original/model.onnx")
    kept.write_bytes(kept.read_bytes()[:-1] + b"\0")
    with pytest.raises(TamperedError):
        ship(project / "tiny.yaml", out=project / "elsewhere")
    assert not (project / "elsewhere").exists()


def test_a_bundle_that_answers_otherwise_is_not_shipped(seal_linear: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = seal_linear()
    prove(bundle)
    samples = [Sample(s.inputs, {"logits": s.outputs["logits"] + 1}) for s in bundle.golden()]
    manifest = bundle.manifest
    (variant,) = manifest.variants
    draft = Draft("linear", "1", manifest.inputs, manifest.outputs, (variant,), variant.id)
    models = {variant.id: bundle.path / variant.file}
    wrong = seal(tmp_path / "wrong", draft, models=models, golden=samples, report="")
    with pytest.raises(BundleError, match="differs from its golden output"):
        prove(wrong)


def test_weights_that_do_not_fit_are_named(project: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"0.weight": np.zeros((3, 3), np.float32)}, project / "w.safetensors")
    recipe = (project / "tiny.yaml").read_text() + "model: {weights: w.safetensors}\n"
    (project / "tiny.yaml").write_text(recipe)
    with pytest.raises(WeightsError, match=r"0\.weight|0\.bias"):
        ship(project / "tiny.yaml", out=project / "out")


def test_a_folder_that_holds_something_else_is_left_alone(project: Path) -> None:
    with pytest.raises(UsageError, match="something else"):
        ship(project / "tiny.yaml", out=project)
    assert (project / "tiny.py").exists()


def test_two_ships_into_one_folder(project: Path) -> None:
    import hashlib

    out = (project / "out").resolve()
    lock = project.parent / "home" / "locks" / f"{hashlib.sha256(str(out).encode()).hexdigest()[:32]}.lock"
    with exclusive(lock, "x"), pytest.raises(BusyError, match="another process"):
        ship(project / "tiny.yaml", out=out)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_interrupted_anywhere_the_same_command_finishes(project: Path) -> None:
    """Ctrl-C after each line of progress in turn; nothing half-written stays, and what was made is kept."""
    command = [HEADWAY, "ship", "tiny.yaml", "--out", "out"]
    interrupted = 0
    while True:
        with subprocess.Popen(
            command, cwd=project, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as run:
            assert run.stderr is not None
            for _ in range(interrupted + 1):
                line = run.stderr.readline()
            if line:
                run.send_signal(signal.SIGINT)
            rest = run.stderr.read()
        if run.returncode == 0:
            break
        assert run.returncode == 130, rest
        assert "the same command resumes" in rest
        assert not (project / "out").exists() or headway.Bundle.open(project / "out")
        interrupted += 1
    assert interrupted >= 3
    headway.Bundle.open(project / "out").verify()
    assert [p.name for p in project.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_a_full_disk_loses_nothing(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", small], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(StorageError, match="no space left"):
            ship(project / "tiny.yaml", out=small / "out")
        assert list(small.iterdir()) == []
        monkeypatch.setenv("HEADWAY_HOME", str(small / "home"))
        with pytest.raises(StorageError, match="no space left"):
            ship(project / "tiny.yaml", out=project / "out")
    finally:
        subprocess.run(["umount", small], check=True)
    assert not (project / "out").exists()


def command(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HEADWAY, "ship", "tiny.yaml", *words], cwd=project, capture_output=True, text=True, check=False, timeout=200
    )


def test_the_command_prints_one_document_and_ends_with_the_gates_code(project: Path) -> None:
    shipped = command(project, "--json")
    assert shipped.returncode == 0, shipped.stderr
    assert json.loads(shipped.stdout)["bundle"] == str(project / "tiny")
    refused = command(project, "--json", "--set", "target.max_size_mb=1e-6")
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["verdict"] == "refused"
    told = command(project, "--set", "target.max_size_mb=1e-6")
    assert "nearest: quantized" in told.stderr
    wrong = command(project, "--json", "--set", "train.epocs=1")
    assert wrong.returncode == 2
    assert "did you mean 'epochs'" in json.loads(wrong.stdout)["error"]
    assert "did you mean 'epochs'" in wrong.stderr


def test_under_json_stdout_is_one_document_whatever_happens(project: Path) -> None:
    task = (project / "tiny.py").read_text()
    shout = "    import os\n    print('from python')\n    os.write(1, b'from below')\n    data = load_digits()"
    (project / "tiny.py").write_text(task.replace("    data = load_digits()", shout))
    shipped = command(project, "--json")
    assert json.loads(shipped.stdout)["verdict"] == "shipped"
    assert "from python" in shipped.stderr
    assert "from below" in shipped.stderr
    usage = command(project, "--json", "--no-such-option")
    assert usage.returncode == 2
    assert "no-such-option" in json.loads(usage.stdout)["error"]
