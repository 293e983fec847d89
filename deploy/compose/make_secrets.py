"""Write new random secrets into ./secrets beside this file, for compose.yaml. Run it once.

Only the owner can open the folder. Its files are readable by all users, because each container
mounts its own files and runs as a user of its own.
"""

import base64
import hashlib
import json
import secrets
from pathlib import Path

FOLDER = Path(__file__).parent / "secrets"


def main() -> None:
    FOLDER.mkdir(mode=0o700)  # fails if it exists: new secrets would not match the database
    for name, text in generate_secrets().items():
        file = FOLDER / name
        file.write_text(text + "\n", encoding="ascii")
        file.chmod(0o444)
    print(f"secrets written to {FOLDER}; now: docker compose up --build")  # noqa: T201 - a script


def generate_secrets() -> dict[str, str]:
    """Return the content of each file."""
    postgres, redis, grafana = (secrets.token_urlsafe(24) for _ in range(3))
    token_key = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode("ascii")
    api_key = f"sgk_{secrets.token_urlsafe(32)}"
    admin = {
        "name": "compose",
        "sha256": hashlib.sha256(api_key.encode("ascii")).hexdigest(),
        "scopes": ["read", "write", "revoke"],
    }
    redis_hash = hashlib.sha256(redis.encode("ascii")).hexdigest()
    return {
        "postgres-password": postgres,
        # Without TLS: the network of the stores is internal to this machine.
        "database-url": f"postgresql://sidegate:{postgres}@postgres:5432/sidegate?sslmode=disable",
        "redis-acl": f"user default on #{redis_hash} ~* &* +@all",
        "redis-url": f"redis://:{redis}@redis:6379/0",
        "grafana-password": grafana,
        "token-keys": f"1:{token_key}",
        "admin-keys": json.dumps([admin]),
        "api-key": api_key,  # not mounted: for your requests to the admin API
    }


if __name__ == "__main__":
    main()
