"""The documents of the admin API: what may come in, and what goes out."""
