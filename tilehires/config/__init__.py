"""Settings: their types, where they come from, and which source wins. Imports no torch."""

from tilehires.config.config import Config
from tilehires.config.layers import Rank
from tilehires.config.override import parse_set
from tilehires.config.settings import Settings

__all__ = ["Config", "Rank", "Settings", "parse_set"]
