"""Augmentation moves and mirrors pictures and loses nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.tasks.augment import flip, flip_and_shift_images, shift, shift_images, turn_images


@given(seed=st.integers(0, 1000), pixels=st.integers(1, 3), channels=st.integers(1, 3))
def test_a_shifted_picture_is_a_window_of_the_padded_one(seed: int, pixels: int, channels: int) -> None:
    torch.manual_seed(seed)
    pictures = torch.rand(4, channels, 6, 5)
    moved = shift(pictures, pixels)
    padded = torch.nn.functional.pad(pictures, (pixels,) * 4)
    for row in range(4):
        windows = padded[row].unfold(1, 6, 1).unfold(2, 5, 1)  # [C, 2p+1, 2p+1, 6, 5]
        matches = (windows == moved[row][:, None, None]).all(dim=(0, 3, 4))
        assert matches.sum() == 1


@given(seed=st.integers(0, 1000))
def test_a_flipped_picture_is_itself_or_its_mirror(seed: int) -> None:
    torch.manual_seed(seed)
    pictures = torch.rand(8, 2, 4, 4)
    for before, after in zip(pictures, flip(pictures), strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))


def test_only_the_image_is_changed_and_torchs_seed_decides() -> None:
    inputs = {"image": torch.rand(16, 1, 8, 8), "other": torch.rand(16)}
    for augment in (shift_images, flip_and_shift_images):
        torch.manual_seed(1)
        first = augment(inputs)
        torch.manual_seed(1)
        assert torch.equal(first["image"], augment(inputs)["image"])
        assert not torch.equal(first["image"], inputs["image"])
        assert first["other"] is inputs["other"]


def test_a_turned_picture_is_one_of_the_eight_ways_to_lay_it_down() -> None:
    picture = torch.arange(9.0).reshape(1, 1, 3, 3)
    ways = [torch.rot90(side, k, (2, 3)) for side in (picture, picture.flip(3)) for k in range(4)]
    torch.manual_seed(0)
    turned = turn_images({"image": picture.repeat(200, 1, 1, 1), "other": picture})
    seen = [[torch.equal(one[None], way) for way in ways].index(True) for one in turned["image"]]
    assert set(seen) == set(range(8))
    assert turned["other"] is picture
