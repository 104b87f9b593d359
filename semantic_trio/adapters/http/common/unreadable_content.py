"""Images, documents and sound in conversations with a text model: the placeholder that the model
reads, and the header that the client gets.

Knows kinds of content. Knows nothing of protocols. Refusing such content would end the
conversation: clients send it again with every turn.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from semantic_trio.domain.conversation import Conversation, Text, Unread
from semantic_trio.domain.errors import InvalidRequestError

UNREAD_HEADER = b"x-semantic-unread"

# For each kind: its name in the placeholder, and the reason.
KINDS: Mapping[str, tuple[str, str]] = {
    "image": ("an image", "this model cannot see images"),
    "document": ("a document", "this model reads documents as text alone"),
    "audio": ("a sound recording", "this model cannot hear"),
    "video": ("a video", "this model cannot see videos"),
}
# Types of parts that a text model cannot read, of all protocols.
UNREADABLE: Mapping[str, str] = {
    "image": "image",
    "image_url": "image",
    "image_file": "image",
    "input_image": "image",
    "computer_screenshot": "image",
    "document": "document",
    "file": "document",
    "input_file": "document",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
    "video": "video",
    "video_url": "video",
    "input_video": "video",
}


def placeholder_text(kind: str, place: str, name: str = "") -> Text:
    """Return the placeholder for content of a kind; `name` is the file's, where it has one."""
    what, reason = KINDS[kind]
    return Text(f"[{what}{f' ({name})' if name else ''}; {reason}]", Unread(kind, place))


def refuse_unreadable_content(conversation: Conversation) -> None:
    """Raise `InvalidRequestError` for the first unreadable content in a message of the user, the
    assistant or the system.

    Results of tools are exempt: a session has to survive a tool that finds an image.
    """
    for unread in (
        part.unread
        for message in conversation.messages
        for part in message.parts
        if isinstance(part, Text)
    ):
        if unread is not None:
            raise InvalidRequestError(KINDS[unread.kind][1], unread.place, quotes=False)


def unread_headers(unread: Sequence[Unread]) -> list[tuple[bytes, bytes]]:
    """Return the header that counts unreadable content by kind, `image=2; document=1`; none if
    everything can be read.
    """
    counts = Counter(one.kind for one in unread)
    text = "; ".join(f"{kind}={count}" for kind, count in counts.items())
    return [(UNREAD_HEADER, text.encode())] if text else []
