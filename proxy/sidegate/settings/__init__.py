"""What the operator decides: read from a file and the environment, checked, and then frozen.

Defaults give way to the YAML file of `--config`, and that to `SIDEGATE_*` variables.
"""

from sidegate.settings.admin_key_file import first_admin_key
from sidegate.settings.check import load
from sidegate.settings.sections import Settings
from sidegate.settings.token_file import token_keys

__all__ = ["Settings", "first_admin_key", "load", "token_keys"]
