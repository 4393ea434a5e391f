"""`python -P -m fairway`, also under torchrun.

Without -P, Python looks for modules in the current folder first: docs/security.md.
"""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # too late for what was imported before this line, in time for all the rest

from fairway.cli.main import main

if __name__ == "__main__":
    main()
