"""Write the pages of docs/reference/ that are generated from the code: `./dev reference [FOLDER]`.

A test compares them with the committed ones.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from reference_pages import api, configuration, metrics

ROOT: Final = Path(__file__).resolve().parent.parent

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "configuration.md": lambda: configuration.build_page(ROOT / "config/sidegate.yaml"),
    "metrics.md": metrics.build_page,
    "api.md": api.build_page,
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/reference"
    for name, build_page in PAGES.items():
        (folder / name).write_text(build_page(), "utf-8")


if __name__ == "__main__":
    main()
