"""Eleven networks of diffusers, tiny and with random weights, each with the inputs of one call."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 2


@dataclass(frozen=True)
class Animal:
    """One network. runs: number of blocks (or U-Net stages) in each run of blocks; roles: those of its branches;
    sdpa: how many scaled-dot-product attentions one call makes; linear: it also has attention of another kind."""

    name: str
    make: Callable[[], tuple[nn.Module, dict[str, Any]]]
    runs: tuple[int, ...]
    roles: tuple[str, ...]
    sdpa: int
    linear: bool = False

    @property
    def unet(self) -> bool:
        return "UNet" in self.name


def noise(*shape: int) -> Tensor:
    return torch.randn(shape)


def _dit() -> tuple[nn.Module, dict]:
    from diffusers import DiTTransformer2DModel as Net

    net = Net(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, sample_size=8,
              norm_num_groups=4, num_embeds_ada_norm=10)  # fmt: skip
    return net, {"hidden_states": noise(BATCH, 4, 8, 8), "timestep": torch.tensor([500, 500]),
                 "class_labels": torch.tensor([1, 3])}  # fmt: skip


def _pixart() -> tuple[nn.Module, dict]:
    from diffusers import PixArtTransformer2DModel as Net

    net = Net(num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=3, sample_size=8, norm_num_groups=4,
              cross_attention_dim=16, caption_channels=12, use_additional_conditions=False)  # fmt: skip
    return net, {"hidden_states": noise(BATCH, 4, 8, 8), "timestep": torch.tensor([500, 500]),
                 "encoder_hidden_states": noise(BATCH, 5, 12), "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0]] * 2),
                 "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}  # fmt: skip


def _sd3() -> tuple[nn.Module, dict]:
    from diffusers import SD3Transformer2DModel as Net

    net = Net(sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
              joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10, out_channels=4,
              pos_embed_max_size=8, dual_attention_layers=(0,))  # fmt: skip
    return net, {"hidden_states": noise(BATCH, 4, 8, 8), "timestep": torch.tensor([500.0, 500.0]),
                 "encoder_hidden_states": noise(BATCH, 5, 12), "pooled_projections": noise(BATCH, 10)}  # fmt: skip


def _ids(axes: int, rows: int, columns: int) -> Tensor:
    ids = torch.zeros(rows, columns, axes)
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)
    return ids.flatten(0, 1)


def _flux() -> tuple[nn.Module, dict]:
    from diffusers import FluxTransformer2DModel as Net

    net = Net(in_channels=4, num_layers=2, num_single_layers=3, attention_head_dim=8, num_attention_heads=2,
              joint_attention_dim=12, pooled_projection_dim=10, guidance_embeds=True, axes_dims_rope=(2, 2, 4))  # fmt: skip
    return net, {"hidden_states": noise(BATCH, 16, 4), "timestep": torch.tensor([0.5, 0.5]), "img_ids": _ids(3, 4, 4),
                 "txt_ids": torch.zeros(5, 3), "encoder_hidden_states": noise(BATCH, 5, 12),
                 "pooled_projections": noise(BATCH, 10), "guidance": torch.tensor([3.5, 3.5])}  # fmt: skip


def _flux2() -> tuple[nn.Module, dict]:
    from diffusers import Flux2Transformer2DModel as Net

    net = Net(in_channels=4, num_layers=2, num_single_layers=3, attention_head_dim=8, num_attention_heads=2,
              joint_attention_dim=12, timestep_guidance_channels=16, axes_dims_rope=(2, 2, 2, 2))  # fmt: skip
    return net, {"hidden_states": noise(BATCH, 16, 4), "timestep": torch.tensor([0.5, 0.5]), "img_ids": _ids(4, 4, 4),
                 "txt_ids": torch.zeros(5, 4), "encoder_hidden_states": noise(BATCH, 5, 12),
                 "guidance": torch.tensor([3.5, 3.5])}  # fmt: skip


def _qwen() -> tuple[nn.Module, dict]:
    from diffusers import QwenImageTransformer2DModel as Net

    net = Net(in_channels=16, out_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
              joint_attention_dim=12, axes_dims_rope=(2, 2, 4))  # fmt: skip
    return net, {"hidden_states": noise(BATCH, 16, 16), "timestep": torch.tensor([0.5, 0.5]),
                 "encoder_hidden_states": noise(BATCH, 5, 12), "img_shapes": [[(1, 4, 4)]] * BATCH,
                 "encoder_hidden_states_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])}  # fmt: skip


def _wan() -> tuple[nn.Module, dict]:
    from diffusers import WanTransformer3DModel as Net

    net = Net(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12, freq_dim=16,
              ffn_dim=48, num_layers=3, rope_max_seq_len=16)  # fmt: skip
    return net, {"hidden_states": noise(BATCH, 4, 2, 8, 8), "timestep": torch.tensor([500, 500]),
                 "encoder_hidden_states": noise(BATCH, 5, 12)}  # fmt: skip


def _cogvideox() -> tuple[nn.Module, dict]:
    from diffusers import CogVideoXTransformer3DModel as Net

    net = Net(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=8,
              text_embed_dim=12, num_layers=3, sample_width=8, sample_height=8, sample_frames=5, patch_size=2,
              max_text_seq_length=5)  # fmt: skip
    return net, {"hidden_states": noise(BATCH, 2, 4, 8, 8), "timestep": torch.tensor([500, 500]),
                 "encoder_hidden_states": noise(BATCH, 5, 12)}  # fmt: skip


def _sana() -> tuple[nn.Module, dict]:
    from diffusers import SanaTransformer2DModel as Net

    net = Net(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=3,
              num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=12,
              sample_size=8)  # fmt: skip
    return net, {"hidden_states": noise(BATCH, 4, 8, 8), "timestep": torch.tensor([500, 500]),
                 "encoder_hidden_states": noise(BATCH, 5, 12),
                 "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0]] * 2)}  # fmt: skip


def _unet() -> tuple[nn.Module, dict]:
    from diffusers import UNet2DModel as Net

    net = Net(sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
              down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
              norm_num_groups=4)  # fmt: skip
    return net, {"sample": noise(BATCH, 3, 8, 8), "timestep": torch.tensor([500, 500])}


def _unet_condition() -> tuple[nn.Module, dict]:
    from diffusers import UNet2DConditionModel as Net

    net = Net(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=12, attention_head_dim=4,
              down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
              norm_num_groups=4)  # fmt: skip
    return net, {"sample": noise(BATCH, 4, 8, 8), "timestep": torch.tensor([500, 500]),
                 "encoder_hidden_states": noise(BATCH, 5, 12)}  # fmt: skip


ZOO = {
    animal.name: animal
    for animal in (
        Animal("DiTTransformer2DModel", _dit, (3,), ("attention", "mlp"), 3),
        Animal("PixArtTransformer2DModel", _pixart, (3,), ("attention", "cross_attention", "mlp"), 6),
        Animal("SD3Transformer2DModel", _sd3, (3,), ("attention", "mlp"), 4),
        Animal("FluxTransformer2DModel", _flux, (2, 3), ("attention", "mlp"), 5),
        Animal("Flux2Transformer2DModel", _flux2, (2, 3), ("attention", "mlp"), 5),
        Animal("QwenImageTransformer2DModel", _qwen, (3,), ("attention", "mlp"), 3),
        Animal("WanTransformer3DModel", _wan, (3,), ("attention", "cross_attention", "mlp"), 6),
        Animal("CogVideoXTransformer3DModel", _cogvideox, (3,), ("attention", "mlp"), 3),
        Animal("SanaTransformer2DModel", _sana, (3,), ("attention", "cross_attention", "mlp"), 3, linear=True),
        Animal("UNet2DModel", _unet, (1,) * 5, ("attention",), 4),
        Animal("UNet2DConditionModel", _unet_condition, (1,) * 5, ("attention", "cross_attention", "mlp"), 8),
    )
}


@cache
def specimen(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network in eval mode, every parameter redrawn (zero gates would hide what a block does), and its inputs."""
    torch.manual_seed(7)
    net, inputs = ZOO[name].make()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.eval().requires_grad_(False), inputs


def call(net: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The answer as a tensor."""
    with torch.no_grad():
        return net(**inputs, return_dict=False)[0]


def fox_folder(place: Path) -> Path:
    """A tiny Stable Diffusion with random weights and a tokenizer of a few letters, saved there as a user has it."""
    import diffusers
    import transformers

    place.parent.mkdir(parents=True, exist_ok=True)
    letters = sorted(set("aredfoxblueowl"))
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    files = [place.parent / name for name in ("vocab.json", "merges.txt")]
    files[0].write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    files[1].write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(*map(str, files), model_max_length=16)
    torch.manual_seed(1)
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1)).eval()  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=1).eval()
    schedule = diffusers.DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear")
    pipe = diffusers.StableDiffusionPipeline(vae, text, tokenizer, specimen("UNet2DConditionModel")[0].eval(), schedule, None, None,
                                             requires_safety_checker=False)  # fmt: skip
    pipe.save_pretrained(place)
    return place
