"""Build the rules that a reload changes from the settings."""

from sidegate.core.token import KeyRing
from sidegate.services.rules import Rules
from sidegate.settings import Settings, read_token_keys
from sidegate.web.gateways.identity_headers import IdentityLimit, IdentityNames


def build_rules(settings: Settings) -> Rules:
    """Return the rules of the settings. Raise SettingsError if the token keys cannot be read."""
    identity = IdentityLimit(read_identity_names(settings), settings.gate.max_identity)
    return Rules(
        ring=KeyRing(read_token_keys(settings)),
        lifetimes=settings.sessions.lifetimes_by_type(),
        limits=settings.sessions.limits_by_type(),
        binding_policies=settings.binding.policies(),
        prefix_lengths=settings.binding.prefix_lengths(),
        check_identity=identity.check,
    )


def read_identity_names(settings: Settings) -> IdentityNames:
    """Return the names of the identity headers."""
    return IdentityNames(**settings.gate.identity.model_dump())
