"""Random changes to pictures that keep what they show, on whole batches and on any device.

All randomness comes from torch's global generator, which training seeds before every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Augmentation", "Mixed", "change", "mix"]


@dataclass(frozen=True)
class Augmentation:
    """Settings of the changes to pictures; zeros change nothing but the side."""

    least_area: float = 1.0  # a crop shows at least this share of the picture, enlarged to fill it
    shift: float = 0.0  # of the picture's edge, at most; what is uncovered is mirrored
    colour: float = 0.0  # brightness, contrast and saturation change by at most this factor
    erase: float = 0.0  # how often a rectangle of noise covers up to a quarter
    mix: float = 0.0  # how often a batch is cut together or blended with itself in another order


@dataclass(frozen=True)
class Mixed:
    """Pictures (B, 3, H, W), each `share` its own and the rest that of `partner`."""

    images: Tensor
    partner: Tensor  # (B,) indices into the batch
    share: Tensor  # (B,) between 0 and 1


def change(images: Tensor, settings: Augmentation) -> Tensor:
    """Crop, mirror, recolour and erase; normalised pictures (B, 3, H, W) to the same."""
    images = _crop_and_mirror(images, settings.least_area, settings.shift)
    if settings.colour:
        images = _recolour(images, settings.colour)
    if settings.erase:
        images = _erase(images, settings.erase)
    return images


def mix(images: Tensor, often: float) -> Mixed:
    """CutMix (arXiv 1905.04899) or mixup (arXiv 1710.09412), half of the times each; or neither."""
    count, _, height, width = images.shape
    partner = torch.randperm(count, device=images.device)
    if torch.rand(()) >= often:
        return Mixed(images, partner, torch.ones(count, device=images.device))
    if torch.rand(()) < 0.5:
        share = torch.distributions.Beta(0.4, 0.4).sample((count,)).to(images.device)
        weight = share.view(-1, 1, 1, 1)
        return Mixed(images * weight + images[partner] * (1 - weight), partner, share)
    inside = _rectangles(count, height, width, torch.rand(count, device=images.device))
    mixed = torch.where(inside[:, None], images[partner], images)
    return Mixed(mixed, partner, 1 - inside.float().mean((1, 2)))


def _crop_and_mirror(images: Tensor, least_area: float, shift: float) -> Tensor:
    """One resampling for the crop, its place, its aspect (3:4 to 4:3) and the side."""
    count, device = len(images), images.device
    area = least_area + (1 - least_area) * torch.rand(count, device=device)
    aspect = torch.exp((torch.rand(count, device=device) * 2 - 1) * 0.29 * float(least_area < 1))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    side = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    x = (torch.rand(count, device=device) * 2 - 1) * (1 - width + 2 * shift)
    y = (torch.rand(count, device=device) * 2 - 1) * (1 - height + 2 * shift)
    zero = torch.zeros_like(x)
    affine = torch.stack([torch.stack([width * side, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _recolour(images: Tensor, strength: float) -> Tensor:
    def factor() -> Tensor:
        return 1 + (torch.rand(len(images), 1, 1, 1, device=images.device) * 2 - 1) * strength

    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * factor()
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * factor() + mean + factor() - 1


def _erase(images: Tensor, often: float) -> Tensor:
    """Random erasing (arXiv 1708.04896)."""
    count, _, height, width = images.shape
    area = 0.25 * torch.rand(count, device=images.device)
    area = torch.where(torch.rand(count, device=images.device) < often, area, 0)
    inside = _rectangles(count, height, width, area)
    return torch.where(inside[:, None], torch.randn_like(images), images)


def _rectangles(count: int, height: int, width: int, area: Tensor) -> Tensor:
    """Masks (B, H, W) of rectangles that cover shares `area` (B,), cut off at the edges."""
    edge = area.sqrt().view(-1, 1) / 2
    centre = torch.rand(2, count, 1, device=area.device)
    rows = (torch.arange(height, device=area.device) + 0.5) / height
    columns = (torch.arange(width, device=area.device) + 0.5) / width
    in_rows = (rows - centre[0]).abs() < edge
    in_columns = (columns - centre[1]).abs() < edge
    return in_rows[:, :, None] & in_columns[:, None, :]
