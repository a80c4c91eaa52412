"""ImageNetC: its names, its random parameters, its interpolation over t and its errors; and the tests' reference."""

import builtins
import random
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.color
import skimage.filters
import skimage.util
import torch
from helpers import imagecorruptions_source
from helpers.keyed_params import keyed_params
from torch.nn import functional as F

from diffusion_lightning.core.images import to_uint8
from diffusion_lightning.core.rng import per_image_generators
from diffusion_lightning.degradations import ImageNetC
from diffusion_lightning.degradations.imagenet_c import BATCHED, NAMES, STOCHASTIC

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports deprecated names
    import imagecorruptions

REPRESENTATIVE = ("fog", "contrast", "spatter", "jpeg_compression")
"""Two with random parameters and two without; spatter and jpeg_compression round intermediate values."""

every_name = pytest.mark.parametrize("name", NAMES)
each_kind = pytest.mark.parametrize("name", REPRESENTATIVE)
rgb_only = pytest.mark.parametrize("name", [name for name in NAMES if BATCHED[name].rgb])


def images(number=2, height=40, width=33, dtype=torch.float32):
    noise = torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (F.avg_pool2d(noise, 5, 1, 2) * 4 - 2).clamp(-0.98, 0.97).to(dtype)


def with_params(name, x, **settings):
    degradation = ImageNetC(name, **settings)
    return degradation, keyed_params(degradation, x)


@pytest.fixture
def patched_imagecorruptions(monkeypatch):
    """The released package, patched to run with current libraries and to use numpy's global seed for impulse noise."""
    package = imagecorruptions.corruptions
    gaussian, random_noise = skimage.filters.gaussian, skimage.util.random_noise

    def with_multichannel(image, sigma, multichannel=False, **settings):
        return gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None, **settings)

    def seeded(image, **settings):
        return random_noise(image, rng=np.random.randint(2**31), **settings)  # noqa: NPY002

    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    monkeypatch.setattr(package, "gaussian", with_multichannel)
    monkeypatch.setattr(package, "sk", SimpleNamespace(color=skimage.color, util=SimpleNamespace(random_noise=seeded)))


@every_name
@pytest.mark.usefixtures("patched_imagecorruptions")
def test_the_reference_equals_imagecorruptions_under_the_same_seed(name):
    for i, image in enumerate(to_uint8(images(5)).permute(0, 2, 3, 1).numpy()):
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(7 + i)  # noqa: NPY002
        with np.errstate(all="ignore"):
            expected = imagecorruptions.corrupt(image, i + 1, name)
        np.random.set_state(state)  # noqa: NPY002
        assert np.array_equal(imagecorruptions_source.corrupt(image, name, i + 1, 7 + i), expected)


def test_the_reference_needs_no_removed_library_and_patches_nothing(monkeypatch):
    for removed in ("pkg_resources", "scipy.ndimage.interpolation"):
        monkeypatch.setitem(sys.modules, removed, None)  # importing it raises
    for loaded in ("imagecorruptions", "imagecorruptions.corruptions"):
        monkeypatch.delitem(sys.modules, loaded)
    original_import, has_float_ = builtins.__import__, hasattr(np, "float_")
    modules = {name for name in sys.modules if "corruptions" in name}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functions, _ = imagecorruptions_source.load.__wrapped__()
    assert set(NAMES) <= functions.keys()
    assert builtins.__import__ is original_import
    assert hasattr(np, "float_") == has_float_
    assert {name for name in sys.modules if "corruptions" in name} == modules


@every_name
def test_it_imports_neither_imagecorruptions_nor_its_libraries(name, monkeypatch):
    for library in ("pkg_resources", "scipy.ndimage", "skimage", "skimage.filters", "skimage.color", "skimage.util"):
        monkeypatch.setitem(sys.modules, library, None)  # importing it raises
    for loaded in ("imagecorruptions", "imagecorruptions.corruptions"):
        monkeypatch.delitem(sys.modules, loaded)
    x = images()
    degradation, params = with_params(name, x)
    assert degradation(x, torch.tensor([0.5, 1.0]), params).isfinite().all()
    assert not any(module.startswith("imagecorruptions.") for module in sys.modules)


def test_the_names_are_the_19_of_imagecorruptions():
    assert len(NAMES) == 19
    assert set(NAMES) == set(imagecorruptions.get_corruption_names("all"))


@every_name
def test_halfway_between_two_severities_it_is_their_mean(name):
    x = images(1, 64, 64)
    degradation, params = with_params(name, x)
    low, half, high = (degradation(x, torch.tensor([t]), params) for t in (0.4, 0.5, 0.6))
    assert torch.allclose(half, (low + high) / 2, rtol=0, atol=1e-6)
    assert half.isfinite().all()
    assert half.abs().max() <= 1
    assert not torch.equal(half, x)


@every_name
def test_only_stochastic_corruptions_have_random_parameters(name):
    x, t = images(1), torch.tensor([0.8])
    degradation, params = with_params(name, x)
    other = keyed_params(degradation, x, seed=1)
    assert degradation.has_unknown_params == (name in STOCHASTIC) == bool(params)
    assert torch.equal(degradation(x, t, params), degradation(x, t, params))
    assert torch.equal(degradation(x, t, params), degradation(x, t, other)) == (name not in STOCHASTIC)


@every_name
@pytest.mark.parametrize("value", [-1.0, 0.1, 1.0], ids=["black", "grey", "white"])
def test_constant_images_give_finite_values_and_no_warning(name, value):
    x = torch.full((1, 3, 32, 35), value)
    degradation, params = with_params(name, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        degraded = degradation(x, torch.tensor([0.7]), params)
    assert degraded.isfinite().all()
    assert degraded.abs().max() <= 1


@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_t_0_is_the_image_bit_for_bit_and_shape_and_dtype_are_kept(name, dtype):
    x = images(3, dtype=dtype)
    degradation, params = with_params(name, x)
    degraded = degradation(x, torch.tensor([0.0, 0.5, 1.0]), params)
    assert (degraded.dtype, degraded.shape) == (dtype, x.shape)
    assert torch.equal(degraded[0], x[0])
    assert torch.equal(degradation(x, torch.zeros(3), params), x)


@each_kind
def test_below_severity_1_it_blends_with_the_clean_image(name):
    x = images(3)
    degradation, params = with_params(name, x, severity=2.0)
    first = degradation(x, torch.full((3,), 0.5), params)
    fractions = torch.tensor([0.1, 0.5, 0.9])
    degraded = degradation(x, fractions / 2, params)
    assert torch.allclose(degraded, torch.lerp(x, first, fractions.view(3, 1, 1, 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["fog", "contrast", "glass_blur", "pixelate", "impulse_noise"])
def test_images_are_continuous_in_the_severity(name):
    """A change of the severity by 0.01 changes no value by more than a hundredth of the whole range."""
    x = images(1, 32, 32)
    degradation, params = with_params(name, x, steps=10**6)
    for severity in (0, 0.5, 1, 2, 3.3, 4):
        for h in (-0.01, 0.01):
            ends = [degradation(x, torch.tensor([max(s, 0) / 5]), params) for s in (severity, severity + h)]
            assert (ends[0] - ends[1]).abs().max() < 0.0201


@each_kind
def test_a_time_for_each_image_is_a_loop_over_the_images(name):
    x = images(6)
    degradation, params = with_params(name, x)
    t = torch.tensor([0.0, 0.1, 0.2, 0.55, 0.6, 1.0])
    together = degradation(x, t, params)
    for i in range(6):
        alone = {key: value[i : i + 1] for key, value in params.items()}
        single = degradation(x[i : i + 1], t[i : i + 1], alone)
        assert torch.allclose(together[i : i + 1], single, rtol=0, atol=2e-6)


def test_image_i_has_the_same_parameters_alone_and_in_any_precision():
    x = images(8)
    degradation, whole = with_params("spatter", x)
    assert len({layer.sum().item() for layer in whole["liquid"]}) == 8
    for i in (0, 5):
        for dtype in (torch.bfloat16, torch.float32):
            params = degradation.sample_params(x[i : i + 1].to(dtype), per_image_generators(0, [i]))
            assert torch.equal(params["liquid"], whole["liquid"][i : i + 1])


@every_name
def test_it_neither_uses_nor_changes_a_global_random_state(name):
    x, t = images(1), torch.tensor([0.6])
    degradation, params = with_params(name, x)
    results = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        torch.manual_seed(seed)
        before = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()  # noqa: NPY002
        results.append(degradation(x, t, params))
        after = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()  # noqa: NPY002
        assert before == after
    assert torch.equal(*results)


@rgb_only
@pytest.mark.parametrize("shape", [(1, 64, 64), (4, 32, 32)], ids=str)
def test_images_of_1_or_4_channels_are_rejected_where_rgb_is_needed(name, shape):
    x = torch.zeros(1, *shape)
    channels, height, width = shape
    message = f"^images of {channels} channels and {height}×{width} px: ImageNet-C's {name} needs RGB$"
    with pytest.raises(ValueError, match=message):
        ImageNetC(name).sample_params(x)
    with pytest.raises(ValueError, match=message):
        ImageNetC(name)(x, torch.ones(1), {})


@pytest.mark.parametrize("name", STOCHASTIC)
def test_missing_parameters_are_named_with_the_remedy(name):
    first = BATCHED[name].param_names[0]
    message = f"^{name} has the random parameter '{first}' and params lacks it: get params from sample_params"
    with pytest.raises(ValueError, match=message):
        ImageNetC(name)(images(1), torch.ones(1), {})


def test_an_unknown_name_is_rejected_with_the_19_names():
    with pytest.raises(ValueError, match="name='rain'") as error:
        ImageNetC("rain")
    assert all(name in str(error.value) for name in NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("severity", [0, -1, 5.1, float("nan")])
def test_invalid_severities_are_rejected_with_value_and_range(severity):
    with pytest.raises(ValueError, match=f"severity={severity}: ImageNet-C's severities go from above 0 to 5"):
        ImageNetC("fog", severity)


def test_by_default_it_is_fog_which_is_not_linear():
    assert not ImageNetC().linear
    assert ImageNetC().name == "fog"
