"""Records: their JSON is as documented, and reads back as the same record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tilehires.checks import Finding
from tilehires.geometry import Box
from tilehires.records import ErrorRecord, FileRecord, Record, StageRecord

FULL = Record(
    id="sub/a.png",
    input=FileRecord("sub/a.png", (640, 480), "ab" * 32),
    output=FileRecord("sub/a.png", (1280, 960), "cd" * 32),
    status="done",
    cached=True,
    seed=2**63 - 1,
    settings={"hires.scale": {"value": 2.0, "origin": "flag --scale"}},
    stages=(StageRecord("hires", "ef" * 32, 1.5, False, {"tiles": [[0, 0, 4, 4]]}, {"torch": "2.9"}),),
    findings=(
        Finding("black", "error", 3.0, 0.0, Box(0, 64, 128, 192), "dark"),
        Finding("size", "info", 0.0, 1.0, None, "fine"),
    ),
    notes=("a note",),
)
FAILED = Record(
    "b.png", FileRecord("b.png", (0, 0), ""), None, "failed", error=ErrorRecord("ImageError", "broken", "copy it again")
)


@pytest.mark.parametrize("record", [FULL, FAILED], ids=["done", "failed"])
def test_a_record_reads_back_as_itself(record: Record) -> None:
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_the_json_is_as_documented() -> None:
    body = json.loads(json.dumps(FULL.to_json()))
    assert set(body) >= {
        *("id", "input", "output", "status", "cached", "flagged", "error", "seed"),
        *("settings", "stages", "regions", "findings"),
    }
    assert body["input"] == {"path": "sub/a.png", "size": [640, 480], "sha256": "ab" * 32}
    assert body["flagged"] is True and body["regions"] == [] and body["error"] is None
    assert [finding["box"] for finding in body["findings"]] == [[0, 64, 128, 192], None]
    assert set(body["findings"][0]) == {"check", "severity", "value", "limit", "box", "message"}
    assert FAILED.to_json()["error"] == {"type": "ImageError", "message": "broken", "hint": "copy it again"}


def test_info_is_no_flag() -> None:
    assert FULL.flagged and not FAILED.flagged
    body = FULL.to_json()
    body["findings"] = body["findings"][1:]
    assert not Record.from_json(body).flagged


@pytest.mark.parametrize(
    "damage",
    [
        {"input": {"path": "a"}},
        {"input": {"path": "a", "size": [1], "sha256": ""}},
        {"stages": [{}]},
        {"findings": [{"check": "x"}]},
        {"error": {"what": 1}},
        {"stages": 5},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused_in_the_ways_the_caller_knows(damage: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Record.from_json({**FULL.to_json(), **damage})


@pytest.mark.parametrize("key", ["id", "status", "findings", "stages", "notes", "settings", "seed"])
def test_a_missing_key_is_refused(key: str) -> None:
    body = FULL.to_json()
    del body[key]
    with pytest.raises(KeyError):
        Record.from_json(body)
