"""Build the rules that a reload changes from the settings."""

from sidegate.core.token import KeyRing
from sidegate.services.rules import Rules
from sidegate.settings import Settings, read_token_keys


def build_rules(settings: Settings) -> Rules:
    """Return the rules of the settings. Raise SettingsError if the token keys cannot be read."""
    return Rules(
        ring=KeyRing(read_token_keys(settings)),
        lifetimes=settings.sessions.lifetimes_by_type(),
        limits=settings.sessions.limits_by_type(),
        binding_policies=settings.binding.policies(),
        prefix_lengths=settings.binding.prefix_lengths(),
    )
