"""Host and port as they stand in URLs."""


def authority(host: str, port: int) -> str:
    """Return host and port as a URL has them: the address of IPv6 in brackets.

    >>> authority("localhost", 8000), authority("::1", 8000)
    ('localhost:8000', '[::1]:8000')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
