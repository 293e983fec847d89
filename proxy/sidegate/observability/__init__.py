"""What is watched: metrics and logs."""
