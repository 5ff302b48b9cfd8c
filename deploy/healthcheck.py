"""The image's health check: exit code 0 when the server in this container answers GET /ping within 2 seconds.

Only the standard library, so that a look every 30 seconds costs next to nothing.
"""

import http.client
import os
import sys


def main() -> int:
    """0 if the server answers with 200."""
    host = os.environ.get("IMMICH_HOST", "").strip("[] ")
    if host in {"", "::", "0.0.0.0"}:  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    connection = http.client.HTTPConnection(host, int(os.environ.get("IMMICH_PORT") or 3003), timeout=2)
    try:
        connection.request("GET", "/ping")
        return int(connection.getresponse().status != 200)
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"no answer from {host}: {error}\n")
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
