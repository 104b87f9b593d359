"""What a model of text is told of images, documents and sound that stand in a conversation, and what the client is told of these.

Knows kinds of content. Knows nothing of protocols. To refuse such a message would end the conversation: clients send it again with every turn.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from semantic_trio.domain.conversation import Conversation, Text, Unread
from semantic_trio.domain.errors import InvalidRequestError

UNREAD_HEADER = b"x-semantic-unread"

# For each kind: its name to the model, and why the model does not read it.
KINDS: Mapping[str, tuple[str, str]] = {
    "image": ("an image", "this model cannot see images"),
    "document": ("a document", "this model reads documents as text alone"),
    "audio": ("a sound recording", "this model cannot hear"),
    "video": ("a video", "this model cannot see videos"),
}
# Types of parts that no model of text can read, in the words of every protocol.
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
    """The text that stands for something of a kind; `name` is the file's, where it has one."""
    what, reason = KINDS[kind]
    return Text(f"[{what}{f' ({name})' if name else ''}; {reason}]", Unread(kind, place))


def refuse_unreadable_content(conversation: Conversation) -> None:
    """Raises `InvalidRequestError` for the first thing a user, the assistant or the system says that the model cannot read.

    Results of tools are left as they are: a session has to survive a tool that finds an image.
    """
    for unread in (part.unread for message in conversation.messages for part in message.parts if isinstance(part, Text)):
        if unread is not None:
            raise InvalidRequestError(KINDS[unread.kind][1], unread.place, quotes=False)


def unread_headers(unread: Sequence[Unread]) -> list[tuple[bytes, bytes]]:
    """The header that tells how many of each kind the model cannot read, `image=2; document=1`; none where it can read everything."""
    counts = Counter(one.kind for one in unread)
    told = "; ".join(f"{kind}={count}" for kind, count in counts.items())
    return [(UNREAD_HEADER, told.encode())] if told else []
