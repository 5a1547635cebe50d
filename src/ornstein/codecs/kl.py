"""KL: a small convolutional variational autoencoder, the first stage of latent diffusion.

High-Resolution Image Synthesis with Latent Diffusion Models, Rombach, Blattmann, Lorenz, Esser, Ommer, 2021,
arXiv:2112.10752 (section 3.1 and appendix G); Auto-Encoding Variational Bayes, Kingma, Welling, 2013, arXiv:1312.6114:

    q(u|x) = N(mu(x), sigma(x)^2),   z = (mu(x) - m) / d,   x' = D(z d + m)

with m, d the mean and standard deviation of mu per channel over the training data, stored with the weights: diffusion
then sees latents of unit size (the paper's scale factor, here per channel). `encode` gives the mode, or a draw for
given noise. Trained by recipes/train_kl.py. Cost: convolutions at full resolution; a sample becomes factor^2 C / latent
times smaller.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError
from ornstein.core.record import write_atomic

__all__ = ["KL", "load"]


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the last convolution zero at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class KL(nn.Module):
    """Pictures [B, channels, H, W] <-> latents [B, latent, H / factor, W / factor]."""

    n_dim = 2

    def __init__(self, channels: int = 3, latent: int = 4, factor: int = 4, width: int = 32, blocks: int = 1) -> None:
        """factor: a power of two; width: channels at full resolution (a multiple of 4), doubled at each halving up to
        four times as many; blocks: residual blocks a resolution."""
        super().__init__()
        halvings = factor.bit_length() - 1
        if factor < 1 or factor != 2**halvings or width % 4:
            raise OrnsteinError(f"KL with factor={factor}, width={width}", "factor: a power of 2; width: 4 k.")
        self.config = {"channels": channels, "latent": latent, "factor": factor, "width": width, "blocks": blocks}
        widths = [width * min(4, 2**k) for k in range(halvings + 1)]
        down, up = [nn.Conv2d(channels, width, 3, padding=1)], [nn.Conv2d(latent, widths[-1], 3, padding=1)]
        for here, below in zip(widths, widths[1:]):
            down += [*(Residual(here) for _ in range(blocks)), nn.Conv2d(here, below, 3, 2, 1)]
        down += [*(Residual(widths[-1]) for _ in range(blocks)), nn.GroupNorm(4, widths[-1]), nn.SiLU()]
        for here, above in zip(widths[::-1], widths[-2::-1]):
            up += [*(Residual(here) for _ in range(blocks)), nn.Upsample(scale_factor=2)]
            up += [nn.Conv2d(here, above, 3, padding=1)]
        up += [*(Residual(width) for _ in range(blocks)), nn.GroupNorm(4, width), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], 2 * latent, 3, padding=1))
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, channels, 3, padding=1))
        self.register_buffer("latent_mean", torch.zeros(latent))
        self.register_buffer("latent_std", torch.ones(latent))
        self.register_buffer("rms", torch.tensor(float("nan")))  # the stated error; not a number until measured

    @property
    def error(self) -> float:
        return float(self.rms)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, H, W) or (B, C, H, W). Other channels, or sides that are no multiple of the factor: OrnsteinError."""
        channels, factor = self.config["channels"], self.config["factor"]
        if len(shape) < 3 or shape[-3] != channels or shape[-2] % factor or shape[-1] % factor or 0 in shape[-2:]:
            raise OrnsteinError(f"KL cannot take a sample of shape {tuple(shape)}",
                                f"It needs [B, {channels}, H, W] with H and W multiples of {factor}.")  # fmt: skip
        return (*shape[:-3], self.config["latent"], shape[-2] // factor, shape[-1] // factor)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sigma^2 [B, latent, h, w], before the statistics are taken off."""
        self.latent_shape(tuple(x.shape))
        mean, log_variance = self.encoder(x).chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """noise: unit normal, of the latent's shape, for a draw from q; None for its mode."""
        self._measured()
        mean, log_variance = self.posterior(x)
        u = mean if noise is None else mean + (log_variance / 2).exp() * noise
        return (u - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def decode(self, z: Tensor) -> Tensor:
        self._measured()
        if z.ndim != 4 or z.shape[1] != self.config["latent"]:
            raise OrnsteinError(f"KL cannot decode latents of shape {tuple(z.shape)}",
                                f"It needs [B, {self.config['latent']}, h, w].")  # fmt: skip
        return self.decoder(z * self.latent_std[:, None, None] + self.latent_mean[:, None, None])

    @torch.no_grad()
    def measure(self, images: Tensor, held_out: Tensor | None = None, batch: int = 64) -> KL:
        """Store the latents' statistics over `images` and the error over `held_out` (default: the same images)."""
        mean = torch.cat([self.posterior(x)[0] for x in images.split(batch)])
        self.latent_mean.copy_(mean.mean((0, 2, 3)))
        self.latent_std.copy_(mean.std((0, 2, 3)).clamp_min(1e-6))
        self.rms.fill_(0.0)
        seen = images if held_out is None else held_out
        self.rms.copy_(torch.cat([self.decode(self.encode(x)) - x for x in seen.split(batch)]).square().mean().sqrt())
        return self

    def _measured(self) -> None:
        if bool(self.rms.isnan()):
            raise OrnsteinError("this KL codec has no statistics", "Train it (recipes/train_kl).")

    def save(self, path: str | Path) -> Path:
        """One safetensors file: weights, statistics, configuration."""
        self._measured()
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        return write_atomic(path, save(tensors, {"kl": json.dumps(self.config)}))


def load(path: str | Path) -> KL:
    """The codec that `save` wrote, frozen. Another file: OrnsteinError."""
    try:
        with safe_open(path, "pt") as file:
            codec = KL(**json.loads(file.metadata()["kl"]))
            codec.load_state_dict({k: file.get_tensor(k) for k in file.keys()})
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise OrnsteinError(f"{path} is no KL codec ({error})", "Give a file that KL.save wrote.") from error
    return codec.eval().requires_grad_(False)
