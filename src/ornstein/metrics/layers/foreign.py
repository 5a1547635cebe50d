"""Extractors with weights that are not shipped: Inception through torch-fidelity, CLIP through transformers.

Nothing is downloaded here: the weights must lie on disk, and what is missing is named with its remedy. The extractor's name
carries eight digits of the SHA-256 of the weights, so that figures of different weights never compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError

__all__ = ["clip", "inception"]

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity's own download is called
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's input, colours 0 to 1


def inception(weights: str = "") -> tuple[str, Callable[[Tensor], Tensor]]:
    """The network of 2015 behind FID: (name, [N, 1 or 3, H, W] -> [N, 2048]). weights: a file; '': torch's hub folder."""
    file = Path(weights).expanduser() if weights else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if not file.is_file():
        raise OrnsteinError(f"the weights of the extractor inception are not at {file}",
                            f"Put torch-fidelity's {INCEPTION} there, or name its file: 'inception:FILE'.")  # fmt: skip

    def see(x: Tensor) -> Tensor:
        return _inception(str(file), str(x.device))(_bytes(_colour(x, "inception")))[0]

    return f"inception-{_digest(str(file))}", see


def clip(folder: str) -> tuple[str, Callable[[Tensor], Tensor]]:
    """CLIP's image embedding, [N, 1 or 3, H, W] -> [N, D], not normalised. folder: of config.json and model.safetensors."""
    place = Path(folder).expanduser()
    file = place / "model.safetensors"
    if not folder or not (place / "config.json").is_file() or not file.is_file():
        raise OrnsteinError(f"the extractor clip finds no config.json and model.safetensors in '{folder}'",
                            "Save a CLIPModel there with save_pretrained, and name the folder: 'clip:FOLDER'.")  # fmt: skip

    def see(x: Tensor) -> Tensor:
        net = _clip(str(place), str(x.device))
        side = net.config.vision_config.image_size
        x = F.interpolate(_colour(x, "clip"), (side, side), mode="bicubic", align_corners=False, antialias=True)
        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        state = net.vision_model(pixel_values=((x.clamp(-1, 1) + 1) / 2 - mean) / std).pooler_output
        return net.visual_projection(state)

    return f"clip-{_digest(str(file))}", see


def _colour(x: Tensor, name: str) -> Tensor:
    if x.shape[1] not in (1, 3):
        raise OrnsteinError(f"{name} cannot see {x.shape[1]} channels",
                            "Give grey or RGB images; lay RGBA over a background first.")  # fmt: skip
    return x.expand(-1, 3, -1, -1)


def _bytes(x: Tensor) -> Tensor:
    """[-1, 1] -> uint8, as the network of 2015 wants its pictures."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@cache
def _digest(file: str) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:8] if hasattr(hashlib, "file_digest") else (
            hashlib.sha256(f.read()).hexdigest()[:8])  # fmt: skip


@cache
@torch.inference_mode(False)
def _inception(file: str, device: str) -> nn.Module:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise OrnsteinError("the extractor inception needs torch-fidelity", "Run: pip install torch-fidelity") from error
    net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=file)
    return net.eval().requires_grad_(False).to(device)


@cache
@torch.inference_mode(False)
def _clip(folder: str, device: str) -> Any:
    try:
        from transformers import CLIPModel
    except ImportError as error:
        raise OrnsteinError("the extractor clip needs transformers", 'Run: pip install "ornstein[hub]"') from error
    net = CLIPModel.from_pretrained(folder, local_files_only=True)
    return net.eval().requires_grad_(False).to(device)
