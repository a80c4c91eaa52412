"""Settings of the whole test suite: the same hypothesis examples in every run, none timed, and one thread of torch."""

import torch
from hypothesis import settings

# Threads wait for each other at every small operation: where the cores are shared that takes ten times as long.
torch.set_num_threads(1)

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")
