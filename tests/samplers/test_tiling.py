"""Tiling: the tiled denoiser equals the denoiser where the overlap covers its receptive field, in bounded memory."""

import itertools

import pytest
import torch
from helpers.runs import blur
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.core.tables import append_dims
from diffusion_lightning.core.types import Prediction
from diffusion_lightning.degradations import GaussianBlur, GaussianNoise, Pixelate
from diffusion_lightning.samplers import (
    DDIM,
    DDPM,
    Cold,
    Direct,
    Heun,
    Multistep,
    Naive,
    ProbabilityFlow,
    TiledDenoiser,
    TileProgress,
    Tiling,
    tiled,
)
from diffusion_lightning.samplers.tiling import place_tiles, tile_weights

RADIUS = 3


class Local(nn.Module):
    """Convolutions with zero padding, whose receptive field extends 3 pixels to each side."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.ModuleList(
                nn.Conv2d(a, b, 3, padding=1) for a, b in ((channels, 8), (8, 8), (8, channels))
            )
        self.requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = x + append_dims(t, x)
        for layer in self.layers:
            hidden = layer(hidden).tanh()
        return x + 0.3 * hidden


class Recorder:
    """x̂_0 = x/2, or a lack of memory above a number of pixels; records the shapes of all calls."""

    def __init__(self, max_pixels: int = 10**9, error: BaseException | None = None) -> None:
        self.max_pixels = max_pixels
        self.error = error or RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert len(t) == len(x)
        if x.shape[0] * x.shape[2] * x.shape[3] > self.max_pixels:
            raise self.error
        self.shapes.append(tuple(x.shape))
        return x / 2

    @property
    def pixels(self) -> list[int]:
        return [shape[0] * shape[2] * shape[3] for shape in self.shapes]


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=keyed_generator(0)) * 2 - 1


@pytest.mark.parametrize(
    ("sampler", "degradation"),
    [
        (Direct(), blur()),
        (Naive(4), blur()),
        (Cold(4), blur(noise_floor=0.02)),
        (Cold(4), Pixelate(steps=4)),
        (ProbabilityFlow(4), GaussianBlur(steps=4, kernel_size=5, std=1.0, schedule="constant", noise_floor=0.02)),
        (DDIM(4, eta=0.5), GaussianNoise(steps=20)),
        (DDPM(4), GaussianNoise(steps=20)),
        (Heun(4), GaussianNoise(steps=20)),
        (Multistep(4), GaussianNoise(steps=20)),
    ],
    ids=lambda value: str(value) if hasattr(value, "steps") and hasattr(value, "spacing") else type(value).__name__,
)
def test_every_sampler_restores_the_same_image_in_tiles(sampler, degradation):
    x = images(2, 3, 64, 93)
    params = degradation.sample_params(x, generator=keyed_generator(1))
    results = [
        sampler(denoise_fn, degradation, x, params, keyed_generator(2))
        for denoise_fn in (Local(), tiled(Local(), size=32, overlap=4 * RADIUS))
    ]
    assert (results[0] - results[1]).abs().max() < 1e-5 * results[0].abs().max()


def test_too_small_an_overlap_changes_the_image():
    x, t = images(1, 3, 64, 64), torch.ones(1)
    whole = Local()(x, t)
    errors = [(tiled(Local(), 32, overlap)(x, t).x0 - whole).abs().max().item() for overlap in (0, 4, 12)]
    assert errors[0] > 1e-2
    assert errors[0] > errors[1] > 1e-4
    assert errors[2] < 1e-6


def test_strided_networks_see_the_same_grid_in_every_tile():
    torch.manual_seed(0)
    down, up = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def strided(x: Tensor, t: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate")
        return up(nn.functional.interpolate(down(x).tanh(), scale_factor=2.0))

    x, t = images(1, 3, 51, 66), torch.ones(1)
    with torch.no_grad():
        whole = strided(x, t)[..., :51, :66]
        assert (tiled(strided, 32, 16, multiple=2)(x, t).x0 - whole).abs().max() < 1e-6
        assert (tiled(strided, 32, 16)(x, t).x0 - whole).abs().max() > 1e-3


@given(
    length=st.integers(1, 300),
    units=st.integers(2, 20),
    multiple=st.sampled_from([1, 2, 4, 8]),
    share=st.floats(0, 0.5),
)
def test_tiles_cover_the_image_and_their_weights_sum_to_one(length, units, multiple, share):
    tiling = Tiling(units * multiple, int(share * units * multiple), multiple)
    starts = place_tiles(length, tiling)
    size = min(length, tiling.size)
    end = starts[-1] + size
    assert starts[0] == 0
    assert length <= end < length + multiple
    assert all(start % multiple == 0 for start in starts)
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < step <= tiling.size - tiling.overlap for step in steps)
    assert max(steps, default=0) - min(steps, default=0) <= multiple
    total = torch.zeros(end, dtype=torch.float64)
    for start, weight in zip(starts, tile_weights(starts, size, tiling.overlap), strict=True):
        assert (weight >= 0).all()
        total[start : start + size] += weight
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (33, 32), (33, 33), (63, 65), (32, 31), (200, 7)], ids=str)
def test_any_size_comes_back_in_its_own_size(shape):
    x = images(2, 3, *shape)
    seen = Recorder()
    prediction = tiled(seen, 32, 8, multiple=4)(x, torch.ones(2))
    torch.testing.assert_close(prediction.x0, x / 2)
    assert {made[2:] for made in seen.shapes} == {(min(shape[0], 32), min(shape[1], 32))}


def test_weights_rise_smoothly_and_leave_out_the_edges():
    first, second = tile_weights([0, 48], 64, 16)
    assert first[:48].eq(1).all()
    assert first[-4:].eq(0).all()
    assert second[:4].eq(0).all()
    assert second[16:].eq(1).all()
    assert (first.diff() <= 0).all()
    assert first.diff().abs().max() < 0.2


def test_the_log_variance_is_blended_as_well():
    def denoise(x: Tensor, t: Tensor) -> Prediction:
        return Prediction(x / 2, x - 3)

    x = images(1, 3, 40, 50)
    prediction = tiled(denoise, 16, 4)(x, torch.ones(1))
    torch.testing.assert_close(prediction.x0, x / 2)
    torch.testing.assert_close(prediction.log_variance, x - 3)


def test_each_image_keeps_its_own_time():
    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return append_dims(t, x).expand_as(x)

    t = torch.tensor([0.1, 0.5, 0.9])
    x0 = tiled(denoise, 16, 4)(images(3, 1, 40, 50), t).x0
    torch.testing.assert_close(x0, append_dims(t, x0).expand_as(x0))


def test_precision_is_that_of_the_denoiser():
    x = images(1, 1, 40, 40).double()
    assert tiled(Recorder(), 16, 4)(x, torch.ones(1)).x0.dtype == torch.float64


def test_the_pixels_of_a_call_do_not_grow_with_the_image():
    for side in (256, 1024, 4096):
        seen = Recorder()
        TiledDenoiser(seen, Tiling(128, 32, max_pixels=2**18))(torch.zeros(1, 1, side, side), torch.ones(1))
        assert max(seen.pixels) <= 2**18
        assert {shape[2:] for shape in seen.shapes} == {(128, 128)}


def test_the_pixels_of_an_image_grow_in_proportion_to_its_area():
    work = []
    for side in (512, 1024):
        seen = Recorder()
        tiled(seen, 64, 16)(torch.zeros(1, 1, side, side), torch.ones(1))
        work.append(sum(seen.pixels))
    assert work[1] / work[0] == pytest.approx(4, rel=0.1)
    assert work[1] < 2 * 1024**2  # the overlap's share


def test_small_enough_images_are_denoised_as_a_whole():
    tiling = Tiling(32, 8, max_whole=100 * 50)
    for shape, whole in (
        ((50, 100), True),
        ((51, 100), False),
        ((32, 32), True),
        ((500, 10), True),
        ((501, 10), False),
    ):
        seen = Recorder()
        TiledDenoiser(seen, tiling)(images(1, 1, *shape), torch.ones(1))
        assert (seen.shapes == [(1, 1, *shape)]) == whole


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["CUDA", "MPS", "CPU", "Python"],
)
def test_tiles_are_halved_until_memory_suffices(error):
    x = images(1, 3, 200, 260)
    seen = Recorder(max_pixels=40 * 40, error=error)
    denoise = TiledDenoiser(seen, Tiling(128, 32, 4, max_whole=10**6))
    prediction = denoise(x, torch.ones(1))
    torch.testing.assert_close(prediction.x0, x / 2)
    assert set(seen.shapes) == {(1, 3, 32, 32)}
    assert denoise.tiling == Tiling(32, 8, 4, 0, 0)


def test_the_smaller_tiles_are_kept_for_the_next_steps():
    seen = Recorder(max_pixels=64 * 64)
    with pytest.warns(UserWarning, match="out of memory") as caught:
        Cold(4)(tiled(seen, 128, 32), blur(), images(1, 1, 200, 200))
    assert [str(warning.message) for warning in caught] == [
        "out of memory: an image of 200×200 is denoised in tiles of 128 px",  # one at a time
        "out of memory: an image of 200×200 is denoised in tiles of 64 px",
    ]
    assert {shape[2:] for shape in seen.shapes} == {(64, 64)}


def test_an_image_smaller_than_a_tile_is_halved_itself():
    seen = Recorder(max_pixels=40 * 40)
    with pytest.warns(UserWarning, match="in tiles of 32 px"):
        tiled(seen, 512, 128)(images(1, 1, 64, 64), torch.ones(1))
    assert set(seen.shapes) == {(1, 1, 32, 32)}


@pytest.mark.filterwarnings("ignore:out of memory")
def test_memory_that_never_suffices_raises_the_error():
    with pytest.raises(RuntimeError, match="out of memory"):
        tiled(Recorder(max_pixels=10), 64, 16)(images(1, 1, 100, 100), torch.ones(1))


def test_other_errors_are_raised_at_once():
    seen = Recorder(max_pixels=10, error=RuntimeError("expected 1 channel, got 3"))
    with pytest.raises(RuntimeError, match="expected 1 channel"):
        tiled(seen, 64, 16)(images(1, 1, 100, 100), torch.ones(1))


def test_progress_is_reported_after_every_call():
    found: list[TileProgress] = []
    tiling = Tiling(32, 8, max_pixels=2 * 32 * 32)
    TiledDenoiser(Recorder(), tiling, found.append)(images(1, 1, 50, 100), torch.ones(1))
    assert [progress.done for progress in found] == [2, 4, 6, 8]
    assert {progress[:4] + progress[5:] for progress in found} == {(1, 50, 100, tiling, 8)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size=0: a tile is a multiple of 1 px, at least the second: use 2"),
        ({"size": 30, "multiple": 4}, "size=30: a tile is a multiple of 4 px, at least the second: use 32"),
        ({"size": 8, "multiple": 8}, "use 16"),
        ({"size": 32, "multiple": 0}, "multiple=0: choose at least 1"),
        ({"size": 32, "overlap": -1}, "overlap=-1: tiles of 32 px overlap by 0 to 16: use 8"),
        ({"size": 32, "overlap": 17}, "overlap=17: tiles of 32 px overlap by 0 to 16: use 8"),
    ],
    ids=["size 0", "odd size", "one multiple", "multiple 0", "negative overlap", "large overlap"],
)
def test_impossible_tiles_are_rejected_with_the_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        Tiling(**settings)
