"""The catalogue that comes with Headway, and what is wrong with a user's."""

from pathlib import Path

import pytest

from headway.core.errors import ConfigError
from headway.shipping.catalogue import load

OWN = """
sources: {shop: {url: "https://example.org/box", date: "2026-01", checked: true}}
hardware:
  - name: Box
    peak_tops: {fp32: {value: 1, source: shop}}
    watts: {value: 50, low: 20, source: nvidia-t4, how: guessed}
    price_usd: {value: 900, source: shop}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "own.yaml"
    file.write_text(text)
    return file


def test_ours_is_sound() -> None:
    found = load()
    assert 8 <= len(found.hardware) <= 14
    used = {figure.source for each in found.hardware for figure in each.figures.values()}
    assert used == set(found.sources)
    for each in found.hardware:
        assert each.watts is not None
        assert (each.price_usd is None) != (each.hourly_usd is None)
        peaks = [each.peak_tops[name].value for name in ("fp32", "fp16", "int8") if name in each.peak_tops]
        assert peaks == sorted(peaks)


def test_a_users_machine_stands_beside_ours_and_may_use_our_sources(tmp_path: Path) -> None:
    found = load(write(tmp_path, OWN))
    assert len(found.hardware) == len(load().hardware) + 1
    box = found.hardware[-1]
    assert {name: found.mark(figure) for name, figure in box.figures.items()} == {
        "peak_tops.fp32": "vendor",
        "watts": "modelled",
        "price_usd": "vendor",
    }


def test_one_of_the_same_name_replaces_ours(tmp_path: Path) -> None:
    name = load().hardware[0].name
    found = load(write(tmp_path, OWN.replace("Box", name)))
    assert [each.price_usd is not None for each in found.hardware if each.name == name] == [True]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("watts:", "wats:", "did you mean 'watts'"),
        ("source: nvidia-t4", "source: nvidia-t5", "did you mean 'nvidia-t4'"),
        ("low: 20", "low: 60", "low must not lie above value"),
        ("value: 900", "value: -1", "greater than 0"),
        ("https://example", "ftp://example", "pattern"),
        ("fp32", "fp31", "fp32"),
        ("    peak_tops: {fp32: {value: 1, source: shop}}\n", "", "no peak_tops"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in OWN
    with pytest.raises(ConfigError, match=r"own\.yaml:\d") as caught:
        load(write(tmp_path, OWN.replace(old, new)))
    assert message in str(caught.value)
