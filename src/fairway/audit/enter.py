"""First thing in the process for foreign code: leave the network, while it has one thread.

A namespace of its own needs no privileges, but numpy and torch start threads when they are
imported, and a process with several may not change. So this file is run by its path.
"""

import ctypes
import runpy
import sys

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # linux/sched.h


def cut_network() -> bool:
    """Move into a network of its own, without any device. False where the system forbids it."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NET) == 0)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        sys.path.pop(0)  # this file's folder
    sys.argv.append("cut" if cut_network() else "open")
    runpy.run_module("fairway.audit.child", run_name="__main__")
