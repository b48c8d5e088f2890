"""The review page: one offline HTML file made from report.json (schema: docs/report-json.md)."""

from tilehires.report.document import load
from tilehires.report.missing import in_words, missing
from tilehires.report.page import write_page

__all__ = ["in_words", "load", "missing", "write_page"]
