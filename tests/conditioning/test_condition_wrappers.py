"""Augmentation labels and small images as conditions, alone and beside class labels and captions."""

import pytest
import torch
from helpers.captioned import ConditionalTiny
from helpers.runs import Stored, tiny_module, tiny_trainer
from torch import nn
from torch.nn import functional as F

from diffusion_lightning import RestorationModule
from diffusion_lightning.conditioning import (
    AugmentationLabels,
    ClassEmbedding,
    ConditionEmbedding,
    LowResolution,
    TextTransformer,
)
from diffusion_lightning.conditioning.low_resolution import blur_3x3
from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.data import NonLeakyAugmentation
from diffusion_lightning.degradations import GaussianNoise
from diffusion_lightning.guidance import ClassifierFreeGuidance
from diffusion_lightning.networks import UNet
from diffusion_lightning.objectives import Eps, HybridLoss, LearnedVariance
from diffusion_lightning.samplers import Direct


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def labels(number=3):
    return {"label": torch.arange(number) % 2}


def augmented(number=3):
    return {"augmentation": torch.rand(number, 9)}


def small(number=3, channels=1):
    return {"image": torch.rand(number, channels, 4, 4) * 2 - 1}


def around(conditioner):
    """The conditioner around nothing, around classes, and what the inner one embeds."""
    classes = ClassEmbedding(2, 5, dropout=0.4)
    return conditioner(conditioner=None), conditioner(conditioner=classes), classes


def test_the_embedding_of_augmentation_labels_is_linear_and_added():
    alone, beside, classes = around(lambda **inner: AugmentationLabels(5, **inner))
    for conditioner, base in ((alone, torch.zeros(3, 5)), (beside, classes.encode(labels()).pooled)):
        condition = labels() | augmented()
        expected = base + condition["augmentation"] @ conditioner.embedding.weight.T
        torch.testing.assert_close(conditioner.encode(condition).pooled, expected)
        assert torch.equal(conditioner.encode(labels() | {"augmentation": torch.zeros(3, 9)}).pooled, base)


def test_without_augmentation_labels_nothing_is_added():
    alone, beside, classes = around(lambda **inner: AugmentationLabels(5, **inner))
    assert torch.equal(beside.encode(labels()).pooled, classes.encode(labels()).pooled)
    assert torch.equal(beside.encode(None).pooled, classes.encode(None).pooled)
    assert torch.equal(alone.encode(None).pooled, torch.zeros(1, 5))
    assert alone.condition_keys == ()
    assert beside.condition_keys == ("label",)


def test_augmentation_labels_and_small_images_are_never_dropped():
    condition = labels(200) | augmented(200) | small(200)
    conditioner = LowResolution(conditioner=AugmentationLabels(5, conditioner=ClassEmbedding(2, 5, dropout=0.4)))
    dropped = conditioner.randomize(condition, keyed_generator(1))
    assert torch.equal(dropped["label"], ClassEmbedding(2, dropout=0.4).drop(labels(200), keyed_generator(1))["label"])
    assert 50 < (dropped["label"] == -1).sum() < 110
    assert torch.equal(dropped["augmentation"], condition["augmentation"])
    assert torch.equal(dropped["image"], condition["image"])


def test_a_wrapper_has_the_dropout_of_the_conditioner_inside():
    inner = ClassEmbedding(2, 5, dropout=0.4, dropout_from_step=7)
    for conditioner in (LowResolution(conditioner=inner), AugmentationLabels(5, conditioner=inner)):
        assert (conditioner.dropout, conditioner.dropout_from_step) == (0.4, 7)
    assert LowResolution().dropout == 0


def test_wrappers_hold_each_other_in_either_order():
    condition = labels() | augmented() | small()
    one = LowResolution(conditioner=AugmentationLabels(5, conditioner=ClassEmbedding(2, 5)))
    other = AugmentationLabels(5, conditioner=LowResolution(conditioner=ClassEmbedding(2, 5)))
    other.load_state_dict({
        "embedding.weight": one.conditioner.embedding.weight,
        "conditioner.conditioner.embedding.weight": one.conditioner.conditioner.embedding.weight,
    })  # fmt: skip
    for first, second in zip(one.encode(condition)[::2], other.encode(condition)[::2], strict=True):
        assert torch.equal(first, second)
    assert one.concatenated == other.concatenated == 1
    assert set(one.condition_keys) == set(other.condition_keys) == {"label", "image"}
    assert one.optional_keys == other.optional_keys == ("augmentation",)


def test_a_missing_class_is_an_error_and_none_at_all_the_null_class():
    conditioner = AugmentationLabels(5, conditioner=ClassEmbedding(2, 5))
    with pytest.raises(ValueError, match="ClassEmbedding needs a label for each image"):
        conditioner.encode({"caption": ["a"]} | augmented(1))
    both = augmented(2)
    expected = conditioner.encode(None).pooled + both["augmentation"] @ conditioner.embedding.weight.T
    torch.testing.assert_close(conditioner.encode(both).pooled, expected)


def test_the_vocabulary_of_the_inner_conditioner_is_the_state():
    text = TextTransformer(max_length=4, dim=8, layers=1, heads=1)
    conditioner = LowResolution(conditioner=text)
    conditioner.fit({"caption": ["red cat"]})
    assert conditioner.state == text.state == {"words": ["cat", "red"]}
    conditioner.state = {"words": ["dog"]}
    assert text.state == {"words": ["dog"]}
    with pytest.raises(ValueError, match="knows no word of 'bird'"):
        conditioner.check({"caption": ["bird"]})
    embedding = conditioner.encode({"caption": ["dog"]} | small(1))
    assert torch.equal(embedding.tokens, text.encode({"caption": ["dog"]}).tokens)


MISUSED = {
    "other labels": (lambda: AugmentationLabels(5, 7).encode(augmented()), "labels=7, the data have 9"),
    "another width": (
        lambda: AugmentationLabels(4, conditioner=ClassEmbedding(2, 5)).encode(labels() | augmented()),
        "dim=4, the conditioner inside has 5",
    ),
    "no labels in training": (
        lambda: AugmentationLabels(4).randomize(None, keyed_generator(0)),
        "add NonLeakyAugmentation to --data.augmentation",
    ),
    "no small image": (lambda: LowResolution().encode(labels()), "LowResolution needs a small image"),
    "a width of zero": (lambda: AugmentationLabels(0), "dim=0, labels=9"),
    "a factor of 1": (lambda: LowResolution(1), "factor=1: the images are at least 2 times as large"),
    "a blur that is no fraction": (lambda: LowResolution(blur=2.0), r"blur=2\.0: choose a fraction"),
    "a negative noise": (lambda: LowResolution(noise=-1.0), r"noise=-1\.0: choose a standard deviation"),
}


@pytest.mark.parametrize(("use", "message"), MISUSED.values(), ids=MISUSED)
def test_misuse_is_named_with_the_remedy(use, message):
    with pytest.raises(ValueError, match=message):
        use()


class Parts(nn.Module):
    """Returns its input after the first channels, which are those of x_t."""

    image_channels = (4, 2)

    def forward(self, x, t, pooled=None, tokens=None):
        assert x.shape[1] == 4
        return x[:, 2:]


def test_the_network_gets_the_enlarged_small_image_beside_x_t():
    image, x = torch.rand(2, 2, 3, 3, dtype=torch.float64), torch.rand(2, 2, 6, 6, dtype=torch.float64)
    enlarged = ConditionEmbedding(image=image).apply(Parts(), x, torch.ones(2))
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")  # by hand: weights 3/4 and 1/4 at twice the size
    rows = torch.stack([padded[:, :, 1:-1] * 0.75 + padded[:, :, :-2] * 0.25,
                        padded[:, :, 1:-1] * 0.75 + padded[:, :, 2:] * 0.25], 3).flatten(2, 3)  # fmt: skip
    expected = torch.stack([rows[..., 1:-1] * 0.75 + rows[..., :-2] * 0.25,
                            rows[..., 1:-1] * 0.75 + rows[..., 2:] * 0.25], 4).flatten(3, 4)  # fmt: skip
    torch.testing.assert_close(enlarged, expected)


def test_the_small_image_is_the_mean_over_squares():
    clean = torch.rand(2, 3, 6, 9)
    image = LowResolution(3).complete({}, clean)["image"]
    torch.testing.assert_close(image, clean.unflatten(2, (2, 3)).unflatten(4, (3, 3)).mean((3, 5)))
    assert LowResolution(4).reduce(clean).shape == (2, 3, 2, 2)


def test_the_blur_is_a_normalized_gaussian_of_each_image_s_width():
    images, std = torch.rand(2, 1, 5, 4, dtype=torch.float64), torch.tensor([0.4, 0.6], dtype=torch.float64)
    blurred = blur_3x3(images, std)
    for image, own, width in zip(images, blurred, std.tolist(), strict=True):
        kernel = torch.exp(-torch.tensor([[2, 1, 2], [1, 0, 1], [2, 1, 2]], dtype=torch.float64) / (2 * width**2))
        padded = F.pad(image[None], (1, 1, 1, 1), mode="replicate")
        torch.testing.assert_close(own, F.conv2d(padded, (kernel / kernel.sum())[None, None])[0])


def test_conditioning_augmentation_blurs_a_fraction_and_adds_noise():
    condition = {"image": torch.rand(4000, 1, 4, 4)}
    blurred = LowResolution(blur=0.3).randomize(condition, keyed_generator(0))["image"]
    changed = (blurred != condition["image"]).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.03)
    noise = LowResolution(noise=0.2).randomize(condition, keyed_generator(0))["image"] - condition["image"]
    assert noise.mean().abs() < 0.002
    assert noise.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.03)  # of σ uniform up to 0.2
    assert noise.flatten(1).std(1).max() < 0.45
    same = LowResolution(noise=0.2).randomize(condition, keyed_generator(0))["image"]
    assert torch.equal(same - condition["image"], noise)
    other = LowResolution(noise=0.2).randomize(condition, keyed_generator(1))["image"] - condition["image"]
    assert (other * noise).mean().abs() < 0.001


def upsampler(inner=None):
    """A model with random weights: those at zero would ignore the condition."""
    network = UNet(2, 8, [1], 1, [], condition_dim=4 if inner else 0, out_channels=1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return RestorationModule(GaussianNoise(), network, Eps(), conditioner=LowResolution(2, conditioner=inner))


def test_the_channels_of_the_network_are_checked():
    parts = {"conditioner": LowResolution(2)}
    with pytest.raises(ValueError, match=r"gets 2 images, concatenated, and has 3 channels: set --model.denoiser.chan"):
        RestorationModule(GaussianNoise(), UNet(3, 8, [1], 1, []), **parts)
    with pytest.raises(ValueError, match=r"needs 3 output channels for images of 3 .*out_channels 3"):
        RestorationModule(GaussianNoise(), UNet(6, 8, [1], 1, []), **parts)
    learned = {"parameterization": LearnedVariance(Eps()), "loss": HybridLoss()}
    RestorationModule(GaussianNoise(), UNet(6, 8, [1], 1, [], out_channels=6), **learned, **parts)


class Seen(LowResolution):
    """Keeps the small images of all calls."""

    def extend(self, embedding, values):
        self.__dict__.setdefault("seen", []).append(values)
        return super().extend(embedding, values)


def test_training_has_blurred_small_images_and_validation_clean_ones(tmp_path):
    conditioner, data = Seen(2, blur=1.0), Stored(4, batch_size=4)
    network = UNet(2, 8, [1], 1, [], out_channels=1)
    module = RestorationModule(GaussianNoise(), network, Eps(), conditioner=conditioner)
    tiny_trainer(tmp_path, max_epochs=1).fit(module, datamodule=data)
    clean = {split: next(data.clean_images(split, 4)) for split in ("train", "val")}
    train, val = conditioner.seen
    torch.testing.assert_close(val, F.avg_pool2d(clean["val"], 2))
    nearest = (train[:, None] - F.avg_pool2d(clean["train"], 2)).flatten(2).abs().amax(2).amin(1)
    assert nearest.min() > 1e-3
    assert train.shape == val.shape


def test_the_small_image_changes_the_prediction_and_is_needed():
    module, x, t = upsampler(), torch.randn(2, 1, 8, 8), torch.full((2,), 0.5)
    one, other = (module.conditional_denoiser(small(2))(x, t).x0 for _ in range(2))
    assert (one - other).abs().max() > 1e-4
    with pytest.raises(ValueError, match="LowResolution needs a small image"):
        module.conditional_denoiser(None)


def test_guidance_keeps_the_small_image_and_drops_the_class():
    module = upsampler(ClassEmbedding(2, 4))
    x, t, image = torch.randn(2, 1, 8, 8), torch.full((2,), 0.5), small(2)
    guided = ClassifierFreeGuidance(3.0).guide(module.conditional_denoiser, labels(2) | image, module.degradation)
    cond, null = (module.conditional_denoiser(c)(x, t).x0 for c in (labels(2) | image, image))
    torch.testing.assert_close(guided(x, t).x0, null + 3 * (cond - null))
    assert (cond - null).abs().max() > 1e-4


def test_a_run_with_augmentation_trains_the_embedding_of_its_labels(tmp_path):
    conditioner = AugmentationLabels(4)
    module = tiny_module(denoiser=ConditionalTiny(), conditioner=conditioner)
    before = conditioner.embedding.weight.clone()
    data = Stored(8, batch_size=4, augmentation=[NonLeakyAugmentation(0.5)])
    tiny_trainer(tmp_path, max_epochs=1).fit(module, datamodule=data)
    assert not torch.equal(before, conditioner.embedding.weight)
    images = module.generate(range(2), sampling=module.sampling.replace(sampler=Direct()))
    assert images.isfinite().all()
