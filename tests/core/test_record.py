"""What a run leaves behind, and files that are whole or absent."""

import json
from types import SimpleNamespace

import pytest

from ornstein.core.clock import Clock
from ornstein.core.record import Record, write_atomic


def test_skipped_share_and_json(tmp_path):
    record, site = Record(steps=4), SimpleNamespace(name="blocks.0", grain="block")
    assert record.skipped() == 0.0
    for k in range(4):
        record.asked(site, Clock())
        if k == 0:
            record.computed(site, Clock())
    assert record.skipped() == 0.75 and record.finish().seconds > 0
    record.facts["odd"] = object()  # written as text, never a crash
    data = json.loads(record.write(tmp_path / "run.json").read_text())
    assert data["asked"] == {"blocks.0/block": 4} and data["computed"] == {"blocks.0/block": 1} and data["skipped"] == 0.75
    assert {"torch", "python", "threads", "machine", "peak_bytes", "calls", "steps"} <= set(data)


def test_records_share_nothing():
    Record().calls["evaluations"] += 1
    assert not Record().calls and not Record().facts


def test_a_file_is_whole_or_absent(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_atomic(file, b"old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("ornstein.core.record.os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(file, b"new")
    assert file.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]
