"""Back-channel logout: an identity provider posts a logout token, and sessions end.

    routes     the door: one route for each provider, opened by the token's signature
    token      from the text of a logout token to what it asks for
    keys       a provider's keys: fetched when needed, kept for a while
    sources    where they are fetched from
    jose       what is done with keys; PyJWT lives here

Nobody imports this room unless a provider is configured: PyJWT and its libraries take 9 MB.
"""
