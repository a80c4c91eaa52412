"""The house of the package: what each folder may import, one idea per file, and the words of the field."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "diffusion_lightning"
NAME = PACKAGE.name

FOLDERS = {
    "core": "",
    "degradations": "core",
    "objectives": "core degradations",
    "data": "core degradations objectives",
    "networks": "",
    "conditioning": "core",
    "guidance": "core degradations",
    "priors": "core degradations",
    "samplers": "core degradations",
    "inverse": "core degradations samplers",
    "metrics": "core degradations data",
    "modules": "core degradations objectives conditioning guidance priors samplers inverse",
    "callbacks": "core degradations data metrics modules samplers",
    "commands": "core degradations networks conditioning data guidance metrics modules samplers inverse callbacks",
}
"""The folders from the ground up, and those that each of them imports: no others, and all of them.

A file also imports from its own folder, without a circle. ``commands/cli.py`` imports further folders for their class
names alone, and the package's own ``__init__`` and ``__main__`` show ``modules`` and ``commands``.
"""

FACES = {"": "core modules commands", "__main__": "commands", "commands.cli": "modules networks objectives priors"}
"""Modules that import further folders to show or to register what is in them."""

LONGEST = 300
"""Lines of a file. More than this is two ideas."""

PRIVATE_WORDS = re.compile(
    r"\b(told|untold|heard|hears|heeds|heeded|asked|forget|restorer|guess|guesses|pictures?|drawn|laws?)\b",
    re.IGNORECASE,
)
"""Words of the first release for conditions, where the field has its own."""

SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
every_file = pytest.mark.parametrize("file", SOURCES)


def module_name(file):
    """``samplers/base.py`` → ``samplers.base``; the ``__init__`` of a folder has the folder's name."""
    return ".".join(part for part in file.removesuffix(".py").split("/") if part != "__init__")


MODULES = {module_name(file): ast.parse(path.read_text(), file) for file, path in SOURCES.items()}


def folder_of(module):
    return module.split(".")[0]


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


def may_import(module, other):
    """Whether a module may import another: of its own folder, or of a folder in the list."""
    allowed = {*FOLDERS.get(folder_of(module), "").split(), *FACES.get(module, "").split()}
    return folder_of(other) in {folder_of(module), *allowed}


def test_every_folder_stands_in_the_list():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FOLDERS), "add the folder to FOLDERS in tests/test_house.py, and say what it imports"


def test_nothing_is_loose_at_the_root():
    files = {path.name for path in PACKAGE.iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "py.typed"}


def test_folders_import_folders_below_them_only():
    order = list(FOLDERS)
    upwards = [
        (folder, other)
        for folder, others in FOLDERS.items()
        for other in others.split()
        if order.index(other) >= order.index(folder)
    ]
    assert not upwards


@every_file
def test_a_file_imports_only_what_its_folder_may(file):
    module, is_package = module_name(file), file.endswith("__init__.py")
    wrong = [
        f"line {line}: {module or NAME} imports {other or NAME}"
        for other, line in imported(MODULES[module], module, is_package)
        if not may_import(module, other)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_all_that_the_list_says(folder):
    found = {
        folder_of(other)
        for module, tree in MODULES.items()
        if folder_of(module) == folder and module not in FACES
        for other, _ in imported(tree, module, is_package=module in FOLDERS)
    }
    assert found - {folder} == set(FOLDERS[folder].split())


def test_no_imports_form_a_circle():
    """Between files, without the ``__init__`` of folders, which only show what is in them."""
    faces = {module_name(file) for file in SOURCES if file.endswith("__init__.py")}
    arrows = {m: {o for o, _ in imported(t, m) if o not in faces} for m, t in MODULES.items() if m not in faces}
    while leaves := [module for module, others in arrows.items() if not others]:
        arrows = {m: others - set(leaves) for m, others in arrows.items() if m not in leaves}
    assert not arrows, f"in or behind a circle: {sorted(arrows)}"


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
def test_a_file_begins_with_a_docstring(file):
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
    "path",
    [
        *SOURCES.values(),
        *sorted((ROOT / "configs").rglob("*.yaml")),
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_texts_use_the_words_of_the_field(path):
    found = [f"line {n}: {line.strip()}" for n, line in enumerate(path.read_text().splitlines(), 1)
             if PRIVATE_WORDS.search(line)]  # fmt: skip
    assert not found, "write null condition, embedding, conditioned on, requested:\n" + "\n".join(found)


def test_names_of_tests_are_short():
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and len(node.name) >= 70
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("samplers.cold", "from diffusion_lightning.samplers.base import Sampler", True),
        ("samplers.cold", "from diffusion_lightning.samplers import base", True),
        ("samplers.cold", "from diffusion_lightning.modules import RestorationModule", False),
        ("samplers.cold", "from ..modules.restoration import RestorationModule", False),
        ("samplers.cold", "def f():\n    import diffusion_lightning.modules", False),
        ("core.tables", "from diffusion_lightning.core import rng", True),
        ("core.rng", "from diffusion_lightning.degradations.base import Degradation", False),
        ("degradations.base", "from diffusion_lightning import RestorationModule", False),
        ("callbacks.ema", "from diffusion_lightning.commands.trainer import DiffusionTrainer", False),
        ("commands.cli", "import diffusion_lightning.networks", True),
        ("commands.cli", "import torch.nn", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "is allowed" if value else "is rejected",
)
def test_the_import_check_tells_right_from_wrong(module, source, allowed):
    assert all(may_import(module, other) for other, _ in imported(ast.parse(source), module)) == allowed
