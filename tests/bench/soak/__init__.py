"""The soak test: a load below saturation, after which no resource has grown without a reason.

__main__    the command line: `./dev soak --help`
load        checks, logins, refreshes and revocations at a constant rate
sample      what is measured, and how
growth      how much each resource may grow: by the settings and the sessions
"""
