"""Priors: what they recover from images, that each image draws for itself, and that their state is all there is."""

import pytest
import torch

from diffusion_lightning. import priors
from diffusion_lightning.core.datasets import InMemoryImages
from diffusion_lightning.degradations import Animorphosis, Compose, Fade, GaussianBlur, GaussianNoise, Pixelate
from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.degradations.noise_schedules import VE, Karras
from diffusion_lightning.priors import ChannelMeans, HeldOutImages, BlockMeans
from diffusion_lightning.core.rng import per_image_generators, keyed_generator

MEAN = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
FACTOR = torch.tensor([[0.2, 0.0, 0.0], [0.1, 0.1, 0.0], [-0.05, 0.08, 0.15]], dtype=torch.float64)
COLD = {"steps": 4, "kernel_size": 5, "std": 1.0, "schedule": "constant", "final_mean": True}
PRIORS = {
    "ChannelMeans": ChannelMeans,
    "two ChannelMeans": lambda: ChannelMeans(2),
    "HeldOut": HeldOutImages,
    "LastPixels": lambda: BlockMeans(4),
}
DEGRADATIONS = {
    "noise": lambda: GaussianNoise(steps=20),
    "cold blur": lambda: GaussianBlur(**COLD),
    "warm blur": lambda: GaussianBlur(**COLD, noise=0.5),
    "pixelation": lambda: Pixelate(steps=2, first_downsampling="mean"),
    "fading to a colour": lambda: Fade(steps=5, colour="random"),
    "animorphosis": lambda: Animorphosis(animals, steps=20),
}


def animals():
    return InMemoryImages(torch.randint(256, (9, 3, 6, 6), generator=keyed_generator(7), dtype=torch.uint8))


def coloured_images(number, size=6, seed=0):
    """Images whose channel means are N(MEAN, FACTOR FACTORᵀ), with structure that averages to nothing."""
    generator = keyed_generator(seed)
    colour = MEAN + torch.randn(number, 3, generator=generator, dtype=torch.float64) @ FACTOR.T
    texture = torch.randn(number, 3, size, size, generator=generator, dtype=torch.float64)
    return (colour[:, :, None, None] + texture - texture.mean((2, 3), keepdim=True)).float()


def fitted(prior, degradation, images=None):
    images = coloured_images(64) if images is None else images
    prior.fit(images.split(20), degradation)
    return prior


def moments(images):
    means = images.double().mean((2, 3))
    return means.mean(0), means.T.cov()


@pytest.fixture(scope="module")
def starts():
    """5,000 starts of the cold blur's prior, fitted to 4,000 images."""
    images = coloured_images(4000)
    prior = fitted(ChannelMeans(), GaussianBlur(**COLD), images)
    return images, prior.sample(GaussianBlur(**COLD), per_image_generators(0, range(5000)))[0]


def test_channel_means_keep_the_moments_of_the_images_they_were_fitted_to():
    images = coloured_images(500)
    prior = fitted(ChannelMeans(), GaussianBlur(**COLD), images)
    points = images.double().mean((2, 3))
    factor = prior.state["factors"][0]
    assert torch.allclose(prior.state["means"][0], points.mean(0), atol=1e-6)
    # scikit-learn's maximum-likelihood covariance, with its 1e-6 on the diagonal.
    assert torch.allclose(factor @ factor.T, points.T.cov(correction=0), atol=3e-6)


def test_channel_means_draw_the_known_mean_and_covariance(starts):
    _, drawn = starts
    mean, covariance = moments(drawn)
    truth = FACTOR @ FACTOR.T
    # Five standard errors of a mean and of a covariance, of 4,000 images and 5,000 starts together.
    error = (1 / 4000 + 1 / 5000) ** 0.5
    assert ((mean - MEAN).abs() < 5 * error * truth.diagonal().sqrt()).all()
    spread = (truth.diagonal()[:, None] * truth.diagonal() + truth**2).sqrt()
    assert ((covariance - truth).abs() < 5 * error * spread).all()


def test_the_starts_of_a_cold_blur_are_constant_images_of_the_data_set_s_shape(starts):
    images, drawn = starts
    assert drawn.shape[1:] == images.shape[1:]
    assert torch.equal(drawn, drawn[:, :, :1, :1].expand_as(drawn))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_for_noise_the_start_is_the_noise_of_the_end(schedule):
    """N(0, σ_1²): white, and blind to the images, which D_1 has made invisible."""
    degradation = GaussianNoise(steps=1000, schedule=schedule)
    prior = fitted(ChannelMeans(), degradation)
    x, params = prior.sample(degradation, per_image_generators(0, range(2000)))
    sigma = degradation.sigma(torch.ones(1, dtype=torch.float64)).item()
    assert x.var().item() == pytest.approx(sigma**2, rel=0.01)
    assert x.mean().item() == pytest.approx(0, abs=0.01)
    pixels = x.flatten(1).double()
    correlation = torch.corrcoef(pixels.T) - torch.eye(pixels.shape[1])
    assert correlation.abs().max() < 5.5 / len(x) ** 0.5
    assert (x - sigma * params["noise"]).abs().max() < 0.01


@pytest.mark.parametrize("schedule", [VE(0.01, 3.0), Karras(0.002, 3.0)], ids=["VE", "Karras"])
def test_noise_over_an_image_that_does_not_fade_starts_from_a_drawn_colour(schedule):
    """N(0, σ_1²) would lack the images' channel means and their spread."""
    degradation, images = GaussianNoise(steps=100, schedule=schedule), coloured_images(500)
    prior = fitted(ChannelMeans(), degradation, images)
    x, params = prior.sample(degradation, per_image_generators(0, range(4000)))
    colours = x - 3 * params["noise"]
    assert torch.allclose(colours, colours[:, :, :1, :1].expand_as(colours), atol=1e-5)
    mean, covariance = moments(images)
    drawn = colours[:, :, 0, 0].double()
    assert torch.allclose(drawn.mean(0), mean, atol=5 * covariance.diagonal().max().item() ** 0.5 / 4000**0.5)
    assert torch.allclose(drawn.T.cov(), covariance, atol=8 * covariance.diagonal().max().item() / 4000**0.5)


def test_a_mixture_of_two_finds_two_groups_of_colours():
    dark, light = coloured_images(300, seed=1) * 0.1 - 0.5, coloured_images(100, seed=2) * 0.1 + 0.5
    prior = fitted(ChannelMeans(components=2), GaussianBlur(**COLD), torch.cat([dark, light]))
    heavy = prior.state["weights"].argmax()
    assert prior.state["weights"][heavy].item() == pytest.approx(0.75, abs=1e-3)
    for component, images in ((heavy, dark), (1 - heavy, light)):
        assert torch.allclose(prior.state["means"][component], moments(images)[0], atol=1e-4)
    drawn = prior.sample(GaussianBlur(**COLD), per_image_generators(0, range(4000)))[0]
    share = (drawn.mean((1, 2, 3)) < 0).double().mean().item()
    assert share == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / 4000) ** 0.5)


def test_the_noise_of_the_start_is_the_one_that_the_walk_holds():
    degradation = GaussianBlur(**COLD, noise=0.5)
    x, params = fitted(ChannelMeans(), degradation).sample(degradation, per_image_generators(0, range(3)))
    flat = x - 0.5 * params["noise"]
    assert torch.allclose(flat, flat[:, :, :1, :1].expand_as(flat), atol=1e-6)


@pytest.mark.parametrize("size", [8, 6], ids=["whole blocks", "blocks with a rest"])
def test_last_pixels_draw_pixelated_images_with_the_moments_of_the_data(size):
    pixelate = Pixelate(steps=2, first_downsampling="mean")
    coarse = torch.randn(2000, 3, 2, 2, generator=keyed_generator(3)) * 0.2
    coarse[:, :, 0, 0] += coarse[:, :, 1, 1]
    images = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :size, :size] + texture(2000, size)
    prior = fitted(BlockMeans(block=4), pixelate, images)
    x, params = prior.sample(pixelate, per_image_generators(0, range(3000)))
    assert params == {}
    assert x.shape[1:] == images.shape[1:]
    assert torch.allclose(pixelate(x, torch.ones(3000), {}), x, atol=1e-6)
    corners, found = coarse.flatten(1).double(), x[:, :, ::4, ::4].flatten(1).double()
    assert torch.allclose(found.mean(0), corners.mean(0), atol=0.03)
    assert torch.allclose(found.T.cov(), corners.T.cov(), atol=0.012)


def texture(number, size):
    """What averages to nothing over blocks of 4 pixels and over what is left of them."""
    signs = (-1.0) ** torch.arange(size)
    return 0.3 * signs[:, None] * signs.expand(number, 3, size, size)


def test_two_last_pixels_mixtures_find_two_kinds_of_pictures():
    bright = torch.ones(40, 1, 4, 4) * torch.tensor([0.5, 0.5, -0.5, -0.5])
    images = torch.cat([bright, -bright]) + 0.01 * torch.randn(80, 1, 4, 4, generator=keyed_generator(0))
    prior = fitted(BlockMeans(block=2, components=2), Pixelate(steps=1, first_downsampling="mean"), images)
    x, _ = prior.sample(Pixelate(steps=1, first_downsampling="mean"), per_image_generators(0, range(50)))
    assert ((x[..., 0] * x[..., -1]) < -0.2).all()
    assert 10 < (x[:, 0, 0, 0] > 0).sum() < 40


@pytest.mark.parametrize("make", [ChannelMeans, lambda: BlockMeans(2)], ids=["ChannelMeans", "LastPixels"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "composed"])
def test_a_fade_starts_from_the_colour_that_its_params_hold(make, wrapped):
    fade = Fade(steps=20, colour="random")
    degradation = Compose([fade]) if wrapped else fade
    x, params = fitted(make(), degradation).sample(degradation, per_image_generators(0, range(20)))
    colour = params["0.colour" if wrapped else "colour"]
    assert (x - colour).abs().max() < 0.01  # what remains is the regulariser of the mixture
    assert colour.std() > 0.2


def test_animorphosis_starts_from_an_animal():
    degradation = Animorphosis(animals, steps=1000)
    images = 0.3 + 0.1 * coloured_images(64)
    x, params = fitted(ChannelMeans(), degradation, images).sample(degradation, per_image_generators(0, range(30)))
    stored = from_uint8(animals().images)
    distances = (x[:, None] - stored).abs().amax((2, 3, 4))
    assert distances.amin(1).max() < 0.02
    assert torch.equal(stored[distances.argmin(1)], params["noise"])
    assert len(distances.argmin(1).unique()) > 5


def test_without_noise_a_start_stays_as_it_is():
    x = torch.rand(2, 3, 4, 4)
    assert GaussianBlur().add_noise(x, torch.ones(len(x)), {}) is x


@pytest.mark.parametrize("number", [1, 2])
def test_one_or_two_images_are_enough(number):
    images = coloured_images(number)
    prior = fitted(ChannelMeans(components=2), GaussianBlur(**COLD), images)
    drawn = prior.sample(GaussianBlur(**COLD), per_image_generators(0, range(50)))[0]
    nearest = (drawn[:, None] - images.mean((2, 3), keepdim=True)).abs().amax((2, 3, 4)).amin(1)
    assert nearest.max() < 0.01


def test_held_out_starts_are_degraded_pictures_of_the_validation_set():
    degradation = GaussianBlur(**COLD, noise=0.5)
    images = from_uint8(torch.randint(256, (5, 3, 6, 6), generator=keyed_generator(0), dtype=torch.uint8))
    prior = fitted(HeldOutImages(), degradation, images)
    x, params = prior.sample(degradation, per_image_generators(0, range(40)))
    ends = degradation(images.repeat_interleave(40, 0), torch.ones(200), {"noise": params["noise"].repeat(5, 1, 1, 1)})
    distances = (ends.view(5, 40, -1) - x.flatten(1)).abs().amax(2)
    assert distances.amin(0).max() < 1e-6
    assert len(distances.argmin(0).unique()) == 5


def test_held_out_keeps_its_number_of_images_and_no_more():
    prior = HeldOutImages(number=7)
    assert prior.limit == 7
    fitted(prior, GaussianBlur(**COLD))
    assert prior.state["pictures"].shape == (7, 3, 6, 6)
    assert prior.state["pictures"].dtype == torch.uint8


def test_held_out_reads_no_more_images_than_it_keeps():
    read = []

    def batches():
        for batch in coloured_images(100).split(5):
            read.append(len(batch))
            yield batch

    prior = HeldOutImages(number=12)
    prior.fit(batches(), GaussianBlur(**COLD))
    assert sum(read) == 15


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("make", DEGRADATIONS.values(), ids=DEGRADATIONS)
def test_image_i_starts_alike_in_any_batch_and_any_order(prior, make):
    degradation = make()
    prior = fitted(prior(), degradation)
    whole, held = prior.sample(degradation, per_image_generators(0, range(8)))
    assert len(whole.flatten(1).unique(dim=0)) > 4
    for order in ([0], [7], [5, 2, 0]):
        x, params = prior.sample(degradation, per_image_generators(0, order))
        # Draws are equal to the bit; blurring depends on the batch in the last digit.
        assert torch.allclose(x, whole[order], rtol=0, atol=1e-6)
        assert params.keys() == held.keys()
        assert all(torch.equal(params[name], held[name][order]) for name in params)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("make", DEGRADATIONS.values(), ids=DEGRADATIONS)
def test_the_state_is_plain_tensors_and_all_that_a_new_prior_needs(prior, make, tmp_path):
    degradation = make()
    first, second = fitted(prior(), degradation), prior()
    torch.save(first.state, tmp_path / "prior.pt")
    second.state = torch.load(tmp_path / "prior.pt", weights_only=True)
    assert second.fitted
    (x, params), (y, others) = (p.sample(degradation, per_image_generators(0, range(4))) for p in (first, second))
    assert torch.equal(x, y)
    assert all(torch.equal(params[name], others[name]) for name in params)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_fitting_twice_gives_the_same_state_and_leaves_the_global_state_alone(prior):
    degradation = GaussianBlur(**COLD, noise=0.5)
    before = torch.get_rng_state()
    first, second = fitted(prior(), degradation).state, fitted(prior(), degradation).state
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_a_prior_that_was_not_fitted_says_what_to_do(prior):
    unfitted = prior()
    assert not unfitted.fitted
    with pytest.raises(ValueError, match="is not fitted: generate from a checkpoint that `fit` wrote"):
        unfitted.sample(GaussianBlur(), per_image_generators(0, [0]))


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_an_empty_data_set_is_refused(prior):
    with pytest.raises(ValueError, match="set is empty"):
        prior().fit([], GaussianBlur())


def test_sizes_below_one_are_refused_by_value():
    with pytest.raises(ValueError, match="components=0"):
        ChannelMeans(components=0)
    with pytest.raises(ValueError, match="block=0"):
        BlockMeans(block=0)
    with pytest.raises(ValueError, match="number=0"):
        HeldOutImages(number=0)


def test_every_prior_is_tested_here():
    found = {
        name for name, value in vars(priors).items() if isinstance(value, type) and issubclass(value, priors.Prior)
    }
    assert found - {"Prior", "Mixture"} == {"ChannelMeans", "HeldOut", "LastPixels"}, "add the new prior to PRIORS"
