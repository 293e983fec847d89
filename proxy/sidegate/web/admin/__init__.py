"""The admin API, which manages sessions, and its OpenAPI document."""
