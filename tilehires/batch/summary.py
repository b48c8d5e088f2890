"""How a run ended: counts, and the exit code that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tilehires.batch.discover import Discovery
from tilehires.errors import ExitCode
from tilehires.records import Record, empty_record


@dataclass(frozen=True, slots=True)
class Summary:
    """Every input's fate. `left`: images not reached because the run was interrupted or limited."""

    records: tuple[Record, ...] = field(repr=False)
    left: int = 0
    interrupted: bool = False
    strict: bool = False
    report: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        """Images finished by this run or before it (`cached` counts the latter)."""
        return sum(record.status == "done" for record in self.records)

    @property
    def cached(self) -> int:
        return sum(record.status == "done" and record.cached for record in self.records)

    @property
    def flagged(self) -> int:
        return sum(record.flagged for record in self.records)

    @property
    def failed(self) -> int:
        return sum(record.status == "failed" for record in self.records)

    @property
    def skipped(self) -> int:
        return sum(record.status == "skipped" for record in self.records)

    @property
    def exit_code(self) -> ExitCode:
        if self.interrupted:
            return ExitCode.INTERRUPTED
        if self.failed:
            return ExitCode.IMAGES_FAILED
        if self.flagged and self.strict:
            return ExitCode.FLAGGED
        return ExitCode.OK

    def counts(self) -> dict[str, int]:
        """As in report.json."""
        return {
            "done": self.done,
            "cached": self.cached,
            "flagged": self.flagged,
            "failed": self.failed,
            "skipped": self.skipped,
        }

    def lines(self) -> list[str]:
        """For the terminal: one line of counts, then one for each image that failed, was flagged or skipped."""
        made = f"{self.done} done" + (f" ({self.cached} already were)" if self.cached else "")
        parts = [made, f"{self.flagged} flagged", f"{self.failed} failed", f"{self.skipped} skipped"]
        if self.left:
            parts.append(f"{self.left} not reached")
        lines = [", ".join(parts) + "."]
        for record in self.records:
            if record.error:
                lines.append(f"failed   {record.id}: {record.error.message} {record.error.hint}".rstrip())
            elif record.status == "skipped":
                lines.append(f"skipped  {record.id}: {'; '.join(record.notes)}")
            for finding in record.findings:
                if finding.flags:
                    lines.append(f"flagged  {record.id}: {finding.check}: {finding.message}")
        lines += [f"warning  {text}" for text in self.warnings]
        if self.report:
            lines.append(f"Report: {self.report}")
        if self.interrupted:
            lines.append("Interrupted. What is done is kept: the same command goes on from here.")
        return lines


def summary_of(records: Mapping[str, Record], found: Discovery, interrupted: bool, strict: bool) -> Summary:
    """What was done of `found`, in the order of the ids also where workers finished in another."""
    skipped = [empty_record(file.id, "skipped", notes=(file.reason,)) for file in found.skipped]
    order = {image.id: number for number, image in enumerate(found.found)}
    made = sorted(records.values(), key=lambda record: order.get(record.id, len(order)))
    left = sum(image.id not in records for image in found.found)
    return Summary((*made, *skipped), left, interrupted, strict)
