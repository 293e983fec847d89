"""What is true of one store only; what all promise is in tests/contracts."""
