"""What a result depends on: another of any of these, and it is made anew."""

from pathlib import Path

from headway.shipping.build import Identity, identify
from headway.shipping.recipe import Recipe
from headway.tasks.loading import load_task


def _identity(project: Path, seed: int = 0) -> Identity:
    recipe = Recipe.load(project / "tiny.yaml", [f"train.seed={seed}"])
    asked = recipe.config.task
    return identify(recipe, load_task(asked.use, asked.args, recipe.base), "source")


def test_weights_that_a_factory_starts_from_count(project: Path) -> None:
    """A factory may read them from a file whose name stays and whose content does not."""
    before = _identity(project)
    assert _identity(project) == before
    assert _identity(project, seed=1) != before
    task = project / "tiny.py"
    start = project / "bias.txt"
    body = f"""
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        torch.nn.init.constant_(net[1].bias, float(__import__('pathlib').Path({str(start)!r}).read_text()))
        return net
    """
    text = task.read_text()
    begin, end = text.index("        nn = torch.nn"), text.index("    return Task(")
    task.write_text(text[:begin] + body.strip("\n") + "\n\n" + text[end:])
    start.write_text("0.5")
    one = _identity(project)
    assert _identity(project) == one
    start.write_text("0.25")
    assert _identity(project) != one
