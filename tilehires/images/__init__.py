"""The only place where image files are read and written: profiles, orientation, alpha, 8 and 16 bit, metadata."""

from __future__ import annotations

from tilehires.images.decoder import Decoder, InProcess, Isolated
from tilehires.images.picture import MAX_PIXELS, SUFFIXES, FileFormat, Picture, Probe
from tilehires.images.read import probe, read
from tilehires.images.write import check_writable, encode, suffix_of, write

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "Decoder",
    "FileFormat",
    "InProcess",
    "Isolated",
    "Picture",
    "Probe",
    "check_writable",
    "encode",
    "probe",
    "read",
    "suffix_of",
    "write",
]
