"""OpenCV's Canny, distance transform, equalization and 3×3 filters, batched and exact, for ImageNet-C's spatter.

Grey images are (N, H, W). Their values are the integers of OpenCV's own code, in int32, or in float32 where all are
below 2²⁴: results equal OpenCV's to the bit and do not depend on the batch.

OpenCV's wheels for x86 use Intel's distance transform instead, which sums in float32 and differs in the last bits:
where the mean of nine distances is nearly an integer, it may be truncated to another one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_lightning.degradations.corruptions.filters import Border, inside

TAN_22 = 13573
"""tan 22.5° in units of 2⁻¹⁵, in OpenCV's rounding; tan 67.5° is larger by 2."""

UNIT = 2**16
"""OpenCV's distances are integer multiples of 1/UNIT px."""

STRAIGHT, DIAGONAL, KNIGHT = UNIT, 91750, 143976
"""Lengths of the steps (0, 1), (1, 1) and (1, 2) of DIST_L2 with a mask of 5×5: 1, 1.4 and 2.1969 px."""

GROWTHS = 4
"""Steps of Canny's hysteresis between two tests of whether it has ended; each test synchronizes a GPU."""


def canny(grey: Tensor, low: int, high: int) -> Tensor:
    """Edges (Canny, 1986) of int32 images in 0 … 255, by the 1-norm of Sobel's gradient: bool.

    A candidate's norm is above ``low`` and a peak along the gradient, whose direction is one of four. Edges are the
    candidates that other candidates join to one whose norm is above ``high``.
    """
    near = _padded(grey, "edge")
    smooth = near[:, :-2] + 2 * near[:, 1:-1] + near[:, 2:]
    right = smooth[..., 2:] - smooth[..., :-2]
    smooth = near[..., :-2] + 2 * near[..., 1:-1] + near[..., 2:]
    down = smooth[:, 2:] - smooth[:, :-2]
    norm = right.abs() + down.abs()
    around = F.pad(norm, (1, 1, 1, 1))
    rising = torch.maximum(_at(around, -1, 1), _at(around, 1, -1))
    falling = torch.maximum(_at(around, -1, -1), _at(around, 1, 1))
    diagonal = norm > torch.where((right ^ down) < 0, rising, falling)
    horizontal = (norm > _at(around, 0, -1)) & (norm >= _at(around, 0, 1))
    vertical = (norm > _at(around, -1, 0)) & (norm >= _at(around, 1, 0))
    flat, height = TAN_22 * right.abs(), down.abs() << 15
    steep = height > flat + (right.abs() << 16)
    peak = torch.where(height < flat, horizontal, torch.where(steep, vertical, diagonal))
    return _joined(peak & (norm > high), peak & (norm > low))


def _joined(seeds: Tensor, candidates: Tensor) -> Tensor:
    """The candidates that are 8-connected to a seed by other candidates."""
    while True:
        grown = seeds
        for _ in range(GROWTHS):
            tall = grown.clone()
            tall[:, 1:] |= grown[:, :-1]
            tall[:, :-1] |= grown[:, 1:]
            grown = tall.clone()
            grown[..., 1:] |= tall[..., :-1]
            grown[..., :-1] |= tall[..., 1:]
            grown &= candidates
        if torch.equal(grown, seeds):
            return grown
        seeds = grown


def distances(edges: Tensor, max_distance: int) -> Tensor:
    """The distance of each pixel from the nearest edge, at most ``max_distance`` px, by DIST_L2 5×5: float32, in UNITs.

    OpenCV scans the image twice and finds the shortest paths of straight, diagonal and knight's steps. The length of
    such a path grows with its height, so only the nearest edge of each column matters.
    """
    width, far = edges.shape[2], edges.shape[1] + max_distance
    row = torch.arange(edges.shape[1], dtype=torch.int32, device=edges.device)[:, None]
    above = row - torch.where(edges, row, -far).cummax(1).values
    below = torch.where(edges, row, 2 * far).flip(1).cummin(1).values.flip(1) - row
    column = F.pad(
        torch.minimum(above, below).clamp(max=max_distance).float(), (max_distance, max_distance), value=max_distance
    )
    result = torch.full(edges.shape, max_distance * UNIT, dtype=torch.float32, device=edges.device)
    for across in range(max_distance):
        left, right = (column[..., at : at + width] for at in (max_distance - across, max_distance + across))
        result = torch.minimum(result, _path(across, torch.minimum(left, right)))
    return result


def _path(across: int, down: Tensor) -> Tensor:
    """The length of the shortest path: it is convex, so it is the maximum of its four linear parts."""
    knights, diagonals = KNIGHT - 2 * STRAIGHT, 2 * DIAGONAL - KNIGHT
    mixed = KNIGHT - DIAGONAL
    length = down * STRAIGHT + knights * across
    for one, other in ((mixed, diagonals), (diagonals, mixed), (knights, STRAIGHT)):
        length = torch.maximum(length, down * one + other * across)
    return length


def equalize(levels: Tensor, number: int) -> Tensor:
    """Histogram equalization of levels 0 … number − 1 to 0 … 255 (equalizeHist): float32."""
    at = levels.flatten(1).long()
    counts = torch.zeros(len(at), number, dtype=torch.long, device=at.device).scatter_add_(1, at, torch.ones_like(at))
    lowest = (counts > 0).byte().argmax(1, keepdim=True)
    first = counts.gather(1, lowest)
    above = at.shape[1] - first
    # Not 255 / above: torch multiplies by the reciprocal, which rounds twice.
    scale = torch.full_like(above, 255, dtype=torch.float32) / above
    spread = ((counts.cumsum(1) - first) * scale).round()
    # An image of one level is unchanged.
    table = torch.where(above > 0, spread, torch.arange(number, device=at.device))
    return table.gather(1, at).view(levels.shape)


def box(grey: Tensor) -> Tensor:
    """Sums of 3×3 pixels; the border is mirrored."""
    near = _padded(grey, "reflect")
    rows = near[:, :-2] + near[:, 1:-1] + near[:, 2:]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


def relief(grey: Tensor) -> Tensor:
    """Emboss: filter2D with ((−2, −1, 0), (−1, 1, 1), (0, 1, 2)), clipped to 0 … 255; the border is mirrored."""
    near = _padded(grey, "reflect")
    corners = _at(near, 1, 1) - _at(near, -1, -1)
    sides = _at(near, 0, 1) + _at(near, 1, 0) - _at(near, 0, -1) - _at(near, -1, 0)
    return (grey + 2 * corners + sides).clamp(0, 255)


def _padded(grey: Tensor, border: Border) -> Tensor:
    """The images with one more pixel on each side."""
    rows, columns = (inside(torch.arange(-1, n + 1, device=grey.device), n, border) for n in grey.shape[1:])
    return grey[:, rows][..., columns]


def _at(padded: Tensor, row: int, column: int) -> Tensor:
    """The neighbour of each inner pixel, this number of rows below and columns to the right."""
    height, width = padded.shape[1:]
    return padded[:, 1 + row : height - 1 + row, 1 + column : width - 1 + column]
