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


def test_a_record_of_several_batches_is_not_that_of_one(digits, kept):
    plan = digits.plan(steps=4)
    record = digits.generate(PROMPTS[:8], plan, batch=4).record
    told = [cost.predict(digits, plan, 4, PROMPTS, record=r, cache=kept) for r in (record, None)]
    assert told[0].calls == told[1].calls == 4 and told[0].flops == told[1].flops


def test_half_precision_is_measured_in_half_precision(digits, kept, monkeypatch):
    seen = []
    hook = digits.backbone.blocks[0].register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    half = cost.profile(digits, 1, PROMPTS, cache=kept, dtype="bfloat16")
    hook.remove()
    assert seen and all(seen) and half.mark != cost._mark(digits, 1, "float32")
    monkeypatch.setattr(cost, "_measure", lambda *a: pytest.fail("measured anew, or in float32"))
    assert cost.predict(digits, digits.plan(steps=2, dtype="bfloat16"), 1, PROMPTS, cache=kept).calls == 2


def test_a_home_that_cannot_be_written_is_no_hindrance(digits, tmp_path):
    (tmp_path / "file").write_text("")
    assert cost.profile(digits, 1, PROMPTS, cache=tmp_path / "file" / "profiles").network[0] > 0


class _Made:
    """A profile with round figures, and a record with counts."""

    @staticmethod
    def record(left, calls=10, asked=30.0):
        made = cost.Record()
        made.calls.update({"evaluations": calls, "cond": calls})
        for site, (n, done) in left.items():
            made.asked_at[site], made.computed_at[site] = n, done
        made.asked_of["Part"] = asked
        made.facts["samples"] = 2
        return made


def test_seconds_are_calls_less_what_was_left_out_and_what_parts_take(digits, monkeypatch):
    sites = {"/network": (1.0, 100.0, 7), "b/block": (0.25, 20.0, 5), "b.attn/attention": (0.125, 10.0, 3)}
    made = cost.Profile("m", 4, sites, 0.5, {"taylorseer:interval=2": (0.01, 2.0)})
    monkeypatch.setattr(cost, "profile", lambda *a, **k: made)
    record = _Made.record({"b/block": (10, 4), "b.attn#1/attention": (10, 6), "c/block": (3, 3)})
    plan = digits.plan(steps=10, accelerate=("taylorseer:interval=2",))
    told = cost.predict(digits, plan, 4, PROMPTS, record=record)
    assert told.seconds == pytest.approx(10 * 1.0 + 10 * 0.5 - 6 * 0.25 - 4 * 0.125 + 30 * 0.01)
    assert told.flops == 10 * 100 - 6 * 20 - 4 * 10 + 30 * 2
    assert told.sites == {"b/block": -1.5, "b.attn#1/attention": -0.5, "parts": pytest.approx(0.3)}
    record.facts["guidance"] = {"x": {"cache_bytes": 6}}
    assert cost.predict(digits, plan, 4, PROMPTS, record=record).bytes == told.bytes + 12  # of two samples, for four


def test_what_a_part_takes_is_the_rest_of_its_share(digits, monkeypatch):
    made = cost.Profile("m", 4, {"/network": (1.0, 100.0, 7), "b/block": (0.25, 20.0, 5)}, 0.0)
    plan = digits.plan(steps=30, accelerate=("taylorseer:interval=2",), guidance=("cfg:scale=2",))
    bare, busy = _Made.record({}, 10), _Made.record({"b/block": (10, 6)}, 10, 50.0)
    asked = []

    def run(model, plan, count, prompts, tries=3):
        asked.append((plan.steps, plan.guidance))
        return (1.9, busy) if plan.accelerate else (2.0, bare)

    monkeypatch.setattr(cost, "_run", run)
    monkeypatch.setattr(cost, "flops", lambda work: work() and 1020)
    seconds, count = cost._part(made, digits, plan, PROMPTS, None)
    assert seconds == pytest.approx((0.95 * 10.0 - 9.0) / 50) and count == (1020 - 920) / 50
    assert set(asked) == {(cost.SHORT, ())} and made.parts == {"taylorseer:interval=2": (seconds, count)}


def test_a_step_beside_its_calls(digits, monkeypatch):
    monkeypatch.setattr(cost, "_measure", lambda *a: {"/network": (1.0, 100.0, 7)})
    monkeypatch.setattr(cost, "_run", lambda model, plan, *a: (13.0, _Made.record({}, plan.steps)))
    assert cost.profile(digits, 1, cache=None).step == pytest.approx((13.0 - cost.SHORT) / cost.SHORT)


def test_on_one_thread_the_seconds_are_the_processors(monkeypatch):
    monkeypatch.setattr(cost.time, "process_time", lambda: 1.0)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: 2.0)
    assert cost.now(torch.device("cpu")) == 1.0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert cost.now(torch.device("cpu")) == 2.0
