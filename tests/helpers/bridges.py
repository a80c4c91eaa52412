"""Every kind of bridge as its paper writes it, in plain numbers and independent of the package's formulas."""

import math
from collections.abc import Callable
from typing import NamedTuple

THETA = -math.log(0.005)
"""Θ_1 of the Ornstein–Uhlenbeck kinds."""

STEPS = 50


class Drift(NamedTuple):
    """dx = (f x + h y + e x_0) dt + g dw of the forward process of a kind with noise 1, at one time."""

    x: float
    y: float = 0.0
    x0: float = 0.0
    power: float = 0.0


def decay(t):
    """Θ_t = Θ_1 ∫_0^t 2 sin²(πu/2) du."""
    return THETA * (t - math.sin(math.pi * t) / math.pi)


def rate(t):
    """θ_t = dΘ_t/dt."""
    return THETA * 2 * math.sin(math.pi * t / 2) ** 2


def controlled(gamma):
    """Ornstein–Uhlenbeck with the control −g² e^{−2Θ_{t:1}} u/(1/γ + 1 − e^{−2Θ_{t:1}}) (2502.05749, theorem 4.1)."""

    def drift(t):
        left = decay(1.0) - decay(t)
        pull = 0.0
        if gamma:
            pull = 2 * rate(t) * math.exp(-2 * left) / (1 / gamma + 1 - math.exp(-2 * left))
        return Drift(-rate(t) - pull, rate(t) + pull, 0.0, 2 * rate(t))

    return drift


def i2sb_beta(t):
    """β of the authors' code: squares of a line from √.1 towards √.3, mirrored at ½."""
    return (math.sqrt(0.1) + (math.sqrt(0.3) - math.sqrt(0.1)) * min(t, 1 - t)) ** 2


def integral(function, start, end):
    """∫ by Simpson's rule, which is exact for β on each half."""
    return (end - start) / 6 * (function(start) + 4 * function((start + end) / 2) + function(end))


I2SB_POWER = 2 * integral(i2sb_beta, 0, 0.5)


def i2sb_drift(t):
    """A Brownian motion of the power β/∫β, led to y: dx = β (y − x)/∫_t^1 β dt + …"""
    left = integral(i2sb_beta, t, 0.5) + I2SB_POWER / 2 if t < 0.5 else integral(i2sb_beta, t, 1)
    return Drift(-i2sb_beta(t) / left, i2sb_beta(t) / left, 0.0, i2sb_beta(t) / I2SB_POWER)


def ddbm(alpha, sigma, f, power):
    """Doob's h-transform of dx = f x dt + g dw to x_1 = y (2309.16948, eq. 7 and table 1), for α_t and σ_t of the base.

    h = ∇ log p(x_1 = y | x_t) = ((α_t/α_1) y − x)/(σ_t² (SNR_t/SNR_1 − 1)).
    """

    def drift(t):
        snr = (alpha(t) / sigma(t) / (alpha(1.0) / sigma(1.0))) ** 2
        scale = power(t) / (sigma(t) ** 2 * (snr - 1))
        return Drift(f(t) - scale, scale * alpha(t) / alpha(1.0), 0.0, power(t))

    return drift


def vp_power(t):
    """B_t = ∫_0^t β, β = .1 + 2t."""
    return 0.1 * t + t**2


def resshift_root(t):
    """√η of 15 or more steps: √η_1 (1/√η_1)^((k−1)/(T−1))^.3 with √η_1 = .02 (2307.12348, eq. 12 and 13)."""
    progress = (t * STEPS - 1) / (STEPS - 1)
    return 0.02 * (1 / 0.02) ** (progress**0.3)


def resshift_drift(t):
    """x_t = x_s + (η_t − η_s)(y − x_0) + √(η_t − η_s) z."""
    h = 1e-6
    slope = (resshift_root(t + h) ** 2 - resshift_root(t - h) ** 2) / (2 * h)
    return Drift(0.0, slope, -slope, slope)


DRIFTS: dict[str, Callable[[float], Drift]] = {
    "indi": lambda t: Drift(1 / t, 0.0, -1 / t, 0.0),
    "resshift": resshift_drift,
    "irsde": controlled(0.0),
    "goub": controlled(math.inf),
    "unidb": controlled(1.4e4),
    "bbdm": lambda t: Drift(-1 / (1 - t), 1 / (1 - t), 0.0, 1.0),
    "i2sb": i2sb_drift,
    "ddbm_ve": ddbm(lambda t: 1.0, lambda t: t, lambda t: 0.0, lambda t: 2 * t),
    "ddbm_vp": ddbm(
        lambda t: math.exp(-vp_power(t) / 2),
        lambda t: math.sqrt(1 - math.exp(-vp_power(t))),
        lambda t: -(0.1 + 2 * t) / 2,
        lambda t: 0.1 + 2 * t,
    ),
}
"""The forward process of each kind."""


def moments(drift, start, s, t, number=400):
    """(x_0's factor, y's factor, variance) at t of the process that has the moments ``start`` at s: Runge–Kutta 4."""

    def slopes(time, value):
        d = drift(time)
        return d.x * value[0] + d.x0, d.x * value[1] + d.y, 2 * d.x * value[2] + d.power

    value, h = tuple(start), (t - s) / number
    for i in range(number):
        time = s + i * h
        one = slopes(time, value)
        two = slopes(time + h / 2, [v + h / 2 * k for v, k in zip(value, one, strict=True)])
        three = slopes(time + h / 2, [v + h / 2 * k for v, k in zip(value, two, strict=True)])
        four = slopes(time + h, [v + h * k for v, k in zip(value, three, strict=True)])
        value = tuple(
            v + h / 6 * (a + 2 * b + 2 * c + d) for v, a, b, c, d in zip(value, one, two, three, four, strict=True)
        )
    return value
