"""Writes the table of settings in docs/serving.md from the descriptions that they carry."""

from pathlib import Path

from recipe_reference import section

from headway.serve.config import ServeConfig

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"
BEGIN, END = "<!-- begin settings -->\n", "<!-- end settings -->"


def page() -> str:
    """The page as it stands, with its table made anew."""
    before, found, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert found, f"{PAGE} has no {BEGIN}"
    table = "".join(section("", ServeConfig)).partition("| key |")
    return before + BEGIN + table[1] + table[2] + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
