"""Grids with and without labels: which pixel shows what."""

import pytest
import torch

from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.core.visualization import image_grid, labelled_grid


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_a_grid_shows_any_number_of_channels(channels):
    images = torch.randint(256, (5, channels, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    shown = image_grid(images, columns=3, padding=2, scale=2)
    assert shown.dtype == torch.uint8
    assert shown.shape == (3, 2 * 18 + 2, 3 * 14 + 2)
    assert (shown[:, :2] == 255).all()
    assert (shown[:, 20:, 30:] == 255).all()
    cell = shown[:, 20:36:2, 16:28:2]  # the fifth image, every second pixel
    expected = images[4, :3] if channels >= 3 else images[4, :1].expand(3, 8, 6)
    assert torch.equal(cell, expected)
    assert torch.equal(shown[:, 21:36:2, 17:28:2], expected)


def test_a_grid_of_floats_is_that_of_their_uint8_images():
    images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(image_grid(from_uint8(images)), image_grid(images))


@pytest.mark.parametrize(("side", "shown"), [(8, 64), (28, 84), (64, 64), (128, 128)])
def test_small_images_are_enlarged_to_64_pixels_by_default(side, shown):
    assert image_grid(torch.zeros(1, 1, side, side), padding=1).shape == (3, shown + 2, shown + 2)


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 3, 8, 8)])
def test_a_grid_without_images_is_rejected(shape):
    with pytest.raises(ValueError, match="at least one"):
        image_grid(torch.zeros(shape))


def test_rows_stand_beside_their_names_and_columns_under_their_labels():
    black, grey = torch.full((3, 1, 32, 32), -1.0), torch.full((2, 1, 32, 32), 0.0)
    figure = labelled_grid({"clean": black, "degraded": grey}, ["t=1", "t=0.5", "t=0"], padding=2)
    body = image_grid(torch.cat([black, grey, torch.ones(1, 1, 32, 32)]), columns=3, padding=2)
    top, left = figure.shape[1] - body.shape[1], figure.shape[2] - body.shape[2]
    assert top > 8
    assert left > 30
    assert torch.equal(figure[:, top:, left:], body)
    for band in (figure[:, :top, left:], figure[:, top : top + 64, :left], figure[:, -66:, :left]):
        assert (band < 100).any(), "a label is missing"
    assert (figure[:, :top, :left] == 255).all()


def test_without_labels_it_is_the_grid_of_its_rows():
    trajectory = torch.rand(4, 2, 3, 16, 16) * 2 - 1
    plain = image_grid(trajectory.transpose(0, 1).flatten(0, 1), columns=4)
    assert torch.equal(labelled_grid(trajectory.transpose(0, 1)), plain)
    assert torch.equal(labelled_grid(list(trajectory.transpose(0, 1))), plain)


def test_long_labels_shrink_to_the_width_of_their_column():
    labels = ["0.000000001"] * 4
    figure = labelled_grid([torch.ones(4, 1, 64, 64)], labels, padding=0)
    ink = (figure[0] < 128).any(0)
    assert ink.any()
    assert not ink[[0, 63, 64, 127, 128, 191, 192, 255]].any()


def test_labels_and_rows_that_do_not_line_up_are_rejected():
    with pytest.raises(ValueError, match="needs 3 column labels, got 2"):
        labelled_grid([torch.zeros(3, 1, 8, 8)], ["a", "b"])
    with pytest.raises(ValueError, match=r"\(4, 4\), \(8, 8\)"):
        labelled_grid([torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 4, 4)])
    with pytest.raises(ValueError, match="no rows"):
        labelled_grid([])


def test_a_caption_stands_under_its_image_which_does_not_change() -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = image_grid(images, scale=6)
    captioned = image_grid(images, captions=["red apple", "", "an inexplicably long name " * 9])
    assert captioned.shape[2] == plain.shape[2]
    height = 16 * 6
    assert torch.equal(captioned[:, : 2 + height], plain[:, : 2 + height])
    below = [captioned[:, 2 + height :, 2 + i * 98 : 98 + i * 98] for i in range(3)]
    assert [bool((part < 128).any()) for part in below] == [True, False, True]
    rows = [(part < 128).any(0).any(1).nonzero() for part in (below[0], below[2])]
    assert rows[0].max() < 15 < 30 < rows[1].max() < 45


@pytest.mark.parametrize(
    "text", ["赤いりんご", "Ünïcödé ☕", "x" * 500, "\n\t"], ids=["Japanese", "marks", "no break", "blank"]
)
def test_any_text_may_be_a_caption(text: str) -> None:
    shown = image_grid(torch.zeros(1, 1, 8, 8), captions=[text])
    assert shown.shape[0] == 3
    assert shown.shape[2] == 96 + 4


def test_a_missing_caption_is_rejected() -> None:
    with pytest.raises(ValueError, match="a grid of 2 images needs as many captions, got 1"):
        image_grid(torch.zeros(2, 1, 8, 8), captions=["one"])
