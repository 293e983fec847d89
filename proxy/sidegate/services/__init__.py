"""What Sidegate does: validate a request's token, and carry a session through its life."""
