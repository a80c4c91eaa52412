"""Settings of the suite: the same hypothesis examples in every run, none timed; one thread; slow tests first."""

import pytest
import torch
from hypothesis import settings

# Threads wait for each other at every small operation: where the cores are shared that takes ten times as long.
torch.set_num_threads(1)

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first: at the end they would run alone, beside idle workers."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
