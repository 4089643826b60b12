"""Multi-layer perceptrons."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CHANNELS, JOINTS, WINDOW, Network


class Mlp(nn.Module):
    """Plain per-sample perceptron with a mix of activations."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(CHANNELS, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ELU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, JOINTS),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MlpActivations(nn.Module):
    """One linear layer per activation: PReLU (shared and per channel), Mish, Hardswish, Softplus, SELU and friends."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        activations = [
            nn.PReLU(),
            nn.Mish(),
            nn.Hardswish(),
            nn.Softplus(),
            nn.SELU(),
            nn.LeakyReLU(0.1),
            nn.SiLU(),
            nn.Hardsigmoid(),
            nn.Softsign(),
            nn.GELU(approximate="tanh"),
            nn.LogSigmoid(),
            nn.Tanhshrink(),
        ]
        self.embed = nn.Linear(CHANNELS, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in activations)
        self.activations = nn.ModuleList(activations)
        self.head = nn.Linear(hidden, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer, activation in zip(self.layers, self.activations, strict=True):
            x = x + activation(layer(x))
        return self.head(x)


class MlpLimits(nn.Module):
    """Residual perceptron with layer norms; a sigmoid scaled into joint limits held as buffers."""

    lower: Tensor
    upper: Tensor

    def __init__(self, hidden: int = 12, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden))
            for _ in range(depth)
        )
        self.head = nn.Linear(hidden, JOINTS)
        self.register_buffer("lower", torch.tensor([-0.5, -1.0, 0.0]))
        self.register_buffer("upper", torch.tensor([1.5, 1.0, 1.2]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.lower + (self.upper - self.lower) * torch.sigmoid(self.head(x))


class MlpPose(nn.Module):
    """Window statistics (mean absolute value, RMS, waveform length, std) to one pose [B, J]."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4 * CHANNELS, hidden), nn.LayerNorm(hidden), nn.Tanh(), nn.Linear(hidden, JOINTS)
        )

    def forward(self, x: Tensor) -> Tensor:
        mav = x.abs().mean(dim=1)
        rms = (x.square().mean(dim=1) + 1e-6).sqrt()
        length = (x[:, 1:] - x[:, :-1]).abs().sum(dim=1) / x.shape[1]
        return self.layers(torch.cat([mav, rms, length, x.std(dim=1)], dim=-1))


class MlpMixer(nn.Module):
    """MLP-mixer over patches of five samples; the head unfolds each patch into its five poses."""

    patch = 5

    def __init__(self, width: int = 8, depth: int = 2) -> None:
        super().__init__()
        tokens = WINDOW // self.patch
        self.embed = nn.Linear(self.patch * CHANNELS, width)
        self.token_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.token_mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(tokens, 12), nn.GELU(), nn.Linear(12, tokens)) for _ in range(depth)
        )
        self.channel_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.channel_mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, self.patch * JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.embed(x.reshape(batch, -1, self.patch * CHANNELS))
        blocks = zip(self.token_norms, self.token_mlps, self.channel_norms, self.channel_mlps, strict=True)
        for token_norm, token_mlp, channel_norm, channel_mlp in blocks:
            x = x + token_mlp(token_norm(x).transpose(1, 2)).transpose(1, 2)
            x = x + channel_mlp(channel_norm(x))
        return self.head(x).reshape(batch, WINDOW, JOINTS)


class RmsNormNetwork(nn.Module):
    """nn.RMSNorm before a SwiGLU."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.norm = nn.RMSNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)
        self.head = nn.Linear(width, JOINTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        gate, value = self.up(self.norm(x)).chunk(2, dim=-1)
        return self.head(x + self.down(F.silu(gate) * value))


class LogSoftmaxBins(nn.Module):
    """Angles as expectations over bins: log-softmax, exp and a buffer of bin centers; also its entropy as a feature."""

    centers: Tensor

    def __init__(self, bins: int = 7) -> None:
        super().__init__()
        self.hidden = nn.Linear(CHANNELS, 10)
        self.logits = nn.Linear(10, JOINTS * bins)
        self.sharpness = nn.Parameter(torch.zeros(JOINTS))
        self.register_buffer("centers", torch.linspace(-1, 1, bins))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.logits(F.softplus(self.hidden(x))).unflatten(-1, (JOINTS, -1))
        log_p = F.log_softmax(logits, dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        return log_p.exp() @ self.centers - self.sharpness * entropy


class FingerKinematics(nn.Module):
    """Fingertip position by learned segment lengths, its target reached by one gradient-like correction of angles."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.angles = nn.Sequential(nn.Linear(CHANNELS, hidden), nn.Tanh(), nn.Linear(hidden, JOINTS))
        self.target = nn.Linear(CHANNELS, 2)
        self.log_lengths = nn.Parameter(torch.log(torch.tensor([0.5, 0.3, 0.2])))
        self.rate = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        angles = self.angles(x)
        total, lengths = angles.cumsum(dim=-1), self.log_lengths.exp()
        xs, ys = lengths * total.cos(), lengths * total.sin()
        error = torch.stack([xs.sum(-1), ys.sum(-1)], dim=-1) - self.target(x)
        tail_x, tail_y = xs.flip(-1).cumsum(-1).flip(-1), ys.flip(-1).cumsum(-1).flip(-1)
        gradient = error[..., 1:] * tail_x - error[..., :1] * tail_y
        return angles - self.rate * gradient


class MlpInputs(nn.Module):
    """Takes everything that a network may: a pose to start from, and the recording's EMG statistics; normalizes by itself."""

    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, hidden)
        self.gain = nn.Linear(2 * CHANNELS, hidden)
        self.start = nn.Linear(JOINTS, hidden)
        self.head = nn.Linear(hidden, JOINTS)

    def forward(self, x: Tensor, emg_std: Tensor, initial_pose: Tensor, emg_mean: Tensor) -> Tensor:
        y = self.embed((x - emg_mean.unsqueeze(1)) / emg_std.unsqueeze(1))
        gain = self.gain(torch.cat([emg_mean / emg_std, emg_std.log()], dim=1)) + self.start(initial_pose)
        return self.head(F.gelu(y + gain.unsqueeze(1))) + initial_pose.unsqueeze(1)


NETWORKS = {
    "mlp": Network(Mlp),
    "mlp_activations": Network(MlpActivations),
    "mlp_limits": Network(MlpLimits),
    "mlp_pose": Network(MlpPose),
    "mlp_inputs": Network(MlpInputs),
    "mlp_mixer": Network(MlpMixer),
    "rms_norm": Network(RmsNormNetwork),
    "log_softmax_bins": Network(LogSoftmaxBins),
    "finger_kinematics": Network(FingerKinematics),
}
