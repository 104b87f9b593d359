"""The files of the dashboard, as they are in the package: one page, its style and its scripts.

Knows file names and headers. The files hold nothing of this server and need no key: a browser loads
them before it can ask its user for one.
"""

from importlib import resources

from quart import Blueprint, Response, abort
from quart_schema import hide

STATIC = resources.files(__package__) / "static"
KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
PAGE = "index.html"
# The page takes everything from here, and nothing becomes markup that is not in its files.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
}


def routes() -> Blueprint:
    """Build the routes `/dashboard` and `/dashboard/static/<name>`."""
    blueprint = Blueprint("dashboard", __name__)
    files = {
        file.name: file.read_bytes()
        for file in STATIC.iterdir()
        if file.name.rpartition(".")[2] in KINDS
    }

    @blueprint.get("/dashboard")
    @hide
    async def page() -> Response:
        """Return the page."""
        return _response(PAGE, files[PAGE])

    @blueprint.get("/dashboard/static/<name>")
    @hide
    async def static(name: str) -> Response:
        """Return a file of the page."""
        if name not in files:
            abort(404)
        return _response(name, files[name])

    return blueprint


def _response(name: str, content: bytes) -> Response:
    response = Response(content, content_type=KINDS[name.rpartition(".")[2]])
    response.headers.extend(HEADERS)
    return response
