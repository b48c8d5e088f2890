"""What a run leaves behind: the types and their JSON (schema version 1, docs/report-json.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from tilehires.checks.finding import Finding
from tilehires.geometry import Box

SCHEMA_VERSION = 1
Status = Literal["done", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file by its path relative to its folder, with width and height in pixels, and the hash of its bytes."""

    path: str
    size: tuple[int, int]
    sha256: str


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """Why an image failed, and what to do next."""

    type: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage of one image: `seconds` is 0 when it came from the cache. `environment` says on what it was computed."""

    name: str
    fingerprint: str
    seconds: float
    cached: bool
    facts: Mapping[str, Any]
    environment: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One input's fate."""

    id: str
    input: FileRecord | None
    """None where the picture was made from a prompt."""
    output: FileRecord | None
    status: Status
    cached: bool = False
    error: ErrorRecord | None = None
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    regions: tuple[Mapping[str, Any], ...] = ()
    """Every detection of the detail passes and its fate, in output pixels."""
    score: float | None = None
    """The largest percentile of its checks' values among good images, 0 to 100; None without a calibration."""
    before: FileRecord | None = None
    """The first pass of a prompt, where it was kept beside the output."""
    attempts: tuple[Mapping[str, Any], ...] = ()
    """Of an image that was tried again: both attempts, the settings the second changed, their scores, and which is kept."""
    review: str = ""
    """"accepted" when a reviewer found the output good, whatever the checks say; "discarded" when it was set aside."""

    @property
    def flagged(self) -> bool:
        return not self.review and any(finding.flags for finding in self.findings)

    @property
    def degraded(self) -> bool:
        """Memory ran out, and a stage was made with smaller tiles than the settings say."""
        return any(finding.check == "memory" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        body: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("input", "output", "before", "error"):
            body[name] = asdict(body[name]) if body[name] else None
        # Not asdict: it would copy the settings, which ten thousand records share.
        body["stages"] = [{one.name: getattr(stage, one.name) for one in fields(stage)} for stage in self.stages]
        body["findings"] = [{**asdict(f), "box": f.box.as_list() if f.box else None} for f in self.findings]
        body["flagged"] = self.flagged
        body["degraded"] = self.degraded
        return body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Record:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else: the caller redoes the image."""
        return cls(
            id=body["id"],
            input=_file(body["input"]) if body["input"] else None,
            output=_file(body["output"]) if body["output"] else None,
            status=body["status"],
            cached=body["cached"],
            error=ErrorRecord(**body["error"]) if body["error"] else None,
            seed=body["seed"],
            settings=body["settings"],
            stages=tuple(StageRecord(**stage) for stage in body["stages"]),
            findings=tuple(
                Finding(**{**finding, "box": Box(*finding["box"]) if finding["box"] else None})
                for finding in body["findings"]
            ),
            notes=tuple(body["notes"]),
            regions=tuple(body.get("regions", ())),
            score=body.get("score"),
            before=_file(body["before"]) if body.get("before") else None,
            attempts=tuple(body.get("attempts", ())),
            review=body.get("review", ""),
        )


def empty_record(
    id: str, status: Status, *, notes: tuple[str, ...] = (), error: ErrorRecord | None = None, file: bool = True
) -> Record:
    """The record of an image of which nothing came, and of whose file (where it has one) nothing but its name is known."""
    return Record(id, FileRecord(id, (0, 0), "") if file else None, None, status, notes=notes, error=error)


VOLATILE = {
    "run": ("started", "finished", "command", "input_folder"),
    "summary": ("cached",),
    "image": ("cached",),
    "stage": ("cached", "seconds"),
    "facts": ("peak_memory_bytes",),
}
"""The fields of report.json that differ between equal runs; no other does (docs/report-json.md)."""


def comparable(report: Mapping[str, Any]) -> dict[str, Any]:
    """report.json's content without its volatile fields: equal for two runs that made the same."""

    def kept(part: Mapping[str, Any], name: str) -> dict[str, Any]:
        return {key: value for key, value in part.items() if key not in VOLATILE[name]}

    images = []
    for image in report["images"]:
        stages = [{**kept(one, "stage"), "facts": kept(one["facts"], "facts")} for one in image["stages"]]
        images.append({**kept(image, "image"), "stages": stages})
    return {
        **report,
        "run": kept(report["run"], "run"),
        "summary": kept(report["summary"], "summary"),
        "images": images,
    }


def _file(body: Mapping[str, Any]) -> FileRecord:
    width, height = body["size"]
    return FileRecord(body["path"], (width, height), body["sha256"])
