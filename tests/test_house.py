"""The house of DESIGN.md, section 3, enforced on the source: floors, file sizes, and what the library must not do."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "diffusion_lightning"
NAME = PACKAGE.name

FLOORS = {
    "conditions": 0,
    "hyperparameters": 0,
    "types": 0,
    "rng": 0,
    "images": 0,
    "sheets": 0,
    "schedules": 0,
    "noise_schedules": 0,
    "datasets.captions": 0,
    "datasets.split": 0,
    "datasets": 1,
    "degradations.base": 1,
    "degradations.separable": 1,
    "degradations.noise": 1,
    "degradations.snow": 1,
    "degradations.corruptions.source": 0,
    "degradations.corruptions": 1,
    "degradations": 2,
    "denoisers.blocks": 0,
    "denoisers.stages": 1,
    "denoisers": 2,
    "conditioning.base": 2,
    "conditioning.vocabulary": 2,
    "conditioning.guidance": 2,
    "conditioning": 3,
    "times": 2,
    "posterior": 1,
    "parameterization": 2,
    "learned_variance": 2,
    "bounds": 2,
    "losses": 2,
    "priors": 2,
    "samplers.grids": 2,
    "samplers.base": 2,
    "samplers.ddim": 2,
    "samplers": 3,
    "metrics": 3,
    "module": 4,
    "data.degrade": 4,
    "data": 5,
    "callbacks": 5,
    "cascade": 6,
    "commands": 6,
    "trainer": 7,
    "cli": 8,
    "__main__": 9,
    "adversarial": 9,
    "classifier": 9,
    "": 6,
}
"""The floor of each module, or of each folder for the files in it that are not named; "" is the package's front door.

Within DESIGN's floor 6 the files stand in their order there: the command line on top of the trainer.
"""

BASES = {"conditions", "types", "images", "schedules", "samplers.grids", "parameterization", "losses"}
"""Modules besides those called ``base`` that their own floor may import."""

LONGEST = 250
"""Lines of a file. One idea a file is 60-250 lines; more than this is two ideas."""

SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
every_file = pytest.mark.parametrize("file", SOURCES)


def module_name(file):
    """``samplers/base.py`` → ``samplers.base``; a folder's ``__init__`` has the folder's name."""
    return ".".join(part for part in file.removesuffix(".py").split("/") if part != "__init__")


MODULES = {module_name(file): ast.parse(path.read_text(), file) for file, path in SOURCES.items()}


def floor(module):
    """The floor of the longest prefix in ``FLOORS``, or None."""
    parts = module.split(".") if module else []
    for length in range(len(parts), 0, -1):
        if (found := FLOORS.get(".".join(parts[:length]))) is not None:
            return found
    return None if parts else FLOORS[""]


def imported(tree, module, is_package=False):
    """Every module of the package that a source imports, wherever the import stands: yields (name, line)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == NAME or alias.name.startswith(NAME + "."):
                    yield alias.name.removeprefix(NAME).removeprefix("."), node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                parts = module.split(".") if module else []
                above = len(parts) - node.level + is_package
                origin = ".".join([*parts[:above], *([node.module] if node.module else [])])
            elif node.module == NAME or (node.module or "").startswith(NAME + "."):
                origin = node.module.removeprefix(NAME).removeprefix(".")
            else:
                continue
            for alias in node.names:
                inner = f"{origin}.{alias.name}".removeprefix(".")
                yield (inner if inner in MODULES else origin), node.lineno


def may_import(module, other, is_package=False):
    """Imports go down, or to a base on the same floor; a folder's front door shows what is inside it.

    What runs as ``python -m`` may import itself under its own name.
    """
    if other == module:
        return True
    if is_package and (module == "" or other.startswith(module + ".")):
        return True
    if floor(other) == floor(module):
        return other.split(".")[-1] == "base" or other in BASES
    return floor(other) < floor(module)


@every_file
def test_every_module_has_a_floor(file):
    assert floor(module_name(file)) is not None, (
        f"add {module_name(file)} to FLOORS in tests/test_house.py (DESIGN.md §3)"
    )


@every_file
def test_imports_go_down_or_to_a_base_on_the_same_floor(file):
    module, is_package = module_name(file), file.endswith("__init__.py")
    wrong = [
        f"line {line}: {module or NAME} (floor {floor(module)}) imports {other or NAME} (floor {floor(other)})"
        for other, line in imported(MODULES[module], module, is_package)
        if floor(other) is not None and not may_import(module, other, is_package)
    ]
    assert not wrong, "\n".join(wrong)


@every_file
def test_imports_name_lightning_by_its_new_name(file):
    names = {
        name.split(".")[0]
        for node in ast.walk(MODULES[module_name(file)])
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "pytorch_lightning" not in names, "import lightning.pytorch: the two packages' classes are not the same"


@every_file
def test_a_file_holds_one_idea(file):
    lines = len(SOURCES[file].read_text().splitlines())
    assert lines <= LONGEST, f"{file} has {lines} lines: it holds two ideas, make it two files"
    assert Path(file).stem not in ("utils", "helpers", "misc", "common"), (
        "a helper lives with its user or in a named module"
    )


@every_file
def test_a_file_says_what_it_is_in_its_first_line(file):
    docstring = ast.get_docstring(MODULES[module_name(file)])
    assert docstring, "a module's first line says what it is and where it comes from"


@every_file
def test_the_library_neither_prints_nor_names_a_device(file):
    calls = [node for node in ast.walk(MODULES[module_name(file)]) if isinstance(node, ast.Call)]
    prints = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    moves = [c.lineno for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "cuda"]
    assert not prints, f"print on line {prints}: use rich or the log"
    assert not moves, f".cuda() on line {moves}: use .to(x.device)"


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("samplers.cold", "from diffusion_lightning.samplers.base import Sampler", True),
        ("samplers.cold", "from diffusion_lightning.samplers import base", True),
        ("samplers.cold", "from diffusion_lightning.samplers.langevin import AnnealedLangevin", False),
        ("samplers.cold", "from .langevin import AnnealedLangevin", False),
        ("samplers.cold", "def f():\n    import diffusion_lightning.modules.restoration", False),
        ("schedules", "from diffusion_lightning import rng", False),
        ("rng", "from diffusion_lightning.types import Params", True),
        ("degradations.blur", "from diffusion_lightning.degradations.separable import Separable", True),
        ("degradations.base", "from diffusion_lightning.degradations import GaussianBlur", False),
        ("callbacks.ema", "from diffusion_lightning.callbacks.base import Watch", True),
        ("callbacks.ema", "from diffusion_lightning.trainer import Trainer", False),
        ("cli", "import torch.nn", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "is allowed" if value else "is refused",
)
def test_the_floor_check_tells_right_from_wrong(module, source, allowed):
    assert all(may_import(module, other) for other, _ in imported(ast.parse(source), module)) == allowed
