"""What both SQL databases share: rows, conditions, retries of unknown outcomes, migrations."""
