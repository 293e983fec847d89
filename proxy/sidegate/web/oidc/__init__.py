"""OpenID Connect back-channel logout: identity providers revoke sessions by logout token.

    routes     the request handler
    token      verification of logout tokens
    keys       the cache of a provider's keys
    sources    where the keys are fetched from
    jose       JSON Web Keys and signatures, by PyJWT

Imported only if a provider is configured: PyJWT and its dependencies take 9 MB.
"""
