"""Plans travel: JSON there and back, refused where they do not belong."""

import json

import pytest
import torch
from torch import nn

from ornstein.core.errors import OrnsteinError
from ornstein.core.plan import Plan, fingerprint


def test_json_round_trip(tmp_path):
    plan = Plan(model="digits", fingerprint="00ff", solver="dpmpp2m", steps=12, grid="karras", guidance=("cfg:scale=3",),
                accelerate=("firstblock:threshold=0.1",), figures={"loss": [0.1, 0.2], "note": "é"})  # fmt: skip
    file = plan.save(tmp_path / "plan.json")
    assert Plan.load(file) == plan
    assert json.loads(file.read_text(encoding="utf-8"))["steps"] == 12
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    assert Plan.load(Plan().save(tmp_path / "empty.json")) == Plan()


@pytest.mark.parametrize("text, words", [
    ("{", "is not a plan. It must be the JSON file that ornstein wrote."),
    ("[1, 2]", "is not a plan"),
    (b"\xff\xfe\x00", "is not a plan"),
    ('{"stpes": 3}', r"unknown field of the plan .*plan.json 'stpes'. Did you mean 'steps'\?"),
    ('{"steps": 0}', "steps=0 is not a positive whole number"),
    ('{"steps": "20"}', "steps='20' is not a positive whole number"),
    ('{"steps": true}', "steps=True is not a positive whole number"),
    ('{"dtype": "float23"}', r"unknown dtype 'float23'. Did you mean 'float32'\?"),
    ('{"dtype": "nn"}', "unknown dtype 'nn'"),
    ('{"dtype": 3}', "unknown dtype '3'"),
    ('{"guidance": "cfg:scale=3"}', "guidance='cfg:scale=3' is not a list of parts"),
])  # fmt: skip
def test_damaged_plans(tmp_path, text, words):
    file = tmp_path / "plan.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(OrnsteinError, match=words):
        Plan.load(file)


def test_a_missing_plan(tmp_path):
    with pytest.raises(OrnsteinError, match="there is no plan at .*none.json. Make one with `ornstein generate --save-plan FILE`."):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(OrnsteinError, match="is not a plan"):
        Plan.load(tmp_path)


def test_fingerprints():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    mark = fingerprint(model)
    assert len(mark) == 16 and int(mark, 16) >= 0 and fingerprint(model) == mark
    other = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    assert fingerprint(other) != mark
    other.load_state_dict(model.state_dict())
    assert fingerprint(other) == mark
    with torch.no_grad():
        model[0].weight += 1e-3
    assert fingerprint(model) != mark
    assert fingerprint(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))) != mark
    assert fingerprint(nn.Linear(3, 3).bfloat16()) and fingerprint(nn.ReLU())


def test_a_plan_for_another_model():
    model, other = nn.Linear(4, 4), nn.Linear(4, 4)
    plan = Plan(model="digits", fingerprint=fingerprint(model))
    assert plan.for_model("digits", model) is plan and Plan().for_model("any", other) == Plan()
    with pytest.raises(OrnsteinError, match=r"the plan was made for 'digits' \(.{16}\), not for 'emoji' \(.{16}\). Make a plan"):
        plan.for_model("emoji", other)


@pytest.mark.parametrize("field,value", [("solver", 3), ("guidance", (3,)), ("accelerate", "firstblock"), ("dtype", "float64")])
def test_fields_of_the_wrong_kind_are_refused(field, value):
    with pytest.raises(OrnsteinError, match=field if field != "dtype" else "float64"):
        Plan(**{field: value})
