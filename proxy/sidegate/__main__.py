"""`python -m sidegate` is `sidegate`."""

import os
import sys

# Python puts the working directory first: a `logging.py` there would be imported. The modules of
# this package are found through the package's own path.
if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109  # a string
    del sys.path[0]

from sidegate.cli.main import main

main(prog_name="sidegate")
