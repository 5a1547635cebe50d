"""What a plan will cost: FLOPs to the last one, bytes as a tensor's are, seconds of the sites that add up."""

import pytest
import torch

import ornstein
from ornstein import cost

PROMPTS = [str(d) for d in range(10)]


@pytest.fixture(scope="module")
def digits():
    return ornstein.load("digits")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    monkeypatch.setattr(cost, "TRIES", 2)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("profiles")


PLANS = [{"steps": 5}, {"steps": 4, "solver": "heun"}, {"steps": 5, "guidance": ("cfg:scale=2",)},
         {"steps": 6, "guidance": ("cfg:scale=2,interval=(0,0.5)",)},
         {"steps": 9, "accelerate": ("taylorseer:interval=3",), "guidance": ("cfg:scale=2",)},
         {"steps": 8, "accelerate": ("tome:ratio=0.5",)}]  # fmt: skip


@pytest.mark.parametrize("changes", PLANS, ids=str)
def test_flops_are_those_that_are_counted(digits, kept, changes):
    plan = digits.plan(**changes)
    told = cost.predict(digits, plan, 8, PROMPTS, cache=kept)
    counted = cost.flops(lambda: digits.generate(PROMPTS[:8], plan, batch=8))
    assert told.flops == pytest.approx(counted, rel=1e-6) and told.batch == 8


def test_calls_and_the_record_of_a_run(digits, kept):
    plan = digits.plan(steps=6, guidance=("cfg:scale=2,interval=(0,0.5)",))
    record = digits.generate(PROMPTS[:8], plan, batch=8).record
    told, again = (
        cost.predict(digits, plan, 8, PROMPTS, cache=kept),
        cost.predict(digits, plan, 8, PROMPTS, record=record, cache=kept),
    )
    assert told.calls == again.calls == record.calls["cond"] + record.calls["uncond"] < 12
    assert told.flops == again.flops and told.seconds > 0


def test_sites_are_inside_the_network(digits, kept):
    made = cost.profile(digits, 8, PROMPTS, cache=kept)
    blocks = [v for k, v in made.sites.items() if k.endswith("/block")]
    assert len(blocks) == 6 and 0 < sum(b[1] for b in blocks) < made.network[1]
    assert all(0 < b[0] < made.network[0] and 0 < b[2] <= made.network[2] for b in blocks)
    for k in range(6):
        branches = [made.sites[f"blocks.{k}.{part}/branch"][1] for part in ("attn", "mlp")]
        assert sum(branches) == blocks[k][1]


def test_a_profile_is_kept_and_a_torn_one_is_made_anew(digits, tmp_path, monkeypatch):
    made = cost.profile(digits, 2, PROMPTS, cache=tmp_path)
    (file,) = tmp_path.glob("*.json")
    with monkeypatch.context() as patch:
        patch.setattr(cost, "_measure", lambda *a: pytest.fail("measured again"))
        assert cost.profile(digits, 2, PROMPTS, cache=tmp_path) == made
    file.write_text("{")
    assert cost.profile(digits, 2, PROMPTS, cache=tmp_path).sites.keys() == made.sites.keys()
    assert cost.profile(digits, 3, PROMPTS, cache=tmp_path).mark != made.mark


def test_bytes_are_those_of_the_tensors():
    def work():
        a = torch.zeros(1000, dtype=torch.float64)  # 8 kB
        b = a + 1  # 16 kB
        del a
        return (b + 1).sum()  # 16 kB again: a is gone

    assert 16_000 <= cost.peak_bytes(work) <= 16_000 + 64
    assert cost.peak_bytes(lambda: [torch.zeros(1000) for _ in range(5)]) == 20_000


def test_memory_counts_weights_and_what_caches_keep(digits, kept):
    plain = cost.predict(digits, digits.plan(steps=6), 4, PROMPTS, cache=kept)
    small = cost.predict(digits, digits.plan(steps=6, compress=("int8",)), 4, PROMPTS, cache=kept)
    cached = cost.predict(digits, digits.plan(steps=6, accelerate=("taylorseer:interval=3",)), 4, PROMPTS, cache=kept)
    assert small.bytes < plain.bytes < cached.bytes


def test_bad_batch(digits):
    with pytest.raises(ornstein.OrnsteinError, match="batch=0"):
        cost.profile(digits, 0)
