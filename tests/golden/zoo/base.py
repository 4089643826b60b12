"""The sizes that all networks share, and what is known of each."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

CHANNELS, JOINTS, BATCH, WINDOW = 4, 3, 4, 40


@dataclass(frozen=True)
class Network:
    """How to build a network, and how it reads its window.

    The output lacks its first `context` samples. `note` is "detach" for a network whose gradients TorchScript's
    exporter gets wrong, as it drops detach() and no_grad(), and "no_grad" if the dynamo exporter does so too.
    """

    make: Callable[[], nn.Module]
    channels_first: bool = False
    context: int = 0
    note: str = ""
