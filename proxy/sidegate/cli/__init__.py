"""What the command line can do. Each command imports what it needs itself: `--help` is quick."""
