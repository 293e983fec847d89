"""The admin listener: the API that manages sessions, and its OpenAPI document."""
