"""Write what is generated from the code: `./dev reference [FOLDER]`.

These are pages of docs/reference/, the configurations in deploy/, and the parts of configurations
in docs/gateways/. FOLDER instead of this tree: a test compares it with the committed files.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from reference_pages import api, configuration, gateways, metrics

ROOT: Final = Path(__file__).resolve().parent.parent

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "configuration.md": lambda: configuration.build_page(ROOT / "config/sidegate.yaml"),
    "metrics.md": metrics.build_page,
    "api.md": api.build_page,
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for name, build_page in PAGES.items():
        _write(folder / "docs/reference" / name, build_page())
    for name, page in gateways.build_pages(ROOT / "docs/gateways"):
        _write(folder / "docs/gateways" / name, page)
    for name, text in gateways.build_files(ROOT / "deploy"):
        _write(folder / "deploy" / name, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
