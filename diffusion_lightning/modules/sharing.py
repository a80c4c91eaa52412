"""Saving a module as a folder to share, and loading one from a folder or from the Hugging Face hub."""

import io
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from diffusion_lightning.core.checkpoints import build_frozen
from diffusion_lightning.core.images import atomic_write, save_image
from diffusion_lightning.core.pretrained import read_pretrained, write_pretrained
from diffusion_lightning.core.trust import check_hyperparameters, trusting
from diffusion_lightning.core.visualization import image_grid
from diffusion_lightning.modules.model_card import CARD, SAMPLES, model_card


class Shareable(LightningModule):
    """A module that knows the arguments it was built from, and can be saved with them as a folder."""

    _saved_arguments: dict[str, Any] | None = None

    def save_pretrained(
        self,
        folder: str | Path,
        data: str = "",
        scores: Mapping[str, float] | None = None,
        license: str = "",
        images: Tensor | None = None,
    ) -> Path:
        """Save the module as a folder: its weights as they are, how it was built, and a model card, README.md.

        Parts that were replaced since, such as the sampler of ``sampling``, are saved as they were built.

        Args:
            folder: The folder; it is made if it is missing, and its files of these names are replaced.
            data: What the model was trained on, in one sentence.
            scores: Its scores on held-out images, by name.
            license: The licence of the weights, as the hub names it, such as ``mit``.
            images: Images that the model made, (B, C, H, W) in [-1, 1], for a grid in the model card.

        Returns:
            The folder.

        Raises:
            ValueError: The module was built in Python from live parts, which no file can express.
        """
        checkpoint = {"state_dict": self.state_dict(), "hyper_parameters": self._arguments()}
        self.on_save_checkpoint(checkpoint)
        write_pretrained(folder, checkpoint)
        Path(folder, SAMPLES).unlink(missing_ok=True)
        if images is not None:
            save_image(image_grid(images), Path(folder, SAMPLES))
        parameters = sum(p.numel() for p in self.parameters())
        card = model_card(checkpoint["hyper_parameters"], parameters, data, scores or {}, license, images is not None)
        atomic_write(Path(folder, CARD), lambda path: path.write_text(card, encoding="utf-8"))
        return Path(folder)

    @classmethod
    def from_pretrained(cls, source: str | Path, trust: Iterable[str] = (), revision: str | None = None) -> Self:
        """Load a module for inference: in eval mode, its weights without gradients.

        Args:
            source: A folder that ``save_pretrained`` wrote; or, if there is none of this name, a repository of the
                hub, such as ``user/model``, which is downloaded (extra ``hub``).
            trust: Further packages whose classes and functions the folder may name; see ``core.trust``.
            revision: The branch, tag or commit of the repository; its newest state if None.

        Raises:
            FileNotFoundError: There is no such folder or repository, or it lacks a file.
            ValueError: A file is damaged, names what it may not, or holds another kind of module.
        """
        folder = Path(source) if Path(source).is_dir() else _download(str(source), revision)
        checkpoint = read_pretrained(folder)
        with trusting(trust):
            arguments = check_hyperparameters(checkpoint["hyper_parameters"], folder)
        file = io.BytesIO()
        torch.save(checkpoint, file)
        file.seek(0)
        module = build_frozen(file, arguments, folder)
        if not isinstance(module, cls):
            raise ValueError(f"{folder} holds a {type(module).__name__}: load it by {type(module).__name__}")
        return module

    def push_to_hub(self, repo_id: str, private: bool = False, **card: Any) -> str:
        """Save the module and upload the folder to the Hugging Face hub (extra ``hub``, after ``hf auth login``).

        Args:
            repo_id: The repository, such as ``user/model``; it is made if it is missing.
            private: Whether a new repository is private.
            **card: The arguments of ``save_pretrained`` for the model card.

        Returns:
            The address of the upload.
        """
        api = _hub().HfApi()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **card)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the arguments that the module was built from."""
        super().on_load_checkpoint(checkpoint)
        self._saved_arguments = checkpoint.get("hyper_parameters")

    def discard_arguments(self) -> None:
        """Discard the arguments of the checkpoint, of which the caller has replaced some."""
        self._saved_arguments = None

    def _arguments(self) -> dict[str, Any]:
        for arguments in (dict(self.hparams), self._saved_arguments or {}):
            if "_class_path" in arguments:
                return arguments
        raise ValueError(
            f"this {type(self).__name__} was built in Python from live parts, which a folder cannot express: share a "
            "model that the command line trained, or Lightning's checkpoint"
        )


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("the hub needs the extra `hub`: pip install 'diffusion-lightning[hub]'") from error
    return huggingface_hub


def _download(source: str, revision: str | None) -> Path:
    """The folder of a repository of the hub, downloaded or cached."""
    parts = source.split("/")
    if len(parts) != 2 or not all(parts) or source.startswith((".", "~")):
        raise FileNotFoundError(f"there is no folder {source}, and a repository of the hub is named user/model")
    hub = _hub()
    try:
        return Path(hub.snapshot_download(source, revision=revision, allow_patterns=["*.safetensors", "*.yaml"]))
    except Exception as error:  # of the network, of the hub, or of the name
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"there is no folder {source}, and the hub has not given it: {reason}") from error
