"""Bridges: their ends, marginals and transitions against the processes of their papers (helpers/bridges.py)."""

import pytest
import torch
from helpers.bridges import DRIFTS, STEPS, moments

from diffusion_lightning.core.rng import keyed_generator
from diffusion_lightning.degradations import Bridge, Fade, GaussianBlur, GaussianNoise, Pixelate
from diffusion_lightning.degradations.bridge import KINDS
from diffusion_lightning.degradations.bridge_kinds import DDBMVP, I2SB, IRSDE, ResShift, UniDB

NOISE = 0.7
PINNED = ["i2sb", "bbdm", "ddbm_ve", "ddbm_vp", "goub"]
X0_DEPENDENT = ["indi", "resshift"]
every_kind = pytest.mark.parametrize("kind", KINDS)
TIMES = (0.1, 0.33, 0.62, 0.9)


def bridge(kind, **settings):
    return Bridge(kind, **{"steps": STEPS, "noise": NOISE} | settings)


def times(*t):
    return torch.tensor(t, dtype=torch.float64)


def pairs_of_images(number=4):
    """x_0, and params with y and z."""
    x, y, z = torch.randn(3, number, 3, 4, 5, dtype=torch.float64, generator=keyed_generator(0))
    return x, {"y": y, "noise": z}


def marginal(degradation, t):
    """(λ_x, λ_y, σ²) at one time."""
    return [value.item() for value in (*degradation.coefficients(times(t))[:2], degradation.sigma(times(t)) ** 2)]


def transition(degradation, t, s):
    """(factor of x_s, of y, of x_0, variance) of x_t | x_s, from the package's ψ and marginals."""
    factor = degradation.transition_factor(times(t), times(s)).item()
    (x_t, y_t, power_t), (x_s, y_s, power_s) = marginal(degradation, t), marginal(degradation, s)
    return factor, y_t - factor * y_s, x_t - factor * x_s, power_t - factor**2 * power_s


def test_every_kind_has_a_reference():
    assert set(DRIFTS) == set(KINDS), "add the process of its paper to tests/helpers/bridges.py"


@every_kind
def test_marginals_are_the_moments_of_the_papers_process(kind):
    """From (1, 0, 0) the process reaches the marginal at t = .04, and from there those at later times."""
    degradation, drift = bridge(kind), DRIFTS[kind]
    first = 0.04
    if kind not in X0_DEPENDENT:  # the drift of these is infinite at t = 0, or jumps at t = 1/T
        start = moments(drift, (1.0, 0.0, 0.0), 1e-9, first)
        assert [*start[:2], NOISE**2 * start[2]] == pytest.approx(marginal(degradation, first), abs=1e-7)
    value, time = marginal(degradation, first), first
    for t in TIMES:
        value = moments(lambda u: drift(u)._replace(power=NOISE**2 * drift(u).power), value, time, t)
        assert value == pytest.approx(marginal(degradation, t), abs=1e-6)
        time = t


@every_kind
def test_transitions_are_those_of_the_papers_process(kind):
    """ψ is the factor of x_s after Runge–Kutta from s to t, and σ_t² − ψ²σ_s² the variance that is added."""
    degradation, drift = bridge(kind), DRIFTS[kind]
    for s, t in ((0.1, 0.33), (0.33, 0.9), (0.62, 0.64)):
        factor = moments(lambda u: drift(u)._replace(x0=0.0), (1.0, 0.0, 0.0), s, t)[0]
        x0, y, power = moments(drift, (0.0, 0.0, 0.0), s, t)
        expected = (factor, y, x0, NOISE**2 * power)
        assert transition(degradation, t, s) == pytest.approx(expected, abs=1e-6)


@every_kind
def test_transitions_satisfy_chapman_kolmogorov(kind):
    """Those from s to t and from t to u are that from s to u, and none has a negative variance."""
    degradation = bridge(kind)
    for s, t, u in ((0.05, 0.1, 0.33), (0.1, 0.5, 0.9), (0.33, 0.9, 0.99), (0.3, 0.6, 1.0)):
        first, second, whole = (transition(degradation, *pair) for pair in ((t, s), (u, t), (u, s)))
        composed = [second[0] * first[0], *(second[i] + second[0] * first[i] for i in (1, 2))]
        composed.append(second[3] + second[0] ** 2 * first[3])
        assert composed == pytest.approx(whole, abs=1e-12)
        assert min(first[3], second[3], whole[3]) > -1e-12
        if kind not in X0_DEPENDENT:
            assert whole[2] == pytest.approx(0, abs=1e-12)


@every_kind
def test_the_start_is_x0_bit_for_bit(kind):
    x, params = pairs_of_images()
    for dtype in (torch.float64, torch.float32):
        cast = {name: value.to(dtype) for name, value in params.items()}
        assert torch.equal(bridge(kind)(x.to(dtype), torch.zeros(4, dtype=dtype), cast), x.to(dtype))


@every_kind
def test_the_end_is_y_or_as_the_kind_says(kind):
    x, params = pairs_of_images()
    degradation, one = bridge(kind), torch.ones(4, dtype=torch.float64)
    end, sigma = degradation.operator(x, one, params), degradation.sigma(one)
    if kind == "irsde":
        assert torch.allclose(end, params["y"] + 0.005 * (x - params["y"]), rtol=0, atol=1e-12)
    elif kind == "unidb":
        assert torch.allclose(end, params["y"], rtol=0, atol=1e-5)
        assert torch.allclose(sigma, NOISE * one / 1.4e4**0.5, rtol=1e-3)
    else:
        assert torch.equal(end, params["y"])
    if kind in PINNED:
        assert torch.equal(degradation(x, one, params), params["y"])
    elif kind != "unidb":
        assert torch.allclose(sigma, NOISE * one, rtol=1e-4)


def test_unidb_lies_between_irsde_and_goub():
    """γ → 0 is the free process, γ → ∞ the pinned one."""
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    for gamma, kind in ((1e-9, "irsde"), (1e12, "goub")):
        near = Bridge(UniDB(gamma), steps=STEPS).coefficients(t)
        for value, limit in zip(near, Bridge(kind, steps=STEPS).coefficients(t), strict=True):
            assert torch.allclose(value, limit, rtol=0, atol=2e-6)


def test_without_noise_the_ratios_are_the_limits_for_little_noise():
    for kind in KINDS:
        little, none = bridge(kind, noise=1e-6), bridge(kind, noise=0.0)
        t, s = times(0.9, 0.5, 1.0), times(0.4, 0.1, 0.6)
        assert torch.equal(little.sigma_ratio(t, s), none.sigma_ratio(t, s))
        assert (none.sigma(t) == 0).all()


@pytest.mark.parametrize("make", [lambda: GaussianBlur(steps=5, noise=0.1), lambda: Fade(4, quantize=True)])
def test_pairs_are_made_by_the_degradation_at_the_severity(make):
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64, generator=keyed_generator(0)) * 2 - 1
    generators = [keyed_generator(i) for i in range(4)]
    params = Bridge(pairs=make(), severity=0.5, noise=0).sample_params(x, generators)
    again = make()
    half = torch.full((4,), 0.5, dtype=torch.float64)
    expected = again(x, half, again.sample_params(x, [keyed_generator(i) for i in range(4)]))
    if again.quantize:
        expected = ((expected * 127.5 + 127.5).round() - 127.5) / 127.5
    assert set(params) == {"y"}
    assert torch.allclose(params["y"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "bridge"}, "kind='bridge': choose indi, resshift"),
        ({"severity": 0.0}, "severity=0.0: choose a value in"),
        ({"severity": 1.5}, "severity=1.5: choose a value in"),
        ({"pairs": Bridge()}, "pairs is a Bridge itself"),
        ({"noise": -1.0}, "noise=-1.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Bridge(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResShift(power=0.0), "power=0.0"),
        (lambda: ResShift(first_shift=1.0), "first_shift=1.0"),
        (lambda: I2SB(0.3, 0.1), "beta_min=0.3, beta_max=0.1"),
        (lambda: DDBMVP(0.0, 0.0), "beta_min=0.0, beta_slope=0.0"),
        (lambda: IRSDE(1.0), "end_factor=1.0"),
        (lambda: UniDB(0.0), "gamma=0.0"),
    ],
)
def test_bad_arguments_of_kinds_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_y_raises_an_error_with_the_remedy():
    with pytest.raises(ValueError, match="use data with pairs, such as PairedFolder, or make them by"):
        Bridge()(torch.zeros(2, 1, 4, 4), torch.ones(2), {"noise": torch.zeros(2, 1, 4, 4)})


def test_only_a_bridge_without_pairs_needs_them():
    assert Bridge().needs_pairs
    assert not Bridge(pairs=Pixelate(2)).needs_pairs
    assert not GaussianNoise().needs_pairs
    assert [d.is_bridge for d in (Bridge(), GaussianNoise())] == [True, False]
