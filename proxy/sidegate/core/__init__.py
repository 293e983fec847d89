"""Rules as pure values and functions: the standard library only, imported by every layer."""
