"""The admin API conforms to its OpenAPI document, tested with schemathesis.

Schemathesis sends requests that the document allows and others, follows its links, and compares
each response with the document. To run more examples, or another seed:

    export TESTS_EXAMPLES=2000 TESTS_SEED=7
    ./dev test tests/web/admin/test_openapi_fuzz.py
"""

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

from sidegate.core.lifetimes import Lifetimes
from sidegate.core.session_type import SessionType
from tests.web.admin.admin_listener import AdminHarness, open_admin

ROOT = Path(__file__).parents[3]
EXAMPLES = os.environ.get("TESTS_EXAMPLES", "20")  # per route; takes about 10 s
SEED = os.environ.get("TESTS_SEED", "1")
# The longest that settings allow: the document does not contain the configured lifetimes.
LIFETIMES = dict.fromkeys(SessionType, Lifetimes(timedelta(days=3650), None))


async def test_schemathesis_finds_no_violation(tmp_path: Path) -> None:
    async with open_admin(tmp_path, lifetimes=LIFETIMES, request_timeout=60) as admin:
        await admin.analytics.sample()  # otherwise /v1/analytics is 503
        status, output = await run_schemathesis(admin, tmp_path)

    assert status == 0, output


async def run_schemathesis(admin: AdminHarness, directory: Path) -> tuple[int | None, str]:
    """Run schemathesis against `admin`; return its exit status and its output."""
    # Without coverage measurement, which would slow down schemathesis.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    variables = {
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.web.admin.schemathesis_check",
    }
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "schemathesis.cli", "run"],
        f"http://127.0.0.1:{admin.port}/openapi.json",
        f"--header=Authorization: Bearer {admin.keys['all']}",
        f"--seed={SEED}",
        f"--max-examples={EXAMPLES}",
        *["--checks=all", "--exclude-checks=positive_data_acceptance"],  # replaced by ours
        *["--continue-on-failure", "--no-color", "--generation-database=none"],
        env=environ | variables,
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()
