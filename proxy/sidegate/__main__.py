"""`python -m sidegate` is `sidegate`."""

from sidegate.cli.main import main

main(prog_name="sidegate")
