"""What the settings say is what happens: rate, clipping, average, precision, log, pictures; and what breaks says where."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import pytest
import torch
from tiny_training import rows, tensors, tiny
from torch import nn

from ornstein.core.errors import OrnsteinError
from ornstein.model import create
from ornstein.train import Engine, Settings, _fastest, fit


def test_learning_rate_rises_and_falls_as_said():
    engine = Engine(tiny(steps=110, warmup=10, lr=0.01))
    rate = engine.rate
    assert rate(0) == pytest.approx(0.001) and rate(4) == pytest.approx(0.005) and rate(9) == rate(10) == pytest.approx(0.01)
    assert rate(60) == pytest.approx(0.01 * (0.1 + 0.9 * 0.5)) and rate(110) == rate(200) == pytest.approx(0.001)
    assert Engine(tiny(warmup=0)).rate(0) == pytest.approx(3e-3)
    engine.step()
    assert {g["lr"] for g in engine.optimiser.param_groups} == {rate(0)}


def test_one_step_is_adamw_on_clipped_gradients_and_the_average_follows():
    """Against torch's plain AdamW, written out beside the engine."""
    engine = Engine(tiny(clip=0.05, ema=0.5, decay=0.1))
    network = copy.deepcopy(engine.network)
    big, small = ([p for p in network.parameters() if (p.ndim > 1) is b] for b in (True, False))
    plain = torch.optim.AdamW([{"params": big, "weight_decay": 0.1}, {"params": small, "weight_decay": 0.0}],
                              3e-3, betas=(0.9, 0.99), foreach=False)  # fmt: skip
    average = [p.detach().clone() for p in network.parameters()]
    for step in range(3):
        batch, generator = engine.batch()
        loss = engine.training.loss(replace(engine.denoiser, backbone=network), batch, generator, step)["loss"]
        plain.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in network.parameters()]).norm()
        assert norm > 0.05, "nothing to clip"
        for p in network.parameters():
            p.grad *= 0.05 / (norm + 1e-6)
        for group in plain.param_groups:
            group["lr"] = engine.rate(step)
        plain.step()
        keep = min(0.5, (1 + step) / (10 + step))
        average = [keep * a + (1 - keep) * p.detach() for a, p in zip(average, network.parameters())]
        said = engine.step()
        assert said["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert said["norm"].item() == pytest.approx(norm.item(), rel=1e-4)
    for p, q, mean, kept in zip(network.parameters(), engine.weights, average, engine.average):
        assert torch.allclose(p, q, atol=1e-6) and torch.allclose(mean, kept, atol=1e-6)
    model = engine.averaged()
    assert all(torch.equal(p, kept) for p, kept in zip(model.backbone.parameters(), engine.average))
    assert not any(p.requires_grad for p in model.backbone.parameters()) and not model.backbone.training
    assert model.denoiser.null.__self__ is model.backbone


def test_a_batch_is_a_function_of_seed_and_step():
    one, two = Engine(tiny()), Engine(tiny())
    two.step()
    other = two.batch()[0]
    two.index = 0
    again, first = two.batch()[0], one.batch()[0]
    assert torch.equal(first["x0"], again["x0"]) and torch.equal(first["noise"], again["noise"])
    assert not torch.equal(first["noise"], other["noise"])
    assert not torch.equal(first["noise"], Engine(tiny(seed=1)).batch()[0]["noise"])
    u = first["u"].sort().values * 16
    assert torch.equal(u.floor(), torch.arange(16.0)), "times are spread evenly over the batch"


def test_frozen_weights_stay_frozen():
    training = tiny()
    for name, p in training.model.backbone.named_parameters():
        p.requires_grad_("blocks" not in name)
    before = {k: v.clone() for k, v in training.model.backbone.state_dict().items()}
    engine = Engine(training)
    for _ in range(3):
        engine.step()
    after = engine.averaged().backbone.state_dict()
    moved = {k.split(".")[0] for k in after if not torch.equal(after[k], before[k])}
    assert "head" in moved and "blocks" not in moved
    loaded = tiny()
    loaded.model.backbone.requires_grad_(False)  # as a model file is loaded
    assert len(Engine(loaded).weights) == len(list(loaded.model.backbone.parameters()))


def test_a_number_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    training, seen = tiny(), []

    def data(indices):
        seen.append(1)
        batch = training.data(indices)
        return batch | {"x0": batch["x0"] * (torch.nan if len(seen) == 7 else 1)}

    words = r"broke at step 7: loss is nan, denoising is nan, norm is nan.*Lower lr, raise warmup, or look at the data"
    with pytest.raises(OrnsteinError, match=words):
        fit(replace(training, data=data), tmp_path)
    engine = Engine(training)
    engine.restore(tmp_path / "checkpoint.safetensors")
    assert engine.index == 4 and all(torch.isfinite(v).all() for v in tensors(tmp_path).values())
    fit(training, tmp_path)  # the data mended, it goes on
    fit(tiny(), tmp_path / "straight")
    assert all(torch.equal(v, tensors(tmp_path)[k]) for k, v in tensors(tmp_path / "straight").items())


def test_a_rate_that_is_too_high_is_named(tmp_path):
    with pytest.raises(OrnsteinError, match=r"broke at step \d+: .*Lower lr"):
        fit(tiny(steps=200, lr=1e30, warmup=0), tmp_path)


def test_where_looking_is_dear_it_is_looked_for_before_each_checkpoint(tmp_path):
    """On an accelerator the losses are read once a window: the sum carries the bad number there."""
    from ornstein import train

    engine = Engine(tiny())
    for _ in range(3):
        engine.step()
    train._checkpoint(engine, tmp_path)
    engine.sums["loss"] += torch.inf
    with pytest.raises(OrnsteinError, match="broke between steps 1 and 3: loss is inf"):
        train._checkpoint(engine, tmp_path)
    engine.sums["loss"] -= torch.inf
    with pytest.raises(OrnsteinError, match="between steps 1 and 3: loss is nan"):
        engine.told()


def test_the_log_has_curves_and_no_row_twice(tmp_path):
    facts = []
    fit(tiny(), tmp_path, lambda step, steps, f: facts.append((step, steps, f)), stop_after=6)
    fit(tiny(), tmp_path)
    found = rows(tmp_path)
    assert found[0] == ["kind", "step", "name", "value"] and len({tuple(r[:3]) for r in found}) == len(found)
    of = {kind: sorted({int(r[1]) for r in found if r[0] == kind}) for kind in ("train", "validation")}
    assert of == {"train": list(range(1, 13)), "validation": [4, 8, 12]}
    assert {r[2] for r in found if r[0] == "validation"} == {"validation", *(f"t{k}" for k in range(8))}
    assert {r[2] for r in found if r[0] == "train"} == {"loss", "denoising", "norm", "lr"}
    assert facts[-1][:2] == (6, 12) and {"loss", "norm", "lr", "img/s", "left"} <= facts[-1][2].keys()
    assert (tmp_path / "log.csv").read_text().count("img/s") == 12


def test_rows_are_means_over_their_window(tmp_path):
    engine, losses = Engine(tiny(every=30)), []
    for _ in range(6):
        losses.append(engine.step()["loss"].item())
    fit(tiny(every=30), tmp_path, stop_after=6)
    found = [float(r[3]) for r in rows(tmp_path) if r[2] == "loss"]
    assert found == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3], rel=1e-5)


def test_events_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tiny(), tmp_path, stop_after=6)
    fit(tiny(), tmp_path)
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert {"train/loss", "validation/validation"} <= set(events.Tags()["scalars"])
    steps = [e.step for e in events.Scalars("train/loss")]
    assert sorted(set(steps)) == list(range(1, 13)) and len(steps) == 12


def test_pictures_appear(tmp_path):
    from PIL import Image

    fit(tiny(steps=4, every=2, prompts=4), tmp_path)
    sheets = sorted(tmp_path.glob("samples-*.png"))
    assert [s.name for s in sheets] == ["samples-0000002.png", "samples-0000004.png"]
    assert Image.open(sheets[0]).size[0] > 4 * 64
    assert not (tmp_path / "model.safetensors.tmp").exists() and (tmp_path / "model.safetensors").exists()


def test_validation_is_exact_about_what_it_measures():
    engine = Engine(tiny())
    model = engine.averaged()
    batch, law = engine.training.held_out, engine.training.loss.time
    found = engine.validate(model)
    noise = torch.randn(batch["x0"].shape, generator=torch.Generator().manual_seed(1))
    t = law(torch.full((len(noise),), 2.5 / 8), model.denoiser.process)
    with torch.no_grad():
        said = model.backbone(model.denoiser.process.corrupt(batch["x0"], noise, t), t, batch["cond"])
    expected = (said - (noise - batch["x0"])).square().mean().item()
    assert found["t2"] == pytest.approx(expected, rel=1e-5) and found == engine.validate(model)
    assert found["validation"] == pytest.approx(sum(found[f"t{k}"] for k in range(8)) / 8)


def test_a_loss_without_terms_of_its_own_can_be_validated():
    def loss(denoiser, batch, generator, step):
        x = denoiser.process.corrupt(batch["x0"], batch["noise"], batch["u"])
        return {"loss": (denoiser(x, batch["u"], batch["cond"]).x0 - batch["x0"]).square().mean()}

    engine = Engine(replace(tiny(), loss=loss))
    engine.step()
    assert set(engine.validate(engine.averaged())) == {"validation", *(f"t{k}" for k in range(8))}


def test_a_tiny_run_learns(tmp_path):
    """From 1.75, the loss of the answer 0, to under 0.85 in a few seconds."""
    began = time.process_time()
    fit(tiny(width=32, batch=32, steps=250, every=250, warmup=20, lr=4e-3, ema=0.98), tmp_path)
    found = {r[2]: float(r[3]) for r in rows(tmp_path) if r[0] == "validation"}
    assert found["validation"] < 0.85, found
    assert time.process_time() - began < 30


def test_bfloat16_where_it_pays(monkeypatch, tmp_path):
    wide, narrow = nn.Sequential(nn.Linear(256, 256)), nn.Sequential(nn.Linear(1024, 96), nn.Conv2d(32, 64, 3))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert (_fastest(wide, "cpu"), _fastest(narrow, "cpu")) == ("bfloat16", "float32")
    assert _fastest(nn.Conv2d(192, 256, 3), "cpu") == "bfloat16" and _fastest(nn.LayerNorm(512), "cpu") == "float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert _fastest(wide, "cpu") == "float32"
    engine = Engine(tiny(dtype="bfloat16"))
    assert torch.isfinite(engine.step()["loss"]) and engine.weights[0].dtype == torch.float32


def test_the_choice_of_precision_goes_with_the_checkpoint(tmp_path, monkeypatch):
    """A run begun where bfloat16 pays goes on in bfloat16 on another machine."""
    from ornstein import train

    monkeypatch.setattr(train, "_fastest", lambda network, device: "bfloat16")
    fit(tiny(dtype="auto"), tmp_path / "a")
    fit(tiny(dtype="auto"), tmp_path / "b", stop_after=5)
    monkeypatch.setattr(train, "_fastest", lambda network, device: "float32")
    fit(tiny(dtype="auto"), tmp_path / "b")
    a, b = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["weights.0"], Engine(tiny()).weights[0])


@pytest.mark.parametrize("change,words", [
    ({"steps": 0}, "steps=0 is not positive"), ({"lr": -1.0}, "lr=-1.0"), ({"ema": 1.5}, "ema=1.5 is outside 0 to 1.*0.999"),
    ({"lr": float("nan")}, "lr=nan"), ({"warmup": -1}, "warmup=-1"),
    ({"dtype": "bfloat"}, "unknown dtype of training 'bfloat'. Did you mean 'bfloat16'"),
])  # fmt: skip
def test_settings_that_make_no_sense(change, words):
    with pytest.raises(OrnsteinError, match=words):
        Settings(**change)


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(OrnsteinError, match="torch sees no GPU.*device=cpu"):
        Engine(tiny(device="cuda"))


def test_accelerate_missing_is_named(monkeypatch):
    import sys

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(OrnsteinError, match=r"several processes need the package accelerate.*ornstein\[train\]"):
        Engine(tiny())


def test_a_network_with_an_adapter_on_it_is_refused():
    from ornstein.core import catalog

    training = tiny()
    catalog.build("adapters", "lora:rank=2")(training.model.backbone)
    with pytest.raises(OrnsteinError, match="carries hooks"):
        Engine(training)


def test_a_latent_model_is_trained_on_what_its_codec_makes_of_pictures(tmp_path):
    class Halves:
        """A codec that stands for a trained one: 8 x 8 pictures to 4 x 4 latents by means."""

        def encode(self, x):
            return torch.nn.functional.avg_pool2d(x, 2)

        def decode(self, z):
            return z.repeat_interleave(2, -1).repeat_interleave(2, -2)

    pixels = tiny()
    model = create(pixels.model.config | {"shape": [1, 4, 4]}, "latent")
    data = pixels.data
    latent = replace(pixels, model=replace(model, codec=Halves()), held_out=None,
                     data=lambda i: {("images" if k == "x0" else k): v for k, v in data(i).items()})  # fmt: skip
    batch, _ = Engine(latent).batch()
    same, _ = Engine(pixels).batch()
    assert batch["x0"].shape == batch["noise"].shape == (16, 1, 4, 4) and "images" not in batch
    assert torch.equal(batch["x0"], Halves().encode(same["x0"]))
    assert fit(latent, tmp_path).shape == (1, 4, 4)
    with pytest.raises(OrnsteinError, match="the batch has 'images' but the model has no codec"):
        Engine(replace(latent, model=replace(model, codec=None))).batch()
