"""Any image function as a degradation: one of Kornia, torchvision or a user's own, named by its import path."""

import difflib
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from diffusion_lightning import rng
from diffusion_lightning.degradations.base import Degradation
from diffusion_lightning.images import from_unit, to_unit
from diffusion_lightning.schedules import grid_position, per_image
from diffusion_lightning.types import Generators, Params

Number = int | float
Ends = list[Number | list[Number]]


class Span(NamedTuple):
    """Where an argument goes from and to: n numbers each, or one."""

    start: list[Number]
    end: list[Number]
    step: int
    whole: bool
    scalar: bool

    @classmethod
    def read(cls, given: str, name: str, ends: Ends) -> "Span":
        """[start, end] or [start, end, step] as a user gave it for the argument ``name``.

        Raises:
            ValueError: It is no such thing.
        """
        pairs = [list(end) if isinstance(end, list | tuple) else [end] for end in ends]
        step = pairs[2][0] if len(pairs) == 3 else 1
        if not 2 <= len(pairs) <= 3 or len(pairs[0]) != len(pairs[1]) or not pairs[0]:
            raise ValueError(f"{given}: {name}: {ends}: give two numbers, or two lists of as many numbers")
        whole = all(isinstance(number, int) for number in pairs[0] + pairs[1])
        if len(pairs) == 3 and not (whole and given == "ranges" and isinstance(step, int) and step > 0):
            raise ValueError(f"{given}: {name}: {ends}: a step is a positive whole number, in ranges of whole numbers")
        if given == "draws" and any(low > high for low, high in zip(pairs[0], pairs[1], strict=True)):
            raise ValueError(f"{given}: {name}: {ends}: give [low, high], the lower end first")
        return cls(pairs[0], pairs[1], int(step), whole, not isinstance(ends[0], list | tuple))

    def at(self, t: Tensor) -> Tensor:
        """On the way from start to end, at the times t (B,): float64 (B,) or (B, n)."""
        start, width = self._tensors(t)
        way = t[:, None] * width
        return self._shaped(start + ((way / self.step).round() * self.step if self.whole else way))

    def drawn(self, u: Tensor) -> Tensor:
        """Between start and end, from u (B, n) in [0, 1): float64 (B,) or (B, n)."""
        start, width = self._tensors(u)
        return self._shaped(start + ((u * (width + 1)).floor().minimum(width) if self.whole else u * width))

    def numbers(self, value: Tensor) -> Any:
        """The value of one image, () or (n,), as Python numbers."""
        numbers = (value.round().long() if self.whole else value).tolist()
        return numbers if self.scalar else tuple(numbers)

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        start, end = (torch.tensor(n, dtype=torch.float64, device=like.device) for n in (self.start, self.end))
        return start, end - start

    def _shaped(self, values: Tensor) -> Tensor:
        return values[:, 0] if self.scalar else values


class Transform(Degradation):
    """x_t = f(x; arguments of t), for f(images, …) on batches (B, C, H, W), which must be deterministic.

    Over t < 1/T the image is blended with f at 1/T, so that D(x, 0) = x; a function without ``ranges`` is blended in
    over all of t: (1 − t) x + t f(x). Each image has its own arguments. Floating point ones go to f as tensors (B,),
    or (B, n) for lists of n numbers. Whole numbers, and all numbers where f's annotation knows no tensors
    (torchvision), go to it as Python numbers, in one call for each distinct value.

    Args:
        function: The import path, such as ``kornia.filters.motion_blur``, or in Python a callable.
        ranges: [start, end] of each argument that moves with t, the value at t = 0 and at t = 1. Two whole numbers
            give whole numbers unless f's annotation knows no int, and [start, end, step] those a step apart:
            [1, 15, 2] for odd kernel sizes.
        draws: [low, high] of each argument drawn uniformly for each image; whole numbers, ends included, if both are.
        constants: The other arguments. Lists become tuples; a number for which f takes a tensor too becomes one where
            other arguments are tensors.
        domain: What f takes and gives: images in [0, 1] (unit; they are clamped to it), or in [-1, 1] (signed).
        steps: T.
        noise: σ_1 of a noise that grows linearly with t (warm diffusion).
        noise_floor: The least σ_t for t ≥ 1/T.

    Raises:
        ValueError: There is no such function, it has no such argument or lacks one, or, when called, it fails or
            gives another shape.
    """

    def __init__(
        self,
        function: str | Callable[..., Tensor],
        ranges: dict[str, Ends] | None = None,
        draws: dict[str, Ends] | None = None,
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
        self.ranges = {name: Span.read("ranges", name, ends) for name, ends in (ranges or {}).items()}
        self.draws = {name: Span.read("draws", name, ends) for name, ends in (draws or {}).items()}
        self.constants = {
            name: tuple(value) if isinstance(value, list) else value for name, value in (constants or {}).items()
        }
        self.domain = domain
        self.hidden_params = bool(draws)
        annotations = _annotations(self.function, self.name, [self.ranges, self.draws, self.constants])
        self._plain: dict[str, Span] = {}  # the arguments that cannot be a tensor: one call for each distinct value
        for spans in (self.ranges, self.draws):
            for name, span in spans.items():
                types = _words(annotations.get(name, "int Tensor"))
                spans[name] = span = span._replace(whole=span.whole and ("int" in types or span.step > 1))
                if span.whole or "Tensor" not in types:
                    self._plain[name] = span
        # Kornia wants one angle and one direction an image, or one of both.
        self._spread: dict[str, Any] = {
            name: value
            for name, value in self.constants.items()
            if type(value) in (int, float) and {"float", "Tensor"} <= _words(annotations.get(name, ""))
        }

    def draw(self, x: Tensor, generator: Generators) -> Params:
        """The drawn arguments, by name: (B,), or (B, n) for lists of n numbers."""
        params: Params = {}
        for name, span in self.draws.items():
            u = rng.uniform((len(x), len(span.start)), generator).to(x.device, torch.float64)
            params[name] = span.drawn(u).to(torch.promote_types(x.dtype, torch.float32))
        return params

    def operator(self, x: Tensor, t: Tensor, params: Params) -> Tensor:
        """f(x), blended with x near t = 0."""
        u = grid_position(t, self.steps)
        share = u.clamp(max=1) if self.ranges else u / self.steps
        dtype = torch.promote_types(x.dtype, torch.float32)
        arguments = {name: span.at(u.clamp(min=1) / self.steps) for name, span in self.ranges.items()}
        if missing := next((name for name in self.draws if name not in params), None):
            raise ValueError(f"Transform draws {missing} and params has none: take params from sample_params(x)")
        arguments |= {name: params[name] for name in self.draws}
        wide = x.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            changed = self._in_groups(to_unit(wide).clamp(0, 1) if self.domain == "unit" else wide, arguments)
        if self.domain == "unit":
            changed = from_unit(changed)
        weight = per_image(share, wide)
        mixed = torch.where(weight < 1, wide + weight * (changed - wide), changed)
        return torch.where(weight > 0, mixed, wide).to(x.dtype)

    def _in_groups(self, images: Tensor, arguments: dict[str, Tensor]) -> Tensor:
        """f(images), with one call for each distinct set of plain arguments."""
        tensors = {name: value.to(images) for name, value in arguments.items() if name not in self._plain}
        plain = {name: value for name, value in arguments.items() if name in self._plain}
        if tensors:
            tensors |= {name: images.new_full((len(images),), value) for name, value in self._spread.items()}
        if not plain or len(images) == 0:
            return self._call(images, tensors)
        rows = torch.cat([value.double().reshape(len(images), -1) for value in plain.values()], 1)
        _, group = rows.unique(dim=0, return_inverse=True)
        members = [(group == i).nonzero()[:, 0] for i in range(int(group.max()) + 1)]
        parts = []
        for chosen in members:
            numbers = {name: self._plain[name].numbers(value[chosen[0]]) for name, value in plain.items()}
            parts.append(self._call(images[chosen], {n: v[chosen] for n, v in tensors.items()} | numbers))
        return torch.cat(parts)[torch.cat(members).argsort()]

    def _call(self, images: Tensor, arguments: dict[str, Any]) -> Tensor:
        try:
            result = self.function(images, **{**self.constants, **arguments})
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a foreign function raises what it likes
            given = ", ".join(f"{n}={'a tensor' if isinstance(v, Tensor) else v}" for n, v in arguments.items())
            raise ValueError(
                f"{self.name}({given}) failed on images {tuple(images.shape)}: {' '.join(str(error).split())[:300]}; "
                "change ranges (odd numbers are [start, end, 2], tensors of 1 to 2 are [1.0, 2.0]), draws or constants"
            ) from error
        if not isinstance(result, Tensor) or result.shape != images.shape:
            found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"{self.name} made {found} of images {tuple(images.shape)}: a degradation keeps the shape, so choose "
                "arguments that keep it, or wrap the function in one of your own that pads or crops"
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
        raise ValueError(f"function={path!r} is no function: {hint}")
    return found


def _annotations(function: Callable[..., Tensor], name: str, given: list[dict[str, Any]]) -> dict[str, str]:
    """The annotations of f's arguments as text, where it has any; checks that the given ones fit."""
    names = [key for arguments in given for key in arguments]
    if twice := next((key for key in names if names.count(key) > 1), None):
        raise ValueError(f"{twice} is given twice: name each argument in one of ranges, draws and constants")
    if "noise" in given[1]:
        raise ValueError("draws: noise is what a degradation calls its own z: wrap the function to rename the argument")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in functions may have none
        return {}
    arguments = list(signature.parameters.values())[1:]
    known = [argument.name for argument in arguments]
    remedy = (
        f"its arguments besides the images are {', '.join(known) or 'none'}: name them in ranges, draws or constants"
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
