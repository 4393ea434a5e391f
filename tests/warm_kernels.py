"""Load the compiled kernels of exact decoding, once for all processes that are forked later.

The template of tests/processes.py imports this last.
"""

import gc
import tempfile
from pathlib import Path

from fairway.pipeline.prove import decode

GOLDEN = Path(__file__).parent / "golden"

with tempfile.TemporaryDirectory() as folder:
    decode(GOLDEN / "memory.fairway", GOLDEN / "memory.fwp", Path(folder) / "text")
gc.freeze()  # a collection in a fork would copy every page that holds an object
