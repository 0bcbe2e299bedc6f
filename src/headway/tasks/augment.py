"""Random changes to training pictures, drawn from torch's global random numbers."""

import torch
from torch.nn import functional


def shift(pictures: torch.Tensor, pixels: int = 1) -> torch.Tensor:
    """Move each picture, [N, C, H, W], by up to `pixels` in each direction; what comes in is zero."""
    count, _, height, width = pictures.shape
    padded = functional.pad(pictures, (pixels,) * 4)
    top, left = torch.randint(0, 2 * pixels + 1, (2, count))
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]  # [N, 1, H, 1]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]  # [N, 1, 1, W]
    channels = torch.arange(pictures.shape[1])[None, :, None, None]
    return padded[torch.arange(count)[:, None, None, None], channels, rows, columns]


def flip(pictures: torch.Tensor) -> torch.Tensor:
    """Mirror each picture, [N, C, H, W], left to right with probability one half."""
    mirrored = torch.rand(len(pictures)) < 0.5
    return torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)


def shift_images(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Shift the input called "image" by up to one pixel."""
    return {**inputs, "image": shift(inputs["image"])}


def flip_and_shift_images(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Mirror the input called "image" with probability one half and shift it by up to one pixel."""
    return {**inputs, "image": shift(flip(inputs["image"]))}


def turn(pictures: torch.Tensor) -> torch.Tensor:
    """Turn and mirror each square picture, [N, C, S, S], into one of the eight ways to lay it down."""
    ways = torch.randint(0, 8, (len(pictures),))
    turned = torch.empty_like(pictures)
    for way in range(8):
        rows = ways == way
        some = torch.rot90(pictures[rows], way % 4, (2, 3))
        turned[rows] = some.flip(3) if way >= 4 else some
    return turned


def turn_images(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Lay the input called "image" down in one of eight ways."""
    return {**inputs, "image": turn(inputs["image"])}
