"""Any image function as a degradation: one of Kornia, torchvision or a user's own, named by its import path."""

import difflib
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from diffusion_lightning.core import rng
from diffusion_lightning.core.images import from_unit, to_unit
from diffusion_lightning.core.precision import float32_default
from diffusion_lightning.core.tables import append_dims, to_grid
from diffusion_lightning.core.types import Generators, Params
from diffusion_lightning.degradations.base import Degradation

Number = int | float
RangeSpec = list[Number | list[Number]]


class ArgumentRange(NamedTuple):
    """The start and the end of an argument: n numbers each, or one."""

    start: list[Number]
    end: list[Number]
    step: int
    integer: bool
    scalar: bool

    @classmethod
    def parse(cls, option: str, name: str, spec: RangeSpec) -> "ArgumentRange":
        """Parse [start, end] or [start, end, step] of the argument ``name`` in ``option`` (ranges or random).

        Raises:
            ValueError: The specification is not of this form.
        """
        ends = [list(end) if isinstance(end, list | tuple) else [end] for end in spec]
        step = ends[2][0] if len(ends) == 3 else 1
        if not 2 <= len(ends) <= 3 or len(ends[0]) != len(ends[1]) or not ends[0]:
            raise ValueError(f"{option}: {name}: {spec}: give two numbers, or two lists of equally many numbers")
        integer = all(isinstance(number, int) for number in ends[0] + ends[1])
        if len(ends) == 3 and not (integer and option == "ranges" and isinstance(step, int) and step > 0):
            raise ValueError(f"{option}: {name}: {spec}: a step is a positive integer, in ranges of integers")
        if option == "random" and any(low > high for low, high in zip(ends[0], ends[1], strict=True)):
            raise ValueError(f"{option}: {name}: {spec}: give [low, high], the lower end first")
        return cls(ends[0], ends[1], int(step), integer, not isinstance(spec[0], list | tuple))

    def at(self, t: Tensor) -> Tensor:
        """The value between start and end at the times t (B,): float64 (B,) or (B, n)."""
        start, width = self._tensors(t)
        offset = t[:, None] * width
        return self._squeeze(start + ((offset / self.step).round() * self.step if self.integer else offset))

    def sample(self, u: Tensor) -> Tensor:
        """Uniform between start and end, from u (B, n) in [0, 1): float64 (B,) or (B, n)."""
        start, width = self._tensors(u)
        return self._squeeze(start + ((u * (width + 1)).floor().minimum(width) if self.integer else u * width))

    def to_python(self, value: Tensor) -> Any:
        """The value of one image, () or (n,), as Python numbers."""
        numbers = (value.round().long() if self.integer else value).tolist()
        return numbers if self.scalar else tuple(numbers)

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        start, end = (torch.tensor(n, dtype=torch.float64, device=like.device) for n in (self.start, self.end))
        return start, end - start

    def _squeeze(self, values: Tensor) -> Tensor:
        return values[:, 0] if self.scalar else values


class Transform(Degradation):
    """x_t = f(x; arguments at t), for a deterministic function f(images, …) on batches (B, C, H, W).

    For t < 1/T the image is blended with f at 1/T, so that D(x, 0) = x. A function without ``ranges`` is blended in
    over all of t: (1 − t) x + t f(x). Each image has its own arguments. f gets floating point arguments as tensors
    (B,), or (B, n) for lists of n numbers. It gets integers, and all numbers if its annotation has no tensors
    (torchvision), as Python numbers, in one call for each distinct value.

    Args:
        function: The import path, such as ``kornia.filters.motion_blur``; in Python also a callable.
        ranges: [start, end] of each argument that changes with t, its values at t = 0 and at t = 1. Two integers give
            integers unless f's annotation has no int; [start, end, step] gives integers a step apart: [1, 15, 2] for
            odd kernel sizes.
        random: [low, high] of each argument that is sampled uniformly for each image; from the integers, ends
            included, if both are integers.
        constants: The other arguments. Lists become tuples; a number for which f accepts a tensor too becomes one if
            other arguments are tensors.
        domain: The domain and range of f: images in [0, 1] (unit; they are clamped to it), or in [-1, 1] (signed).
        steps: T.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: Minimum σ_t for t ≥ 1/T.

    Raises:
        ValueError: There is no such function, it has no such argument or lacks one, or, when called, it fails or
            returns another shape.
    """

    def __init__(
        self,
        function: str | Callable[..., Tensor],
        ranges: dict[str, RangeSpec] | None = None,
        random: dict[str, RangeSpec] | None = None,
        constants: dict[str, Any] | None = None,
        domain: Literal["unit", "signed"] = "unit",
        steps: int = 20,
        noise: float = 0.0,
        noise_floor: float = 0.0,
    ) -> None:
        super().__init__(steps, noise, noise_floor)
        if domain not in ("unit", "signed"):
            raise ValueError(f"domain={domain!r}: choose unit ([0, 1]) or signed ([-1, 1])")
        self.name = function if isinstance(function, str) else getattr(function, "__qualname__", repr(function))
        self.function = _imported(function) if isinstance(function, str) else function
        self.ranges = {name: ArgumentRange.parse("ranges", name, spec) for name, spec in (ranges or {}).items()}
        self.random = {name: ArgumentRange.parse("random", name, spec) for name, spec in (random or {}).items()}
        self.constants = {
            name: tuple(value) if isinstance(value, list) else value for name, value in (constants or {}).items()
        }
        self.domain = domain
        self.has_unknown_params = bool(random)
        annotations = _annotations(self.function, self.name, [self.ranges, self.random, self.constants])
        self._python_args: dict[str, ArgumentRange] = {}  # cannot be tensors: one call for each distinct value
        for arguments in (self.ranges, self.random):
            for name, argument in arguments.items():
                types = _words(annotations.get(name, "int Tensor"))
                integer = argument.integer and ("int" in types or argument.step > 1)
                arguments[name] = argument = argument._replace(integer=integer)
                if argument.integer or "Tensor" not in types:
                    self._python_args[name] = argument
        # Kornia needs one angle and one direction per image, or one of both.
        self._broadcast_args: dict[str, Any] = {
            name: value
            for name, value in self.constants.items()
            if type(value) in (int, float) and {"float", "Tensor"} <= _words(annotations.get(name, ""))
        }

    def sample_operator_params(self, x: Tensor, generator: Generators) -> Params:
        """The random arguments, by name: (B,), or (B, n) for lists of n numbers."""
        params: Params = {}
        for name, argument in self.random.items():
            u = rng.uniform((len(x), len(argument.start)), generator).to(x.device, torch.float64)
            params[name] = argument.sample(u).to(torch.promote_types(x.dtype, torch.float32))
        return params

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """f(x), blended with x near t = 0."""
        u = to_grid(t, self.steps)
        fraction = u.clamp(max=1) if self.ranges else u / self.steps
        dtype = torch.promote_types(x.dtype, torch.float32)
        arguments = {name: argument.at(u.clamp(min=1) / self.steps) for name, argument in self.ranges.items()}
        if missing := next((name for name in self.random if name not in params), None):
            raise ValueError(f"Transform has a random {missing} and params has none: get params from sample_params(x)")
        arguments |= {name: params[name] for name in self.random}
        wide = x.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            changed = self._in_groups(to_unit(wide).clamp(0, 1) if self.domain == "unit" else wide, arguments)
        if self.domain == "unit":
            changed = from_unit(changed)
        weight = append_dims(fraction, wide)
        mixed = torch.where(weight < 1, wide + weight * (changed - wide), changed)
        return torch.where(weight > 0, mixed, wide).to(x.dtype)

    def _in_groups(self, images: Tensor, arguments: dict[str, Tensor]) -> Tensor:
        """f(images), with one call for each distinct set of Python arguments."""
        tensors = {name: value.to(images) for name, value in arguments.items() if name not in self._python_args}
        python = {name: value for name, value in arguments.items() if name in self._python_args}
        if tensors:
            tensors |= {name: images.new_full((len(images),), value) for name, value in self._broadcast_args.items()}
        if not python or len(images) == 0:
            return self._call(images, tensors)
        rows = torch.cat([value.double().reshape(len(images), -1) for value in python.values()], 1)
        _, group = rows.unique(dim=0, return_inverse=True)
        members = [(group == i).nonzero()[:, 0] for i in range(int(group.max()) + 1)]
        parts = []
        for chosen in members:
            numbers = {name: self._python_args[name].to_python(value[chosen[0]]) for name, value in python.items()}
            parts.append(self._call(images[chosen], {n: v[chosen] for n, v in tensors.items()} | numbers))
        return torch.cat(parts)[torch.cat(members).argsort()]

    def _call(self, images: Tensor, arguments: dict[str, Any]) -> Tensor:
        try:
            with float32_default():
                result = self.function(images, **{**self.constants, **arguments})
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the function may raise anything
            given = ", ".join(f"{n}={'a tensor' if isinstance(v, Tensor) else v}" for n, v in arguments.items())
            raise ValueError(
                f"{self.name}({given}) failed on images {tuple(images.shape)}: {' '.join(str(error).split())[:300]}; "
                "change ranges, random or constants: [1, 15, 2] in ranges gives odd integers, [1.0, 2.0] gives a tensor"
            ) from error
        if not isinstance(result, Tensor) or result.shape != images.shape:
            found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"{self.name} returned {found} for images {tuple(images.shape)}: a degradation keeps the shape, so "
                "choose arguments that keep it, or wrap the function in your own that pads or crops"
            )
        return result.to(images.dtype)


def _imported(path: str) -> Callable[..., Tensor]:
    """The callable of an import path."""
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name) if module_name else None
    except ImportError as error:
        raise ValueError(f"function={path!r}: cannot import {module_name} ({error}): give an import path") from error
    found = getattr(module, name, None)
    if not callable(found):
        near = difflib.get_close_matches(name, dir(module), 1) if module else []
        hint = f"did you mean {module_name}.{near[0]}?" if near else "give a path such as kornia.filters.motion_blur"
        raise ValueError(f"function={path!r} is not a function: {hint}")
    return found


def _annotations(function: Callable[..., Tensor], name: str, given: list[dict[str, Any]]) -> dict[str, str]:
    """The annotations of f's arguments as text, as far as it has any; checks that the given arguments fit."""
    names = [key for arguments in given for key in arguments]
    if twice := next((key for key in names if names.count(key) > 1), None):
        raise ValueError(f"{twice} is given twice: name each argument in only one of ranges, random and constants")
    if "noise" in given[1]:
        raise ValueError("random: noise is the name of a degradation's own z: wrap the function to rename the argument")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in functions may have none
        return {}
    arguments = list(signature.parameters.values())[1:]
    known = [argument.name for argument in arguments]
    remedy = (
        f"its arguments besides the images are {', '.join(known) or 'none'}: name them in ranges, random or constants"
    )
    unknown = next((key for key in names if key not in known), None)
    if unknown and not any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments):
        raise ValueError(f"{name} has no argument {unknown!r}: {remedy}")
    try:
        signature.bind(None, **dict.fromkeys(names))
    except TypeError as error:
        raise ValueError(f"{name}: {error}; {remedy}") from error
    return {a.name: str(a.annotation) for a in arguments if a.annotation is not inspect.Parameter.empty}


def _words(annotation: str) -> set[str]:
    return set(re.findall(r"\w+", annotation))
