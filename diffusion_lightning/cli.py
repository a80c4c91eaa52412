"""The command line: LightningCLI's fit, validate, test and predict, and preview, generate, restore and compare.

Values come from the command line, else from YAML, else from the checkpoint's hyperparameters, else from the defaults.
"""

import inspect
import os
import pickle
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

# Short class names on the command line and in YAML are those of the imported subclasses.
import diffusion_lightning.bounds
import diffusion_lightning.callbacks
import diffusion_lightning.conditioning
import diffusion_lightning.denoisers
import diffusion_lightning.learned_variance
import diffusion_lightning.metrics  # noqa: F401
from diffusion_lightning.callbacks import PictureWriter
from diffusion_lightning.commands import gathered, one_line, value_of
from diffusion_lightning.data import DegradationDataModule
from diffusion_lightning.module import RestorationModule
from diffusion_lightning.trainer import DiffusionTrainer

WITHOUT_DATA = ("generate", "restore")
OF_A_CHECKPOINT = ("generate", "restore", "compare")
WITHOUT_LOGS = ("generate", "restore", "preview", "compare", "predict")


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Say what is wrong with which argument, and leave with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"error: {one_line(message)} (see --help)\n")
        raise SystemExit(2)


class DiffusionCLI(LightningCLI):
    """The LightningCLI of this package.

    Args:
        args: The words after the program's name; those of the process if None.
        module: The class of the model.
    """

    def __init__(self, args: ArgsType = None, module: type[LightningModule] = RestorationModule) -> None:
        self._subcommand_in_making = ""
        super().__init__(
            module,
            DegradationDataModule,
            subclass_mode_data=True,
            trainer_class=DiffusionTrainer,
            parser_class=Parser,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"version": version("diffusion-lightning")},
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's without tune, and ours; the arguments that are objects are left out."""
        ours = {"generate", "restore", "preview", "compare"}
        return LightningCLI.subcommands() | {name: {"model", "datamodule"} for name in ours}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        self._subcommand_in_making = subcommand
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in WITHOUT_LOGS:
            parser.set_defaults({"trainer.logger": False})
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Lightning's, with data that generate and restore can do without."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(self._model_class, "model")
        required = self._subcommand_in_making not in WITHOUT_DATA
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True, required=required)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Let a checkpoint's hyperparameters be the defaults, so that YAML and the command line override them."""
        words = gathered(list(args) if isinstance(args, Sequence) else sys.argv[1:])
        path = value_of("--ckpt_path", words)
        subcommand = next((word for word in words if word in self._subcommand_parsers), None)
        keyword = path in ("last", "best", "hpc")
        if (path is None or keyword) and subcommand in OF_A_CHECKPOINT and not {"--help", "-h"} & set(words):
            raise ValueError(f"{subcommand} needs a trained model: give --ckpt_path the .ckpt file that `fit` wrote")
        if path is not None and subcommand is not None and not keyword:
            defaults = {f"model.{key}": value for key, value in _hyperparameters(path).items()}
            known = {f"model.{name}" for name in inspect.signature(self._model_class).parameters}
            if foreign := next((key for key in defaults if key not in known), None):
                raise ValueError(
                    f"{path} has {foreign}, which {self._model_class.__name__} does not: use the command line that "
                    "made it, as python -m diffusion_lightning.adversarial"
                )
            self._subcommand_parsers[subcommand].set_defaults(defaults)
        self.config = parser.parse_args(words)

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint override the command line; ``parse_arguments`` has read it already."""

    def before_instantiate_classes(self) -> None:
        """Save the configuration of a training run only: what follows must not replace it."""
        if self.subcommand != "fit":
            self.save_config_callback = None
            # Only a run that goes on misses the best scores so far, which Lightning does not take to another folder.
            warnings.filterwarnings("ignore", "The dirpath has changed")

    def instantiate_trainer(self, **kwargs: Any) -> DiffusionTrainer:
        """Log into ``default_root_dir`` itself, if given, not a numbered folder below it; `predict` writes pictures."""
        settings = self.config_init[self.subcommand].trainer
        if settings.default_root_dir is not None and settings.logger in (None, True):
            folder = str(settings.default_root_dir)
            kwargs["logger"] = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
        trainer = super().instantiate_trainer(**kwargs)
        if self.subcommand == "predict":
            trainer.callbacks.append(PictureWriter())  # type: ignore[attr-defined]
        return trainer  # type: ignore[return-value]


def main(args: Sequence[str] | None = None, module: type[LightningModule] = RestorationModule) -> None:
    """Run the command line; bad input ends in one line and status 1 or 2.

    Args:
        args: The words after the program's name; those of the process if None.
        module: The class of the model.
    """
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided")
    warnings.filterwarnings("ignore", "Couldn't infer the batch indices")  # pictures carry their own index
    try:
        DiffusionCLI(list(args) if args is not None else None, module)
    except (ValueError, OSError, MisconfigurationException, RuntimeError) as error:
        unfit = isinstance(error, RuntimeError) and "loading state_dict" in str(error)
        unforeseen = isinstance(error, RuntimeError) and not unfit
        if unforeseen or os.environ.get("DIFFUSION_LIGHTNING_TRACEBACK"):
            raise
        remedy = "the checkpoint does not fit the network: give the model the arguments that it was trained with"
        sys.stderr.write(f"error: {remedy if unfit else one_line(str(error))}\n")
        raise SystemExit(1) from error


def _hyperparameters(path: str) -> dict[str, Any]:
    """What the command line said when the checkpoint was made.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no checkpoint of this package.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: give the path of a .ckpt file that `fit` wrote")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if "state_dict" not in checkpoint:
            raise KeyError("state_dict")
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint: give a .ckpt file that `fit` wrote") from error
    return {key: value for key, value in checkpoint.get("hyper_parameters", {}).items() if not key.startswith("_")}
