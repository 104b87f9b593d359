"""Host and port as they stand in URLs."""


def authority(host: str, port: int) -> str:
    """Host and port of a URL: the address of IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
