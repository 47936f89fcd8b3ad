"""`GET /`: the live page and its files, which come from this package and ask nothing of any other place."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

FOLDER = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asked for again each time, and answered with 304
}


def create_page() -> APIRouter:
    """The page and its files. They hold no data: that is `/live`'s. Links are relative, so any prefix before them will do."""
    routes = APIRouter()
    files = {file.name: file for file in FOLDER.iterdir() if file.suffix in TYPES}

    @routes.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _answer(request, files["index.html"])

    @routes.get("/page/{name}", include_in_schema=False)
    async def part(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "the page has no such file")
        return _answer(request, files[name])

    return routes


def _answer(request: Request, file: Path) -> Response:
    body = file.read_bytes()
    headers = {**HEADERS, "etag": f'"{sha256(body).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(body, headers={**headers, "content-type": TYPES[file.suffix]})
