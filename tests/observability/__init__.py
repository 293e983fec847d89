"""What is watched, watched."""
