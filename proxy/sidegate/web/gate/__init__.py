"""The gate listener: session checks for gateways, and the session status."""
