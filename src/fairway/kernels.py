"""Import numba without settings from the current folder, and with a cache of our own.

numba reads .numba_config.yaml from the current folder when it is imported and before each
compilation, and unpickles whatever lies in the cache folder that this file may name.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from fairway import startup


def _import_numba() -> Any:
    """Import numba while nothing can read YAML, then let it read no file of settings."""
    before = sys.modules.get("yaml")
    sys.modules["yaml"] = None  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A Numba config file")  # which it now cannot read
            import numba
    finally:
        del sys.modules["yaml"]
        if before:
            sys.modules["yaml"] = before
    numba.core.config._config_fname = os.devnull
    numba.core.config.reload_config()  # whoever imported it before us may have read such a file
    return numba


_numba = _import_numba()
_FOLDER = startup.kernel_cache()


def njit(**options: Any) -> Any:
    """Return numba.njit(**options); with `cache=True` it keeps code in our folder or nowhere."""

    def compiled(function: Any) -> Any:
        config = _numba.core.config
        before = config.CACHE_DIR
        try:
            if _FOLDER:
                config.CACHE_DIR = _FOLDER
                kernel = _numba.njit(**options)(function)
                if kernel.stats.cache_path.startswith(_FOLDER):
                    return kernel
        except RuntimeError:  # no folder can be written
            pass
        finally:
            config.CACHE_DIR = before
        return _numba.njit(**{**options, "cache": False})(function)

    return compiled
