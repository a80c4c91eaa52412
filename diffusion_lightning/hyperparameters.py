"""What of a module's arguments goes into its checkpoints: what YAML can say, and no live objects."""

import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def modules_as_arguments() -> Iterator[None]:
    """Without Lightning's advice, in ``save_hyperparameters``, to ignore the arguments that are modules.

    Under the command line these hold YAML, which the checkpoint needs.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute '.*' is an instance of `nn.Module`")
        yield


def drop_live_objects(hparams: MutableMapping[str, Any]) -> None:
    """Keep only what YAML could say: a module built in Python would pickle its parts into every checkpoint."""
    plain = (bool, int, float, str, dict, list, tuple, type(None))
    for name in [name for name, value in hparams.items() if not isinstance(value, plain)]:
        del hparams[name]
