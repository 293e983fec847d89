"""The admin door keeps what its document promises, whatever schemathesis thinks up.

It sends what the document allows and what it forbids, goes from answer to answer along the links,
and compares each answer with the document. More of it by hand, with the seed of a failure or
another:

    SIDEGATE_TESTS_EXAMPLES=2000 SIDEGATE_TESTS_SEED=7 ./dev test tests/web/test_openapi_fuzz.py
"""

import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

from sidegate.core.lifetimes import Lifetimes
from sidegate.core.session_type import SessionType
from tests.web.admin.admin_listener import Door, admin_door

ROOT = Path(__file__).parents[3]
EXAMPLES = os.environ.get("SIDEGATE_TESTS_EXAMPLES", "20")  # for each route: ten seconds or so
SEED = os.environ.get("SIDEGATE_TESTS_SEED", "1")
# As long as settings allow: the document cannot know what these are.
LIFETIMES = dict.fromkeys(SessionType, Lifetimes(timedelta(days=3650), None))


async def test_the_door_keeps_what_its_document_promises(tmp_path: Path) -> None:
    async with admin_door(tmp_path, lifetimes=LIFETIMES, patience=60) as door:
        await door.analytics.sample()  # without one nobody knows, which it would take for a failure
        status, told = await schemathesis(door, tmp_path)

    assert status == 0, told


async def schemathesis(door: Door, directory: Path) -> tuple[int | None, str]:
    """Let it loose on the door; return its exit status, and what it has to say with the seed."""
    # Not measured: it is no part of us, and coverage would slow it down.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    ours = {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.web.admin.beyond_schemas"}
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "schemathesis.cli", "run"],
        f"http://127.0.0.1:{door.port}/openapi.json",
        f"--header=Authorization: Bearer {door.keys['all']}",
        f"--seed={SEED}",
        f"--max-examples={EXAMPLES}",
        *["--checks=all", "--exclude-checks=positive_data_acceptance"],  # ours stands in for it
        *["--continue-on-failure", "--no-color", "--generation-database=none"],
        env=environ | ours,
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    return process.returncode, told.decode()
