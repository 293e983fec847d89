"""Strict YAML: keys are unique texts. No error message contains a part of the file."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml


class _InvalidKey(yaml.YAMLError):
    """A key is duplicate in its mapping, or is not a text."""


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that rejects duplicate keys, of which PyYAML silently uses the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if not isinstance(key, str) or key in keys[:position]:
                line = node.value[position][0].start_mark.line + 1
                problem = "is a duplicate" if isinstance(key, str) else "is not a text: quote it"
                raise _InvalidKey(f"the key in line {line} {problem}")
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct as PyYAML does, and raise MarkedYAMLError for any error of a constructor."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            raise yaml.MarkedYAMLError(problem_mark=node.start_mark) from None


def read_yaml(config: Path, errors: list[str]) -> dict[str, Any]:
    """Return the mapping in the file, or {} after adding an error to `errors`."""
    try:
        tree = yaml.load(config.read_text("utf-8"), _StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        errors.append(f"{config}: cannot be read: {error.strerror}; check the path in --config")
    except UnicodeDecodeError:
        errors.append(f"{config}: is not UTF-8")
    except _InvalidKey as error:
        errors.append(f"{config}: {error}")
    except RecursionError:
        errors.append(f"{config}: is nested too deeply")
    except yaml.YAMLError as error:
        # Without PyYAML's message, which repeats a part of the file.
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        errors.append(f"{config}: is not valid YAML{where}; quote values with special characters")
    else:
        if tree is None or isinstance(tree, dict):
            return tree or {}
        errors.append(f"{config}: is not a mapping; write settings as `name: value`")
    return {}
