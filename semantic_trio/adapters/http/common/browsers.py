"""Requests of people: a browser that is given an address asks for a page.

Knows one header.
"""

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header


def wants_page(accept: str) -> bool:
    """Return True for the `Accept` header of a browser that opens an address; programs take JSON,
    or say nothing.
    """
    return (
        parse_accept_header(accept, MIMEAccept).best_match(["application/json", "text/html"])
        == "text/html"
    )
