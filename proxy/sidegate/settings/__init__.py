"""The settings: read from a file and the environment, validated, and frozen.

`SIDEGATE_*` variables take precedence over the YAML file, and that over the defaults. The file is
that of `--config`, else of SIDEGATE_CONFIG, else /etc/sidegate/sidegate.yaml if it exists.
"""

from sidegate.settings.admin_key_file import read_admin_key
from sidegate.settings.check import load
from sidegate.settings.sections import Settings
from sidegate.settings.token_file import read_token_keys

__all__ = ["Settings", "load", "read_admin_key", "read_token_keys"]
