"""Priors: the distribution that they recover from images, samples that depend on the index alone, and their state."""

import pytest
import torch

from diffusion_lightning import priors
from diffusion_lightning.core.datasets import InMemoryImages
from diffusion_lightning.core.images import from_uint8
from diffusion_lightning.core.rng import keyed_generator, per_image_generators
from diffusion_lightning.degradations import Animorphosis, Compose, Fade, GaussianBlur, GaussianNoise, Pixelate
from diffusion_lightning.degradations.noise_schedules import VE, Karras
from diffusion_lightning.priors import BlockMeans, ChannelMeans, HeldOutImages

MEAN = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
FACTOR = torch.tensor([[0.2, 0.0, 0.0], [0.1, 0.1, 0.0], [-0.05, 0.08, 0.15]], dtype=torch.float64)
COLD = {"steps": 4, "kernel_size": 5, "std": 1.0, "schedule": "constant", "final_mean": True}
PRIORS = {
    "ChannelMeans": ChannelMeans,
    "ChannelMeans of two": lambda: ChannelMeans(2),
    "HeldOutImages": HeldOutImages,
    "BlockMeans": lambda: BlockMeans(4),
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
    """Images whose channel means are N(MEAN, FACTOR FACTORᵀ), with a texture of mean 0."""
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
def cold_blur_samples():
    """4,000 images, and 5,000 samples of the cold blur's prior fitted to them."""
    images = coloured_images(4000)
    prior = fitted(ChannelMeans(), GaussianBlur(**COLD), images)
    return images, prior.sample(GaussianBlur(**COLD), per_image_generators(0, range(5000)))[0]


def test_channel_means_have_the_moments_of_the_fitted_images():
    images = coloured_images(500)
    prior = fitted(ChannelMeans(), GaussianBlur(**COLD), images)
    points = images.double().mean((2, 3))
    factor = prior.state["factors"][0]
    assert torch.allclose(prior.state["means"][0], points.mean(0), atol=1e-6)
    # scikit-learn's maximum-likelihood covariance, with its 1e-6 on the diagonal.
    assert torch.allclose(factor @ factor.T, points.T.cov(correction=0), atol=3e-6)


def test_samples_have_the_known_mean_and_covariance(cold_blur_samples):
    _, samples = cold_blur_samples
    mean, covariance = moments(samples)
    truth = FACTOR @ FACTOR.T
    # Five standard errors of a mean and of a covariance, of 4,000 images and 5,000 samples together.
    error = (1 / 4000 + 1 / 5000) ** 0.5
    assert ((mean - MEAN).abs() < 5 * error * truth.diagonal().sqrt()).all()
    scale = (truth.diagonal()[:, None] * truth.diagonal() + truth**2).sqrt()
    assert ((covariance - truth).abs() < 5 * error * scale).all()


def test_samples_for_a_cold_blur_are_constant_images(cold_blur_samples):
    images, samples = cold_blur_samples
    assert samples.shape[1:] == images.shape[1:]
    assert torch.equal(samples, samples[:, :, :1, :1].expand_as(samples))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_for_noise_a_sample_is_the_noise_at_t_1(schedule):
    """N(0, σ_1²): white, and independent of the images, of which D_1 leaves nothing."""
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
def test_for_exploding_noise_a_sample_is_a_colour_plus_noise(schedule):
    """N(0, σ_1²) would not have the images' channel means and their covariance."""
    degradation, images = GaussianNoise(steps=100, schedule=schedule), coloured_images(500)
    prior = fitted(ChannelMeans(), degradation, images)
    x, params = prior.sample(degradation, per_image_generators(0, range(4000)))
    colours = x - 3 * params["noise"]
    assert torch.allclose(colours, colours[:, :, :1, :1].expand_as(colours), atol=1e-5)
    mean, covariance = moments(images)
    samples = colours[:, :, 0, 0].double()
    assert torch.allclose(samples.mean(0), mean, atol=5 * covariance.diagonal().max().item() ** 0.5 / 4000**0.5)
    assert torch.allclose(samples.T.cov(), covariance, atol=8 * covariance.diagonal().max().item() / 4000**0.5)


def test_a_mixture_of_two_finds_two_groups_of_colours():
    dark, light = coloured_images(300, seed=1) * 0.1 - 0.5, coloured_images(100, seed=2) * 0.1 + 0.5
    prior = fitted(ChannelMeans(components=2), GaussianBlur(**COLD), torch.cat([dark, light]))
    heavy = prior.state["weights"].argmax()
    assert prior.state["weights"][heavy].item() == pytest.approx(0.75, abs=1e-3)
    for component, images in ((heavy, dark), (1 - heavy, light)):
        assert torch.allclose(prior.state["means"][component], moments(images)[0], atol=1e-4)
    samples = prior.sample(GaussianBlur(**COLD), per_image_generators(0, range(4000)))[0]
    fraction = (samples.mean((1, 2, 3)) < 0).double().mean().item()
    assert fraction == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / 4000) ** 0.5)


def test_the_noise_of_a_sample_is_the_noise_in_its_params():
    degradation = GaussianBlur(**COLD, noise=0.5)
    x, params = fitted(ChannelMeans(), degradation).sample(degradation, per_image_generators(0, range(3)))
    flat = x - 0.5 * params["noise"]
    assert torch.allclose(flat, flat[:, :, :1, :1].expand_as(flat), atol=1e-6)


@pytest.mark.parametrize("make", [ChannelMeans, lambda **how: BlockMeans(2, **how)], ids=["ChannelMeans", "BlockMeans"])
def test_the_temperature_scales_the_noise_and_nothing_else(make):
    degradation, generators = GaussianBlur(**COLD, noise=0.5), lambda: per_image_generators(0, range(3))
    x, params = fitted(make(), degradation).sample(degradation, generators())
    cooler, scaled = fitted(make(temperature=0.9), degradation).sample(degradation, generators())
    assert torch.equal(scaled["noise"], 0.9 * params["noise"])
    assert torch.allclose(x - cooler, 0.05 * params["noise"], atol=1e-6)
    with pytest.raises(ValueError, match="temperature=-1: choose a finite factor of at least 0"):
        make(temperature=-1)


@pytest.mark.parametrize("size", [8, 6], ids=["full blocks", "a smaller last block"])
def test_block_means_sample_pixelated_images_with_the_data_s_moments(size):
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
    """A texture of mean 0 over blocks of 4 pixels and over the last two pixels."""
    signs = (-1.0) ** torch.arange(size)
    return 0.3 * signs[:, None] * signs.expand(number, 3, size, size)


def test_block_means_with_two_components_find_two_kinds_of_images():
    bright = torch.ones(40, 1, 4, 4) * torch.tensor([0.5, 0.5, -0.5, -0.5])
    images = torch.cat([bright, -bright]) + 0.01 * torch.randn(80, 1, 4, 4, generator=keyed_generator(0))
    prior = fitted(BlockMeans(block=2, components=2), Pixelate(steps=1, first_downsampling="mean"), images)
    x, _ = prior.sample(Pixelate(steps=1, first_downsampling="mean"), per_image_generators(0, range(50)))
    assert ((x[..., 0] * x[..., -1]) < -0.2).all()
    assert 10 < (x[:, 0, 0, 0] > 0).sum() < 40


@pytest.mark.parametrize("make", [ChannelMeans, lambda: BlockMeans(2)], ids=["ChannelMeans", "BlockMeans"])
@pytest.mark.parametrize("composed", [False, True], ids=["alone", "composed"])
def test_for_fading_a_sample_is_the_colour_in_its_params(make, composed):
    fade = Fade(steps=20, colour="random")
    degradation = Compose([fade]) if composed else fade
    x, params = fitted(make(), degradation).sample(degradation, per_image_generators(0, range(20)))
    colour = params["0.colour" if composed else "colour"]
    assert (x - colour).abs().max() < 0.01  # the rest is the regularization of the mixture
    assert colour.std() > 0.2


def test_for_animorphosis_a_sample_is_an_animal():
    degradation = Animorphosis(animals, steps=1000)
    images = 0.3 + 0.1 * coloured_images(64)
    x, params = fitted(ChannelMeans(), degradation, images).sample(degradation, per_image_generators(0, range(30)))
    stored = from_uint8(animals().images)
    distances = (x[:, None] - stored).abs().amax((2, 3, 4))
    assert distances.amin(1).max() < 0.02
    assert torch.equal(stored[distances.argmin(1)], params["noise"])
    assert len(distances.argmin(1).unique()) > 5


def test_without_noise_add_noise_returns_the_images_themselves():
    x = torch.rand(2, 3, 4, 4)
    assert GaussianBlur().add_noise(x, torch.ones(len(x)), {}) is x


@pytest.mark.parametrize("number", [1, 2])
def test_one_or_two_images_are_enough(number):
    images = coloured_images(number)
    prior = fitted(ChannelMeans(components=2), GaussianBlur(**COLD), images)
    samples = prior.sample(GaussianBlur(**COLD), per_image_generators(0, range(50)))[0]
    nearest = (samples[:, None] - images.mean((2, 3), keepdim=True)).abs().amax((2, 3, 4)).amin(1)
    assert nearest.max() < 0.01


def test_held_out_samples_are_degraded_validation_images():
    degradation = GaussianBlur(**COLD, noise=0.5)
    images = from_uint8(torch.randint(256, (5, 3, 6, 6), generator=keyed_generator(0), dtype=torch.uint8))
    prior = fitted(HeldOutImages(), degradation, images)
    x, params = prior.sample(degradation, per_image_generators(0, range(40)))
    ends = degradation(images.repeat_interleave(40, 0), torch.ones(200), {"noise": params["noise"].repeat(5, 1, 1, 1)})
    distances = (ends.view(5, 40, -1) - x.flatten(1)).abs().amax(2)
    assert distances.amin(0).max() < 1e-6
    assert len(distances.argmin(0).unique()) == 5


def test_held_out_keeps_max_images_and_no_more():
    prior = HeldOutImages(max_images=7)
    assert prior.max_images == 7
    fitted(prior, GaussianBlur(**COLD))
    assert prior.state["images"].shape == (7, 3, 6, 6)
    assert prior.state["images"].dtype == torch.uint8


def test_held_out_reads_no_more_batches_than_it_needs():
    read = []

    def batches():
        for batch in coloured_images(100).split(5):
            read.append(len(batch))
            yield batch

    prior = HeldOutImages(max_images=12)
    prior.fit(batches(), GaussianBlur(**COLD))
    assert sum(read) == 15


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("make", DEGRADATIONS.values(), ids=DEGRADATIONS)
def test_sample_i_is_the_same_in_any_batch_and_order(prior, make):
    degradation = make()
    prior = fitted(prior(), degradation)
    whole, whole_params = prior.sample(degradation, per_image_generators(0, range(8)))
    assert len(whole.flatten(1).unique(dim=0)) > 4
    for order in ([0], [7], [5, 2, 0]):
        x, params = prior.sample(degradation, per_image_generators(0, order))
        # The parameters are equal to the bit; blurring depends on the batch in the last digit.
        assert torch.allclose(x, whole[order], rtol=0, atol=1e-6)
        assert params.keys() == whole_params.keys()
        assert all(torch.equal(params[name], whole_params[name][order]) for name in params)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("make", DEGRADATIONS.values(), ids=DEGRADATIONS)
def test_the_state_is_plain_tensors_and_restores_the_prior(prior, make, tmp_path):
    degradation = make()
    first, second = fitted(prior(), degradation), prior()
    torch.save(first.state, tmp_path / "prior.pt")
    second.state = torch.load(tmp_path / "prior.pt", weights_only=True)
    assert second.fitted
    (x, params), (y, others) = (p.sample(degradation, per_image_generators(0, range(4))) for p in (first, second))
    assert torch.equal(x, y)
    assert all(torch.equal(params[name], others[name]) for name in params)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_fitting_is_deterministic_and_keeps_the_global_random_state(prior):
    degradation = GaussianBlur(**COLD, noise=0.5)
    before = torch.get_rng_state()
    first, second = fitted(prior(), degradation).state, fitted(prior(), degradation).state
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_a_prior_that_is_not_fitted_raises_an_error_with_the_remedy(prior):
    unfitted = prior()
    assert not unfitted.fitted
    with pytest.raises(ValueError, match="is not fitted: generate from a checkpoint that `fit` wrote"):
        unfitted.sample(GaussianBlur(), per_image_generators(0, [0]))


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_an_empty_data_set_is_rejected(prior):
    with pytest.raises(ValueError, match="set is empty"):
        prior().fit([], GaussianBlur())


def test_sizes_below_one_are_rejected_with_their_value():
    with pytest.raises(ValueError, match="components=0"):
        ChannelMeans(components=0)
    with pytest.raises(ValueError, match="block=0"):
        BlockMeans(block=0)
    with pytest.raises(ValueError, match="max_images=0"):
        HeldOutImages(max_images=0)


def test_every_prior_is_tested_here():
    found = {
        name for name, value in vars(priors).items() if isinstance(value, type) and issubclass(value, priors.Prior)
    }
    assert found - {"Prior", "MixturePrior"} == {"ChannelMeans", "HeldOutImages", "BlockMeans"}, (
        "add the new prior to PRIORS"
    )
