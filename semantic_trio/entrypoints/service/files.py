"""Files that a service is made of."""

import os
import tempfile
from pathlib import Path

# Modes: of a file that only its owner reads, and of one that everybody may.
PRIVATE, PUBLIC = 0o600, 0o644


def write(file: Path, content: str, mode: int) -> None:
    """Write a file whole or not at all, and make its directory. Raises `PermissionError`."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.")  # of mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as written:
                written.write(content)
                os.fchmod(descriptor, mode)
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise PermissionError(f"{file} cannot be written to: {error.strerror}") from error


def read(file: Path) -> str:
    """Return the text of a file; nothing where it does not exist. Raises `PermissionError`."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise PermissionError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from error
