#!/usr/bin/env python3
"""Whether a server of this container answers: exits with 0 if it does with 2xx, with 1 otherwise; for health checks of images.

Usage: healthy [URL]. Without one it is HEALTH_URL, else `paceline serve`'s liveness. Certificates are not verified: it asks
this very container, and the certificate names another host. No key is sent: the route asked must be open, as /healthz is.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

USUAL = "http://127.0.0.1:9464/healthz"


def main(url: str) -> int:
    """Ask once."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=anybody))
    try:
        with direct.open(url, timeout=4):
            return 0
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("HEALTH_URL") or USUAL))
