"""Request and response schemas of the admin API."""
