"""For all tests: no network, and one torch thread (tiny models fall from seconds to tenths)."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Before anything imports torch: it reads this once.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# A busy machine is no defect of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A script's background job ignores Ctrl-C, and so would what it tests: some tests press it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
