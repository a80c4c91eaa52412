"""Objects that keep their arguments: how they are described, copied, and rebuilt with other arguments."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.runs import Tiny

from diffusion_lightning.core.arguments import KeepsArguments
from diffusion_lightning.degradations import Degradation
from diffusion_lightning.guidance import Autoguidance, ClassifierFreeGuidance, ClassifierGuidance, Guidance
from diffusion_lightning.samplers import (
    DDIM,
    AnnealedLangevin,
    Cold,
    Direct,
    Heun,
    KarrasSpacing,
    Multistep,
    PredictorCorrector,
    ProbabilityFlow,
    QuadraticSpacing,
    Sampler,
    UniformSpacing,
)


class Own(Sampler):
    """A user's sampler with required arguments, one of which it keeps under another name."""

    def __init__(
        self, pull: float, hidden: int, schedule: Callable[[float], float] | None = None, weights: object = (1, 2.5)
    ) -> None:
        super().__init__()
        self.pull = pull
        self._elsewhere = hidden
        self.schedule = schedule
        self.weights = weights

    def coefficients(self, degradation: Degradation, t: float, s: float) -> tuple[float, float]:
        return self.pull, 0.0


class Picky(Own):
    """A sampler with variadic arguments, and with an argument that has the name of a method."""

    def __init__(self, *pulls: float, mode: str = "plain", check: bool = False, **more: int) -> None:
        super().__init__(pulls[0], 0)
        self.pulls = pulls
        self.mode = mode
        self.more = more


class Forwarding(DDIM):
    """A sampler that forwards its base's arguments."""

    def __init__(self, pull: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pull = pull


class Constant(Guidance):
    """A user's guidance that ignores its scale."""

    def __init__(self, level: float = 0.5) -> None:
        super().__init__(1.0)
        self.level = level

    def guide(self, denoiser_for: Any, condition: Any, degradation: Degradation) -> Any:
        return denoiser_for(condition)


class Plain(KeepsArguments):
    """A class with no arguments."""


DESCRIPTIONS: list[tuple[KeepsArguments, str]] = [
    (ProbabilityFlow(9), "ProbabilityFlow"),
    (DDIM(eta=0.5), "DDIM(eta=0.5)"),
    (DDIM(eta=1), "DDIM(eta=1)"),
    (DDIM(4, 0.5, QuadraticSpacing()), "DDIM(eta=0.5, spacing=QuadraticSpacing)"),
    (Heun(spacing=KarrasSpacing(3), churn=40.0), "Heun(spacing=KarrasSpacing(rho=3), churn=40)"),
    (Heun(spacing=KarrasSpacing(7)), "Heun(spacing=KarrasSpacing)"),
    (Multistep(step_variable="lambda"), "Multistep(step_variable=lambda)"),
    (Direct(), "Direct"),
    (AnnealedLangevin(), "AnnealedLangevin"),
    (AnnealedLangevin(corrector_steps=3, rate=0.2), "AnnealedLangevin(corrector_steps=3, rate=0.2)"),
    (PredictorCorrector(), "PredictorCorrector"),
    (PredictorCorrector(corrector_steps=2), "PredictorCorrector(corrector_steps=2)"),
    (PredictorCorrector(ProbabilityFlow()), "PredictorCorrector(predictor=ProbabilityFlow)"),
    (PredictorCorrector(DDIM(eta=0.5)).replace(steps=9), "PredictorCorrector(predictor=DDIM(eta=0.5))"),
    (PredictorCorrector(DDIM(7, eta=0.5)), "PredictorCorrector(predictor=DDIM(eta=0.5))"),
    (Cold(3), "Cold"),
    (Own(0.5, 1), "Own(pull=0.5, hidden=1)"),
    (Own(1, 1, abs, torch.ones(2)), "Own(pull=1, hidden=1, schedule=abs, weights=Tensor)"),
    (Own(1, 1, weights=None), "Own(pull=1, hidden=1, weights=None)"),
    (Own(1, 1, weights=(1, 2.5)), "Own(pull=1, hidden=1)"),
    (Own(1, 1, weights=[Cold(2), 1 / 3]), "Own(pull=1, hidden=1, weights=[Cold, 0.333333333333])"),
    (Picky(0.5), "Picky"),
    (Picky(0.5, mode="fancy"), "Picky(mode=fancy)"),
    (Picky(0.5, check=True), "Picky(check=True)"),
    (ClassifierFreeGuidance(), "ClassifierFreeGuidance"),
    (ClassifierFreeGuidance(2.0, (0.1, 0.8)), "ClassifierFreeGuidance(scale=2, interval=[0.1, 0.8])"),
    (ClassifierFreeGuidance(guidance_rescale=0.7), "ClassifierFreeGuidance(guidance_rescale=0.7)"),
    (Autoguidance("weak.ckpt", 1.5), "Autoguidance(weak_ckpt=weak.ckpt, scale=1.5)"),
    (Autoguidance(Tiny()), "Autoguidance(weak_ckpt=Tiny)"),
    (ClassifierGuidance("classifier.ckpt"), "ClassifierGuidance(classifier=classifier.ckpt)"),
    (Constant(), "Constant"),
    (Constant(0.25), "Constant(level=0.25)"),
    (KarrasSpacing(3.5), "KarrasSpacing(rho=3.5)"),
    (Plain(), "Plain"),
]


@pytest.mark.parametrize(("part", "expected"), DESCRIPTIONS, ids=[expected for _, expected in DESCRIPTIONS])
def test_a_description_has_the_arguments_that_differ_from_defaults(part: KeepsArguments, expected: str) -> None:
    assert part.describe(omit=("steps",)) == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (ProbabilityFlow(9), "ProbabilityFlow(steps=9)"),
        (ProbabilityFlow(), "ProbabilityFlow"),
        (DDIM(4, 0.5, QuadraticSpacing()), "DDIM(steps=4, eta=0.5, spacing=QuadraticSpacing)"),
        (PredictorCorrector(DDIM(7), steps=9), "PredictorCorrector(predictor=DDIM(steps=7), steps=9)"),
        (Own(0.5, 1), "Own(pull=0.5, hidden=1)"),
        (ClassifierFreeGuidance(2), "ClassifierFreeGuidance(scale=2)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_repr_is_the_description_with_all_arguments(part: KeepsArguments, expected: str) -> None:
    assert repr(part) == str(part) == part.describe() == expected


def test_any_argument_can_be_omitted_also_of_inner_parts() -> None:
    part = PredictorCorrector(DDIM(7, eta=0.5), corrector_steps=2, steps=9)
    assert part.describe(("eta", "steps")) == "PredictorCorrector(predictor=DDIM, corrector_steps=2)"
    assert part.describe(["predictor"]) == "PredictorCorrector(corrector_steps=2, steps=9)"


def test_replace_builds_a_new_object_and_leaves_the_old_one() -> None:
    sampler = DDIM(4, 0.5, QuadraticSpacing())
    changed = sampler.replace(steps=20)
    assert (sampler.steps, changed.steps) == (4, 20)
    assert type(changed) is DDIM
    assert (changed.eta, changed.spacing) == (0.5, sampler.spacing)
    assert repr(changed) == "DDIM(steps=20, eta=0.5, spacing=QuadraticSpacing)"
    assert repr(changed.replace(eta=0.0).replace(steps=None)) == "DDIM(spacing=QuadraticSpacing)"
    assert repr(sampler.replace()) == repr(sampler)
    assert sampler.replace() is not sampler


def test_replace_works_for_a_user_s_classes() -> None:
    own = Own(0.5, 1, abs)
    assert repr(own.replace(pull=0.25)) == "Own(pull=0.25, hidden=1, schedule=abs)"
    assert own.replace(hidden=3)._elsewhere == 3
    picky = Picky(0.5, 0.75, mode="fancy", size=3)
    changed = picky.replace(check=True)
    assert (changed.pulls, changed.mode, changed.more) == ((0.5, 0.75), "fancy", {"size": 3})
    assert repr(changed) == "Picky(mode=fancy, check=True, size=3)"


def test_replace_keeps_the_other_arguments_that_a_class_forwards() -> None:
    changed = Forwarding(0.5, steps=4, eta=0.25).replace(steps=20)
    assert (changed.pull, changed.steps, changed.eta) == (0.5, 20, 0.25)
    changed = Forwarding(0.5, steps=4).replace(eta=0.25).replace(pull=1.0)
    assert (changed.pull, changed.steps, changed.eta) == (1.0, 4, 0.25)


def test_replace_runs_the_checks_of_the_constructor() -> None:
    with pytest.raises(ValueError, match="steps=0"):
        Cold(3).replace(steps=0)
    with pytest.raises(ValueError, match="guidance_rescale=2"):
        ClassifierFreeGuidance().replace(guidance_rescale=2)
    with pytest.raises(ValueError, match="Cold has no argument shininess"):
        Cold(3).replace(shininess=1)


def test_replace_gives_other_steps_to_a_sampler_without_that_argument() -> None:
    own = Own(0.5, 1, abs)
    changed = own.replace(steps=7, pull=0.25)
    assert (changed.steps, changed.pull, own.steps, own.pull) == (7, 0.25, None, 0.5)
    with pytest.raises(ValueError, match="steps=0"):
        own.replace(steps=0)


def test_a_wrong_argument_names_the_class() -> None:
    with pytest.raises(TypeError, match=r"Cold\(\) got an unexpected keyword argument 'shininess'"):
        Cold(shininess=1)
    with pytest.raises(ValueError, match="QuadraticSpacing has no argument rho"):
        QuadraticSpacing().replace(rho=1)
    with pytest.raises(ValueError, match="Direct has no argument eta"):
        Direct().replace(eta=1)


def test_the_description_shows_the_arguments_that_a_class_forwards() -> None:
    assert repr(Forwarding(0.5, steps=4, eta=0.25)) == "Forwarding(pull=0.5, steps=4, eta=0.25)"
    assert Forwarding(0.5, steps=4, eta=0.25).describe(["steps"]) == "Forwarding(pull=0.5, eta=0.25)"


def test_direct_has_one_step_whatever_replaces_it() -> None:
    assert Direct().replace(steps=20).steps == 1


def test_replace_changes_the_scale_of_any_guidance() -> None:
    weak = Tiny()
    free = ClassifierFreeGuidance(2.0, (0.1, 0.8), 0.7).replace(scale=5.0)
    assert (free.scale, free.interval, free.guidance_rescale) == (5.0, (0.1, 0.8), 0.7)
    auto = Autoguidance(weak, interval=(0.2, 1.0)).replace(scale=5.0)
    assert (auto.scale, auto.interval, auto.weak_ckpt) == (5.0, (0.2, 1.0), weak)
    classifier = ClassifierGuidance(weak).replace(scale=5.0)
    assert (classifier.scale, classifier.classifier) == (5.0, weak)


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda part: pickle.loads(pickle.dumps(part)),
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize(
    "part",
    [
        DDIM(4, 0.5, QuadraticSpacing()),
        PredictorCorrector(DDIM(7, eta=0.5), corrector_steps=2),
        Own(0.5, 1, abs),
        Picky(0.5, 0.75, mode="fancy", size=3),
        Forwarding(0.5, steps=4, eta=0.25),
        ClassifierFreeGuidance(2.0, (0.1, 0.8)),
        Autoguidance("weak.ckpt", 1.5),
        KarrasSpacing(3.5),
        Plain(),
    ],
    ids=lambda part: type(part).__name__,
)
def test_copies_keep_attributes_description_and_replace(part: Any, duplicate: Callable[[Any], Any]) -> None:
    twin = duplicate(part)
    assert twin is not part
    assert type(twin) is type(part)
    assert vars(twin).keys() == vars(part).keys()
    assert repr(twin) == repr(part)
    assert repr(twin.replace()) == repr(part)
    if isinstance(part, Sampler):
        assert (twin.steps, type(twin.spacing)) == (part.steps, type(part.spacing))
    if isinstance(part, Guidance):
        assert twin.scale == part.scale


def test_a_deep_copy_has_its_own_arguments() -> None:
    weak = Tiny()
    twin = copy.deepcopy(Autoguidance(weak))
    assert twin.weak_ckpt is not weak
    assert twin.replace(scale=3.0).weak_ckpt is twin.weak_ckpt


def test_wrong_and_missing_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="shininess"):
        DDIM(shininess=1)
    with pytest.raises(TypeError, match="pull"):
        Own(hidden=1)
    with pytest.raises(TypeError, match="positional argument"):
        UniformSpacing(1)
    with pytest.raises(TypeError, match="rho"):
        UniformSpacing(rho=3.0)
