"""Read YAML strictly: a key stands once, and is a text. No mistake repeats what was read."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml


class _Twice(yaml.YAMLError):
    """A key stands twice in one mapping, or is not a text."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML lets the last of two equal keys win; an operator would look at the first for hours."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if not isinstance(key, str) or key in keys[:position]:
                line = node.value[position][0].start_mark.line + 1
                wrong = "stands twice" if isinstance(key, str) else "is not a text: quote it"
                raise _Twice(f"the key in line {line} {wrong}")
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does, but whatever its constructors raise becomes an error of its own."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            raise yaml.MarkedYAMLError(problem_mark=node.start_mark) from None


def read_yaml(config: Path, mistakes: list[str]) -> dict[str, Any]:
    """Return what the file holds; what is wrong with it is added to `mistakes`."""
    try:
        tree = yaml.load(config.read_text("utf-8"), _StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        mistakes.append(f"{config}: cannot be read: {error.strerror}; give --config another file")
    except UnicodeDecodeError:
        mistakes.append(f"{config}: is not UTF-8")
    except _Twice as twice:
        mistakes.append(f"{config}: {twice}")
    except RecursionError:
        mistakes.append(f"{config}: is nested too deeply to be settings")
    except yaml.YAMLError as error:
        # Without PyYAML's own words, which repeat what it stumbled over.
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        mistakes.append(f"{config}: is not YAML{where}; quote what has special characters")
    else:
        if tree is None or isinstance(tree, dict):
            return tree or {}
        mistakes.append(f"{config}: holds no settings; write them as `name: value`")
    return {}
