"""Policy as tests: what the house promises of its own structure."""

import subprocess
import sys
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


@pytest.mark.parametrize("room", ["serve", "registry", "bundles", "runtimes", "measure", "observe", "core"])
def test_the_serving_half_imports_no_torch(room: str) -> None:
    files = (ROOT / "src" / "headway" / room).glob("*.py")
    modules = [f"headway.{room}.{f.stem}" for f in files if f.stem not in ("__init__", "torch_eager")]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules}]; print('torch' in sys.modules)"
    assert python(code) == "False"


def test_the_recipe_reference_is_up_to_date() -> None:
    code = "import sys; sys.path.insert(0, 'scripts'); import recipe_reference as r; print(r.reference(), end='')"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "docs" / "recipe.md").read_text() == made, "run `make docs`"


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
    assert sum(lines.values()) < 15_000
