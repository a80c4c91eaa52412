"""The command line: LightningCLI's fit, validate, test and predict, and preview, generate, restore and compare.

Values come from the command line, else from YAML, else from the checkpoint's hyperparameters, else from the defaults.
"""

import inspect
import sys
import warnings
from argparse import SUPPRESS
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import get_loader
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from rich import get_console

# Short class names on the command line and in YAML are those of the imported subclasses.
import diffusion_lightning.modules
import diffusion_lightning.networks
import diffusion_lightning.objectives
import diffusion_lightning.priors  # noqa: F401
from diffusion_lightning.callbacks import ImageWriter, RestorationMetrics, TrainingCheckpoint
from diffusion_lightning.commands import import_checkpoint
from diffusion_lightning.commands.checkpoints import find_checkpoint
from diffusion_lightning.commands.configuration import CheckingParser, check_sizes, discarded_arguments, prepare_yaml
from diffusion_lightning.commands.curves import begin_curves
from diffusion_lightning.commands.errors import errors_on_one_line
from diffusion_lightning.commands.help import FIT_OPTIONS, IMPORT, PROGRAM, all_fields, help_text
from diffusion_lightning.commands.messages import (
    flag_value,
    hide_advertisements,
    merge_repeated_flags,
    shorten,
    take_flag,
)
from diffusion_lightning.commands.processes import watch_processes
from diffusion_lightning.commands.trainer import NEED_CHECKPOINT, OWN_COMMANDS, WITHOUT_DATA, DiffusionTrainer
from diffusion_lightning.core.checkpoint_files import use_whole_files
from diffusion_lightning.core.checkpoints import checked_arguments, load_matching_weights
from diffusion_lightning.core.interrupts import Interrupted, SignalHandler
from diffusion_lightning.core.loggers import guard
from diffusion_lightning.core.trust import trusting
from diffusion_lightning.data import DegradationDataModule

DEFAULT_MODULE = "diffusion_lightning.RestorationModule"


COMMANDS = LightningCLI.subcommands() | {name: {"model", "datamodule"} for name in OWN_COMMANDS}
"""Lightning's commands and ours, each with its arguments that are objects and not options."""


class Parser(CheckingParser):
    """Lightning's parser, with errors on one line."""

    checkpoint: tuple[str, str] | None = None
    """The checkpoint whose hyperparameters are the defaults, and the name of its module."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print which argument is wrong, and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        text = shorten(message)
        if Parser.checkpoint is not None and f"({Parser.checkpoint[1]})" in text:
            text += "; {} is the checkpoint of a {}".format(*Parser.checkpoint)
        sys.stderr.write(f"error: {text} (see {'--help-all' if text.startswith('--') else '--help'})\n")
        raise SystemExit(2)


class SaveConfig(SaveConfigCallback):
    """Lightning's, which replaces a link in the place of config.yaml and does not write to the file behind it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the configuration."""
        path = Path(trainer.log_dir or trainer.default_root_dir, self.config_filename)
        if trainer.is_global_zero and path.is_symlink():
            path.unlink()
        super().setup(trainer, pl_module, stage)


class DiffusionCLI(LightningCLI):
    """The LightningCLI of this package.

    Args:
        args: The arguments after the program's name; those of the process if None.
    """

    def __init__(self, args: ArgsType = None) -> None:
        self._current_subcommand = ""
        argv, trusted = take_flag("--trust", list(args) if isinstance(args, Sequence) else sys.argv[1:])
        self._requested = next((word for word in argv if word in COMMANDS), None)
        with trusting(trusted):
            super().__init__(
                LightningModule,
                DegradationDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                trainer_class=DiffusionTrainer,
                parser_class=Parser,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                save_config_callback=SaveConfig,
                save_config_kwargs={"overwrite": True},
                parser_kwargs={
                    "version": version(PROGRAM),
                    "description": metadata(PROGRAM)["Summary"],
                    "prog": PROGRAM,
                },
                args=argv,
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # of Lightning's static method
        """The command that the arguments name, with its arguments that are objects and not options; all if they do not.

        Lightning builds the parsers of all these commands, which takes longer than all else before a run.
        """
        return {self._requested: COMMANDS[self._requested]} if self._requested else COMMANDS

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        self._current_subcommand = subcommand
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in OWN_COMMANDS or subcommand == "predict":
            parser.set_defaults({"trainer.logger": False})
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Lightning's, with RestorationModule as the default model, and optional data for generate and restore."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=True)
        parser.set_defaults({"model": {"class_path": DEFAULT_MODULE}})
        own = [*inspect.signature(OWN_COMMANDS.get(self._current_subcommand, Trainer.fit)).parameters]
        if self._current_subcommand == "fit":
            parser.add_argument("--weights", type=str | None, default=None, help=FIT_OPTIONS["weights"])
            parser.add_argument("--raw_weights", type=bool, default=False, help=FIT_OPTIONS["raw_weights"])
            own += FIT_OPTIONS
        for name in ("ckpt_path", "weights_only", *FIT_OPTIONS):
            if name not in own:  # the config.yaml of a run has them, and all commands take that file
                parser.add_argument(f"--{name}", type=Any, help=SUPPRESS)
        required = self._current_subcommand not in WITHOUT_DATA
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True, required=required)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, with a checkpoint's hyperparameters as defaults, so that YAML and the command line override them."""
        Parser.checkpoint = None
        argv = merge_repeated_flags(list(args) if isinstance(args, Sequence) else sys.argv[1:])
        subcommand = next((word for word in argv if word in self._subcommand_parsers), None)
        path = flag_value("--ckpt_path", argv)
        keyword = path in ("last", "best", "hpc")
        helps = any(word == "--help" or word.partition("=")[0].endswith(".help") for word in argv)
        if (path is None or keyword) and subcommand in NEED_CHECKPOINT and not helps:
            raise ValueError(f"{subcommand} needs a trained model: give --ckpt_path the .ckpt file that `fit` wrote")
        if path is not None and subcommand is not None and not keyword:
            saved = checked_arguments(path)
            module = {"class_path": saved.get("_class_path", DEFAULT_MODULE)}
            Parser.checkpoint = path, module["class_path"].rpartition(".")[2]
            module["init_args"] = {name: value for name, value in saved.items() if not name.startswith("_")}
            self._subcommand_parsers[subcommand].set_defaults({"model": module})
        self.config = parser.parse_args(argv)
        if self.config.get("subcommand") == "fit":
            self._choose_start(argv)

    def _choose_start(self, argv: Sequence[str]) -> None:
        """Resume from a checkpoint or begin from its weights: the command line wins over YAML, which may have both."""
        options = self.config.fit
        if options.weights is None and flag_value("--raw_weights", argv) is not None:
            raise ValueError("--raw_weights chooses among the weights of --weights CKPT: give that too")
        if options.weights is not None and options.ckpt_path is not None:
            typed = [name for name in ("weights", "ckpt_path") if flag_value(f"--{name}", argv) is not None]
            if len(typed) != 1:
                raise ValueError(
                    f"--weights {options.weights} begins a new run and --ckpt_path {options.ckpt_path} continues one: "
                    "give one of them"
                )
            options["ckpt_path" if typed == ["weights"] else "weights"] = None

    def before_fit(self) -> None:
        """Begin from the weights of ``--weights``."""
        options = self.config_init.fit
        if options.weights is not None:
            matched = load_matching_weights(self.model, options.weights, options.raw_weights)
            if self.trainer.is_global_zero:
                text = f"Starting from {options.weights}: {matched.describe()}"
                get_console().print(text, soft_wrap=True, markup=False, highlight=False)

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint override the command line; ``parse_arguments`` has read it already."""

    def before_instantiate_classes(self) -> None:
        """Save the configuration of training runs only: other commands must not overwrite it."""
        config = self.config[self.subcommand]
        check_sizes(config)
        for path in config.get("config") or []:
            for text in discarded_arguments(get_loader("yaml")(path.get_content()), config):
                if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # set by Lightning
                    get_console().print(text, soft_wrap=True, markup=False, highlight=False)
        if self.subcommand != "fit":
            self.save_config_callback = None
            warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided")
            # Only a resumed run needs the best scores so far, which Lightning does not carry to another folder.
            warnings.filterwarnings("ignore", "The dirpath has changed")

    def instantiate_trainer(self, **kwargs: Any) -> DiffusionTrainer:
        """Log into ``default_root_dir`` itself, if given, not into a numbered folder; `predict` writes image files."""
        settings = self.config_init[self.subcommand].trainer
        if settings.default_root_dir is not None and settings.logger in (None, True):
            folder = str(settings.default_root_dir)
            kwargs["logger"] = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
        trainer = super().instantiate_trainer(**kwargs)
        watch_processes(trainer)
        for logger in trainer.loggers:
            guard(logger)
        use_whole_files(trainer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if self.subcommand == "predict":
            callbacks.append(ImageWriter())
        kept = any(isinstance(callback, TrainingCheckpoint) for callback in callbacks)
        if self.subcommand == "fit" and trainer.checkpoint_callbacks and not kept:
            callbacks.append(TrainingCheckpoint())
        return trainer  # type: ignore[return-value]

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand in ("validate", "test"):
            kwargs["verbose"] &= not self._has_own_table()  # Lightning's table would repeat its scores
        if kwargs.get("ckpt_path") in ("last", "best"):
            kwargs["ckpt_path"] = find_checkpoint(self.trainer, kwargs["ckpt_path"], subcommand == "fit")
        if subcommand == "fit":
            begin_curves(self.trainer, kwargs.get("ckpt_path"))
        return kwargs

    def after_validate(self) -> None:
        """Print the scores that no table of our own has."""
        self._print_losses()

    def after_test(self) -> None:
        """Print the scores that no table of our own has."""
        self._print_losses()

    def _print_losses(self) -> None:
        if self.trainer.is_global_zero and self._has_own_table():
            for name, value in self.trainer.callback_metrics.items():
                if name.count("/") == 1:  # not of one state, such as val/rmse/sampled
                    get_console().print(f"{name} {value:.4g}")

    def _has_own_table(self) -> bool:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return any(isinstance(callback, RestorationMetrics) for callback in callbacks)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends in one line and status 1 or 2.

    Args:
        args: The arguments after the program's name; those of the process if None.
    """
    argv = list(args) if args is not None else sys.argv[1:]
    if (text := help_text(argv)) is not None:
        sys.stdout.write(text + "\n")
        raise SystemExit(0 if argv else 2)
    hide_advertisements()
    prepare_yaml()
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", "Couldn't infer the batch indices")  # batches have their own index
    signals = SignalHandler()
    signals.install()
    try:
        with errors_on_one_line():
            if argv[:1] == [IMPORT]:
                import_checkpoint.main(argv[1:])
                return
            if "--help-all" in argv:
                _print_all_help(argv)
            DiffusionCLI(argv)
    except Interrupted as interruption:
        if not interruption.reported and rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # set by Lightning
            sys.stderr.write(f"{interruption}\n")
        raise
    finally:
        signals.restore()


def _print_all_help(argv: Sequence[str]) -> NoReturn:
    """LightningCLI's help, and the fields of the model and the data, which it does not list."""
    command = [word for word in argv if word in COMMANDS][:1]
    with suppress(SystemExit):
        DiffusionCLI([*command, "--help"])
    sys.stdout.write(f"{all_fields(argv)}\n" if command else "")
    raise SystemExit(0)
