"""A model file and what is drawn with it: nothing lost, nothing mixed up, everything wrong named."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ornstein import model as module
from ornstein.core.effects import Effects
from ornstein.core.errors import OrnsteinError
from ornstein.core.plan import Plan
from ornstein.model import create, load, save

CONFIG = {
    "backbone": {"name": "dit", "channels": 1, "patch": 4, "width": 16, "depth": 2, "heads": 4, "classes": 10},
    "process": {"name": "flow"}, "predicts": "velocity", "codec": {"name": "pixel"}, "shape": [1, 8, 8],
    "encoder": {"name": "classes", "names": [str(d) for d in range(10)]},
    "defaults": {"solver": "ddim", "steps": 4, "guidance": ["cfg:scale=1.5"]}, "about": {"licence": "Apache-2.0"},
}  # fmt: skip


def made(seed=0, **changes):
    torch.manual_seed(seed)
    model = create(CONFIG | changes, "tiny")
    for p in model.backbone.parameters():  # the zero gates of a fresh DiT would hide half of it
        p.data.add_(0.1 * torch.randn(p.shape))
    model.backbone.eval().requires_grad_(False)
    return model


def test_saved_and_loaded_bit_for_bit(tmp_path):
    model = made()
    path = save(tmp_path / "m.safetensors", model, about={"steps": 7})
    again = load(path)
    assert all(torch.equal(v, model.backbone.state_dict()[k]) for k, v in again.backbone.state_dict().items())
    assert again.config == model.config | {"about": {"licence": "Apache-2.0", "steps": 7}} and again.name == "tiny"
    assert again.shape == (1, 8, 8) and not any(p.requires_grad for p in again.backbone.parameters())
    assert torch.equal(model.generate(["3"]).x, again.generate(["3"]).x)
    assert load(str(path)).name == "tiny" and [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    again.plan().save(tmp_path / "plan.json")
    assert torch.equal(model.generate(["3"], Plan.load(tmp_path / "plan.json")).x, model.generate(["3"]).x)


def test_half_the_bytes(tmp_path):
    model = made()
    whole, half = (save(tmp_path / n, model, dtype) for n, dtype in (("w.safetensors", None), ("h.safetensors", torch.float16)))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert {v.dtype for v in load_file(half).values()} == {torch.float16}
    again = load(half)
    for k, v in again.backbone.state_dict().items():
        assert v.dtype == torch.float32 and torch.equal(v, model.backbone.state_dict()[k].half().float())


def test_weights_of_a_trained_encoder_are_in_the_file(tmp_path):
    worded = {"backbone": CONFIG["backbone"] | {"classes": 0, "text_dim": 8}, "encoder": {"name": "bytes", "dim": 8, "length": 8}}
    model = made(**worded)
    again = load(save(tmp_path / "m.safetensors", model))
    assert all(torch.equal(v, again.encoder.state_dict()[k]) for k, v in model.encoder.state_dict().items())
    assert torch.equal(model.generate(["fox"]).x, again.generate(["fox"]).x)
    stored, meta = load_file(tmp_path / "m.safetensors"), {"ornstein": json.dumps(CONFIG | worded)}
    save_file({k: v for k, v in stored.items() if not k.startswith("encoder/mixing")}, tmp_path / "cut.safetensors", meta)
    with pytest.raises(OrnsteinError, match="do not fit its description.*mixing"):
        load(tmp_path / "cut.safetensors")


def test_files_that_are_no_models_are_named(tmp_path):
    path = save(tmp_path / "m.safetensors", made())
    data = path.read_bytes()
    for broken in (data[:200], data[: len(data) - 50], b"", b"not a model"):
        (tmp_path / "broken.safetensors").write_bytes(broken)
        with pytest.raises(OrnsteinError, match=r"broken.safetensors is damaged or no safetensors file.*again"):
            load(tmp_path / "broken.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(OrnsteinError, match=r"foreign.safetensors holds weights of another program.*description"):
        load(tmp_path / "foreign.safetensors")
    with pytest.raises(OrnsteinError, match="there is no model file .*none.safetensors.*Shipped models"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(OrnsteinError, match="there is no model file"):
        load(Path(tmp_path))


@pytest.mark.parametrize("config,words", [
    (CONFIG | {"backbone": CONFIG["backbone"] | {"width": 32}}, "weights in .* do not fit its description"),
    (CONFIG | {"backbone": CONFIG["backbone"] | {"depth": 1}}, "weights in .* do not fit its description"),
    ({"backbone": CONFIG["backbone"]}, "description in .* cannot be read .KeyError: 'process'.*another version"),
    (CONFIG | {"backbone": {"name": "dit", "colour": 3}}, "description in .* cannot be read .TypeError.*colour"),
    (CONFIG | {"backbone": {"name": "ditt"}}, "unknown method in backbones/ 'ditt'. Did you mean 'dit'"),
    (CONFIG | {"predicts": "velocty"}, "Did you mean 'velocity'"), ([1, 2], "holds weights of another program"),
])  # fmt: skip
def test_descriptions_that_do_not_fit(tmp_path, config, words):
    weights = made().backbone.state_dict()
    save_file(weights, tmp_path / "m.safetensors", {"ornstein": json.dumps(config)})
    with pytest.raises(OrnsteinError, match=words):
        load(tmp_path / "m.safetensors")


def test_unknown_names():
    with pytest.raises(OrnsteinError, match="unknown model 'emojy'. Did you mean 'emoji'"):
        load("emojy")


def test_a_shipped_model_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    assert module.known() == []
    with pytest.raises(OrnsteinError, match="there is no model file .*dit.safetensors.*Shipped models: none"):
        load("digits")


def test_a_picture_depends_on_seed_and_place_alone():
    model, prompts = made(), ["3", "7", "1", "3", "0"]
    whole = model.generate(prompts, seed=5)
    for batch in (1, 2, 3):
        some = model.generate(prompts, seed=5, batch=batch)
        assert torch.allclose(some.x, whole.x, atol=1e-5) and (some.images.astype(int) - whole.images).max() <= 1
    other = model.generate(["9", "7"], seed=5)
    assert torch.allclose(other.x[1], whole.x[1], atol=1e-5), "the neighbours do not matter"
    assert not torch.allclose(whole.x[0], whole.x[3]), "the same prompt at another place is another picture"
    assert not torch.allclose(model.generate(prompts, seed=6).x, whole.x)
    assert torch.equal(model.generate(prompts, seed=5).x, whole.x)
    assert whole.images.shape == (5, 8, 8, 1) and whole.images.dtype.name == "uint8" and whole.prompts == prompts


def test_settings_change_the_plan_and_are_recorded():
    model, seen = made(), []
    found = model.generate("4", steps=3, solver="euler", guidance="cfg:scale=2", seed=2, progress=lambda d, n: seen.append((d, n)))
    assert (found.plan.steps, found.plan.solver, found.plan.guidance) == (3, "euler", ("cfg:scale=2",))
    assert seen == [(1, 3), (2, 3), (3, 3)] and found.record.facts["seed"] == 2 and found.record.facts["solver"] == "euler"
    seen.clear()
    model.generate(["1"] * 5, batch=2, steps=2, progress=lambda d, n: seen.append((d, n)))
    assert seen == [(i, 6) for i in range(1, 7)]
    unguided = model.generate("4", guidance=[])
    assert unguided.plan.guidance == () and not torch.allclose(unguided.x, model.generate("4").x)
    plan = model.plan(steps=2)
    assert model.generate("4", plan).plan == plan and model.generate("4", plan, steps=5).plan.steps == 5


def test_precision_and_compression_of_a_plan_are_applied():
    """A plan is never followed in part."""
    model = made(backbone=CONFIG["backbone"] | {"width": 64})
    plain = model.generate("4").x
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    half = model.generate("4", model.plan(dtype="bfloat16"))
    assert 1e-6 < (half.x - plain).abs().max() < 0.3 and half.record.facts["dtype"] == "bfloat16"
    plan = model.plan(compress=("int8",))
    eight = model.generate("4", plan)
    assert 1e-6 < (eight.x - plain).abs().max() < 0.3 and eight.record.facts["compress"] == ["int8"]
    assert torch.equal(model.generate("4", plan).x, eight.x) and torch.equal(model.generate("4").x, plain)
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    for p in model.backbone.parameters():  # other weights: the copy kept for the plan is not theirs
        p.data.mul_(1.5)
    fresh = model.generate("4", model.plan(compress=("int8",))).x
    assert (fresh - model.generate("4").x).abs().max() < (fresh - eight.x).abs().max()


def test_a_plan_of_another_model_is_refused():
    with pytest.raises(OrnsteinError, match=r"plan was made for 'tiny' .*not for 'tiny'.*load the model that the plan names"):
        made(1).generate("3", made(0).plan())


@pytest.mark.parametrize("arguments,words", [
    ({"prompts": []}, "no prompt was given"), ({"steps": 0}, "steps=0 is not a positive"), ({"steps": -3}, "steps=-3"),
    ({"steps": 2.5}, "steps=2.5"), ({"batch": 0}, "batch=0 is not a positive"),
    ({"solver": "dim"}, "unknown method in solvers/ 'dim'. Did you mean 'ddim'"), ({"guidance": "cgf"}, "Did you mean 'cfg'"),
    ({"accelerate": "firstblok"}, "Did you mean 'firstblock'"), ({"size": (9, 8)}, "cannot take a sample.*multiples of 4"),
    ({"size": (0, 8)}, "cannot take a sample"), ({"prompts": ["eleven"]}, "unknown class 'eleven'"),
    ({"solver": "ddim:etta=1"}, "Did you mean 'eta'"),
])  # fmt: skip
def test_what_is_wrong_is_named_before_anything_is_drawn(arguments, words):
    with pytest.raises(OrnsteinError, match=words):
        made().generate(**({"prompts": ["3"]} | arguments))


def test_another_size_of_picture():
    assert made().generate(["3"], size=(12, 16)).images.shape == (1, 12, 16, 1)


class Add:
    """A plugin that adds a slope to what leaves the first block, and counts."""

    effects = Effects.of(replaces="evaluation")

    def __init__(self, much, gate=None):
        self.much, self.gate, self.seen = much, gate, 0

    def select(self, sites):
        return [s for s in sites if s.grain == "block"][:1]

    def start(self):
        return {}

    def around(self, site, clock, streams, run, memory):
        self.seen += 1
        if self.gate is not None:
            self.gate.wait(20)
        out = run(streams)
        return out | {"x": out["x"] + self.much * torch.linspace(-1, 1, 16)}


def test_acceleration_belongs_to_its_run_alone():
    """Two threads with different plugins and one without share a model; each gets what it would get alone."""
    model = made()
    alone = {much: model.generate(["3"], accelerate=[Add(much)]).x for much in (0.5, 1.0)} | {0: model.generate(["3"]).x}
    assert not torch.allclose(alone[0.5], alone[0]) and not torch.allclose(alone[0.5], alone[1.0])
    gate, found, parts = threading.Barrier(2), {}, {much: None for much in (0.5, 1.0)}
    for much in parts:
        parts[much] = Add(much, gate)

    def draw(much):
        found[much] = model.generate(["3"], accelerate=[parts[much]] if much else None).x

    threads = [threading.Thread(target=draw, args=(much,)) for much in (0.5, 1.0, 0)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert found.keys() == alone.keys() and all(torch.equal(found[k], alone[k]) for k in alone)
    assert parts[0.5].seen == parts[1.0].seen == 8  # 4 steps, 2 branches
    assert torch.equal(model.generate(["3"]).x, alone[0]) and "forward" not in vars(model.backbone.blocks[0])


def test_a_run_that_fails_leaves_the_model_as_it_was():
    class Broken(Add):
        def around(self, *rest):
            raise RuntimeError("no")

    model = made()
    before = model.generate(["3"]).x
    with pytest.raises(RuntimeError, match="no"):
        model.generate(["3"], accelerate=[Broken(1)])
    assert torch.equal(model.generate(["3"]).x, before) and "forward" not in vars(model.backbone.blocks[0])


def test_pictures_of_premultiplied_colours():
    x = torch.tensor([[0.0, -0.5, -1.0, 0.0], [-1.0, -1.0, -1.0, -1.0]])[:, :, None, None]  # half opaque; nothing there
    found = made().pictures(x)
    assert found[0, 0, 0].tolist() == [255, 128, 0, 128] and found[1, 0, 0].tolist() == [0, 0, 0, 0]
    assert made().pictures(torch.tensor([[[[-3.0]]], [[[3.0]]]])).flatten().tolist() == [0, 255]


def test_a_learned_codec_travels_with_the_model(tmp_path):
    config = {"backbone": {"name": "dit", "channels": 4, "patch": 1, "width": 16, "depth": 1, "heads": 2},
              "process": {"name": "flow"}, "codec": {"name": "kl", "channels": 1, "width": 4}, "shape": [4, 2, 2]}
    model = create(config, "latent")
    pictures = torch.randn(8, 1, 8, 8).clamp(-1, 1)
    model.codec.eval().measure(pictures)
    again = load(save(tmp_path / "m.safetensors", model))
    assert torch.equal(again.codec.encode(pictures), model.codec.encode(pictures))
    z = torch.randn(2, 4, 2, 2)
    assert (again.pictures(z) == model.pictures(z)).all()
