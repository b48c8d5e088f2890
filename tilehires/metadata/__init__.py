"""What generators write into images: read for their settings, written so that their tools can read ours."""

from __future__ import annotations

from tilehires.metadata.a1111 import Infotext
from tilehires.metadata.metadata import Metadata
from tilehires.metadata.reading import from_texts, read
from tilehires.metadata.writing import texts_for

__all__ = ["Infotext", "Metadata", "from_texts", "read", "texts_for"]
