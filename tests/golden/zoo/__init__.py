"""A zoo of small PyTorch networks that turn EMG windows into hand joint angles.

Every network takes [B, T, C] (or [B, C, T] when `channels_first`) and gives [B, T', J], [B, J, T'] or one pose [B, J].
All are deterministic, free of dropout, and the same in train and eval mode apart from batch norm.
"""

from . import (
    attention,
    convolutional,
    gradients,
    graph,
    mixture,
    mlp,
    recurrent,
    reparametrized,
    shaped_parameters,
    shared_weights,
    spectral,
    state_space,
)
from .base import BATCH, CHANNELS, JOINTS, WINDOW, Network

__all__ = ["BATCH", "CHANNELS", "JOINTS", "NETWORKS", "WINDOW", "Network"]

NETWORKS: dict[str, Network] = {
    **mlp.NETWORKS,
    **convolutional.NETWORKS,
    **recurrent.NETWORKS,
    **attention.NETWORKS,
    **state_space.NETWORKS,
    **spectral.NETWORKS,
    **graph.NETWORKS,
    **mixture.NETWORKS,
    **shared_weights.NETWORKS,
    **reparametrized.NETWORKS,
    **shaped_parameters.NETWORKS,
    **gradients.NETWORKS,
}
