"""Policy as tests: what the house promises of its own structure."""

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import headway

ROOT = Path(__file__).parents[1]


def python(code: str) -> str:
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def test_public_names() -> None:
    assert headway.__all__ == ["Bundle", "Recipe", "Server", "load", "ship"]
    assert all(getattr(headway, name).__module__.startswith("headway.") for name in headway.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = headway.nothing


def test_importing_headway_costs_nothing() -> None:
    new = python("import sys; old = set(sys.modules); import headway; print(*set(sys.modules) - old)").split()
    assert not [name for name in new if name.split(".")[0] in {"numpy", "torch", "pydantic", "onnxruntime", "typer"}]


@pytest.mark.parametrize(
    "room", ["serve", "registry", "bundles", "processing", "runtimes", "measure", "observe", "core", "doctor"]
)
def test_the_serving_half_imports_no_torch(room: str) -> None:
    files = (ROOT / "src" / "headway" / room).glob("*.py")
    modules = [f"headway.{room}.{f.stem}" for f in files if f.stem not in ("__init__", "torch_eager")]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules}]; print('torch' in sys.modules)"
    assert python(code) == "False"


def test_the_recipe_reference_is_up_to_date() -> None:
    code = "import sys; sys.path.insert(0, 'scripts'); import recipe_reference as r; print(r.reference(), end='')"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "docs" / "recipe.md").read_text() == made, "run `make docs`"


@pytest.mark.parametrize(
    ("script", "call", "document"),
    [
        ("serving_reference", "page", "serving.md"),
        ("observability_reference", "page", "observability.md"),
        ("grafana_dashboard", "dashboard", "grafana.json"),
    ],
)
def test_what_is_said_of_settings_and_metrics_is_up_to_date(script: str, call: str, document: str) -> None:
    code = f"import sys; sys.path.insert(0, 'scripts'); import {script} as s; print(s.{call}(), end='')"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "docs" / document).read_text() == made, "run `make docs`"


def test_every_metric_on_the_dashboard_exists() -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import observability_reference as r; "
        "print(*{sample.name for family in r.example() for sample in family.samples})"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    document = json.loads((ROOT / "docs" / "grafana.json").read_text())
    queries = [target["expr"] for panel in document["panels"] for target in panel.get("targets", ())]
    drawn = {name for query in queries for name in re.findall(r"\b(?:headway|process|python|nv)_\w+", query)}
    assert len(drawn) > 20
    assert drawn <= set(asked.split())


def test_help_is_immediate() -> None:
    """The command's start imports none of what costs time; the seconds themselves are the machine's affair."""
    code = (
        "import sys; from headway.cli import main; "
        "print(*{n.split('.')[0] for n in sys.modules} & {'numpy', 'torch', 'onnxruntime', 'sqlalchemy', 'jinja2'})"
    )
    assert python(code) == ""


def test_no_file_has_grown_beyond_reading() -> None:
    lines = {f: f.read_text().count("\n") for f in (ROOT / "src").rglob("*.py")}
    assert not {str(f): n for f, n in lines.items() if n > 400}


def test_the_product_stays_small() -> None:
    """Lines that run: docs/decisions/0006 says why docstrings do not count."""
    assert sum(code_lines(f.read_text()) for f in (ROOT / "src").rglob("*.py")) < 26_500


def code_lines(source: str) -> int:
    """Lines of a module without blank ones, comments and docstrings."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)
