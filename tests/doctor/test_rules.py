"""The rules: that the file is sound, and that each of its rules finds what it is there for."""

from pathlib import Path

import pytest

from headway.core.errors import ConfigError
from headway.doctor.finding import Severity
from headway.doctor.rules import Rule, apply, load, within

OK, WARN, FAIL = Severity.OK, Severity.WARN, Severity.FAIL
LIBRARIES = {"cuda-runtime": "12.8.90", "cudnn": "9.7.1"}


def judged(**facts: str) -> dict[str, Severity]:
    """By what it is about, for facts with _ for -; several versions with a space between them."""
    known = {name.replace("_", "-"): tuple(text.split()) for name, text in facts.items()}
    return {finding.about: finding.severity for finding in map(_renamed, apply(load(), known))}


def _renamed(finding: object) -> object:
    return type("Found", (), {"about": finding.what, "severity": finding.severity})


@pytest.mark.parametrize(
    ("facts", "about", "expected"),
    [
        ({"torch_cuda": "12.8", "nvidia_driver": "525.60.13"}, "torch and the driver", OK),
        ({"torch_cuda": "12.8", "nvidia_driver": "470.256.02"}, "torch and the driver", FAIL),
        ({"torch_cuda": "13.0", "nvidia_driver": "570.86.15"}, "torch and the driver", FAIL),
        ({"torch_cuda": "13.0", "nvidia_driver": "580.65.06"}, "torch and the driver", OK),
        ({"torch_cuda": "11.8", "nvidia_driver": "580.65.06"}, "torch and the driver", OK),
        ({"torch_cuda": "11.8", "nvidia_driver": "440.33"}, "torch and the driver", FAIL),
        ({"onnxruntime_cuda": "12.8", "nvidia_driver": "470.1"}, "onnxruntime and the driver", FAIL),
        ({"onnxruntime_cuda": "13.0", "nvidia_driver": "575.1"}, "onnxruntime and the driver", FAIL),
        ({"torch_cuda": "13.0", "nvidia_gpu": "7.0"}, "torch and the GPU", FAIL),
        ({"torch_cuda": "13.0", "nvidia_gpu": "7.0 9.0"}, "torch and the GPU", OK),
        ({"torch": "2.13.0+cpu", "nvidia_gpu": "9.0"}, "torch and the GPU", WARN),
        ({"torch": "2.13.0", "torch_cuda": "12.8", "nvidia_gpu": "9.0"}, "torch and the GPU", OK),
        ({"onnxruntime_cuda": "12.8", "nvidia_gpu": "9.0"}, "onnxruntime and CUDA", FAIL),
        ({"onnxruntime_cuda": "12.8", "nvidia_gpu": "9.0", "cuda_runtime": "13.0 12.8", "cudnn": "9.1"},
         "onnxruntime and CUDA", OK),
        ({"onnxruntime_cuda": "12.8", "nvidia_gpu": "9.0", "cuda_runtime": "12.8", "cudnn": "8.9.2"},
         "onnxruntime and CUDA", FAIL),
        ({"onnxruntime_cuda": "13.0", "nvidia_gpu": "9.0", "cuda_runtime": "12.8", "cudnn": "9.1"},
         "onnxruntime and CUDA", FAIL),
        ({"onnxruntime_cuda": "11.8", "nvidia_gpu": "9.0", "cuda_runtime": "11.8.89", "cudnn": "9.1"},
         "onnxruntime and CUDA", FAIL),
        ({"onnxruntime": "1.31", "onnxruntime_gpu": "1.31"}, "one onnxruntime", WARN),
        ({"onnxruntime": "1.18.1", "numpy": "2.1.0"}, "onnxruntime and NumPy", FAIL),
        ({"onnxruntime": "1.18.1", "numpy": "1.26.4"}, "onnxruntime and NumPy", OK),
    ],
)  # fmt: skip
def test_each_rule(facts: dict[str, str], about: str, expected: Severity) -> None:
    assert judged(**facts)[about] is expected


def test_what_is_not_here_is_judged_by_no_rule() -> None:
    assert judged() == {}
    assert judged(torch="2.13.0+cpu", onnxruntime="1.31.1", numpy="2.4.6") == {}
    assert judged(torch_cuda="12.8", onnxruntime_cuda="12.8") == {}  # without a GPU both run on the CPU


def test_every_rule_is_met_by_the_table_above() -> None:
    table = next(mark for mark in test_each_rule.pytestmark if mark.name == "parametrize").args[1]
    for rule in load().rules:
        assert any(_applies(rule, facts) and about == rule.about for facts, about, _ in table), rule


def _applies(rule: Rule, facts: dict[str, str]) -> bool:
    known = {name.replace("_", "-"): text.split() for name, text in facts.items()}
    return all(any(within(v, range_) for v in known.get(name, ())) for name, range_ in rule.when.items())


def test_a_finding_says_what_is_wanted_why_and_who_says_so() -> None:
    (found,) = apply(load(), {"torch-cuda": ("13.0",), "nvidia-driver": ("535.1",)})
    assert "nvidia-driver 535.1, where nvidia-driver >=580 is needed" in found.found
    assert found.fix
    assert found.source.startswith("https://docs.nvidia.com/")


def test_versions_that_nobody_can_read_are_in_no_range() -> None:
    assert not within("N/A", ">=1")
    assert within("N/A", "")
    assert within("2.14.0a0+git123", ">=2.13")


def test_a_mistake_in_a_file_of_rules_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("brings: {}\nrules:\n  - about: x\n    area: gpu\n    when: {torch: about 2}\n")
    with pytest.raises(ConfigError, match=r"rules\.yaml:5.*not a range"):
        load(path)
