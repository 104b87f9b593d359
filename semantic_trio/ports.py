"""Interfaces that the engine needs from outside.

Each port has a real and a fake implementation that pass the same contract tests.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import BinaryIO, Protocol, TypeVar

from semantic_trio.domain.content import AgentRecord, Content, Item
from semantic_trio.domain.conversation import (
    NOTHING_KNOWN,
    AnswerPart,
    Conversation,
    Known,
    Part,
    Prompt,
)
from semantic_trio.domain.embedding import Pooling
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.observation import Observation
from semantic_trio.domain.responses import StoredResponse
from semantic_trio.domain.salt import Salt
from semantic_trio.domain.steering import Grammar
from semantic_trio.domain.step import (
    BlockKey,
    Inventory,
    PassSizes,
    SaveBlock,
    StepPlan,
    StepResult,
)
from semantic_trio.domain.stopping import TextDecoder, Thoughts

Item_contra = TypeVar("Item_contra", contravariant=True)


class ModelRunner(Protocol):
    """Computes steps, and keeps blocks and snapshots between rows.

    One step runs at a time; every row has a cache of its own, which a close gives back.
    """

    @property
    def spec(self) -> ModelCacheSpec:
        """Geometry of the model's caches."""

    @property
    def layout(self) -> str:
        """Name of the way in which rows go through the model together, for people."""

    @property
    def sizes(self) -> PassSizes:
        """Sizes of passes that the model is fast with on its device."""

    async def step(self, plan: StepPlan) -> StepResult:
        """Close rows, drop, open rows, start one forward pass, take snapshots.

        Returns what has been drawn since the last answer; with `in_flight` set the tokens of this
        very plan come with the next answer (a plan without work collects them). A plan with drafts
        is answered at once, for what comes next depends on how many are accepted: of its tokens,
        those that were sampled behind accepted drafts are returned, and what was read beyond them
        is taken out of the rows. A running step is not interrupted by cancellation: its tokens are
        lost to a caller that was. A key that is saved again replaces what was kept under it. Raises
        `StepFailedError` when the device does, and then every row is in doubt until `reset`; stored
        blocks and snapshots are not.
        """

    async def reset(self, keep: tuple[SaveBlock, ...] = ()) -> frozenset[BlockKey]:
        """Drop every row and whatever is in flight; the model and what is stored stay.

        Saves what can still be read of `keep` first, and returns the keys of that. Raises
        `StepFailedError` when the device does.
        """

    async def inventory(self) -> Inventory:
        """Return what the device holds. Raises `StepFailedError` if the device raises."""

    async def export(self, items: Sequence[Item]) -> Mapping[Item, Content]:
        """The content of those of these blocks and snapshots that are stored, to be read by any
        thread.

        It stays as it is whatever becomes of the originals. Raises `StepFailedError` when the
        device does.
        """

    @property
    def embedding_size(self) -> int:
        """Numbers in the vector of a text; 0 for a model that makes none."""

    async def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling
    ) -> list[tuple[float, ...]]:
        """Return the vectors of texts, of length 1.

        Steps may run in between; rows and stores are not touched.

        Raises `StepFailedError` when the device does.
        """

    async def load(self, items: Mapping[Item, Content]) -> None:
        """Store blocks and snapshots. What is stored under the same key is replaced.

        Raises `CacheCorruptionError`, with nothing stored, for content that is none of this
        model's; `StepFailedError` when the device raises.
        """


class CacheFiles(Protocol):
    """Memory of one model as files.

    Blocking: called in worker threads, by several at a time, but never twice for the same thing.

    What is written is there whole or not at all, whatever happens to process and machine.
    """

    def index(self) -> Mapping[Item, int]:
        """The blocks and snapshots that are there, with the bytes they take on disk.

        Opens no file.
        """

    def write(self, item: Item, content: Content) -> int:
        """Keep a block or snapshot; the bytes it takes on disk.

        Raises `OSError`, and then nothing is left behind.
        """

    def read(self, item: Item) -> Content:
        """Return the content of an item.

        Raises `CacheCorruptionError` where that is not there any more as it was (and puts what is
        there aside), `IncompatibleCacheError` where a newer version has written it (and leaves it),
        `OSError` else.
        """

    def remove(self, item: Item) -> None:
        """Delete a block or snapshot, if it is there. Raises `OSError`."""

    def agents(self) -> Sequence[AgentRecord]:
        """All records of agents, in the order of their use.

        Damaged ones are put aside. Raises `OSError` where the directory cannot be read.
        """

    def elsewhere(self) -> Container[str]:
        """The ids of agents that other models in the same place have records of, now.

        Opens no file. Raises `OSError`.
        """

    def newer(self) -> Container[str]:
        """The ids of agents whose records `agents` has left as they are, because a newer version
        has written them.
        """

    def write_agent(self, record: AgentRecord) -> int:
        """Keep a record in the place of the one before; the bytes it takes on disk.

        Raises `OSError`, and then the one before is still there.
        """

    def remove_agent(self, agent: str) -> None:
        """Delete the record of an agent, if it is there. Raises `OSError`."""

    def put_aside(self, item: Item | str, reason: str) -> None:
        """Take a block, snapshot or agent's record that turned out to be wrong out of use, and keep
        it with the reason.

        Raises `OSError`.
        """

    @property
    def archives(self) -> "AgentArchives":
        """Archives of the agents whose memory these files are."""

    def free_bytes(self) -> int:
        """Bytes the file system has left. Raises `OSError`."""


class AgentArchives(Protocol):
    """Agents as archives, which leave and come. Blocking, as `CacheFiles` is."""

    def export_agent(self, record: AgentRecord) -> Iterator[bytes]:
        """An agent as an archive, in pieces: its record, and of the blocks and snapshots that leads
        to what is there.

        What is damaged is left out.

        Each piece may be asked for by another thread. Raises `OSError` on the way.
        """

    def import_agent(
        self, archive: BinaryIO, name: str | None = None, salt: Salt | None = None
    ) -> AgentRecord:
        """Keep the blocks and snapshots of an archive; what is there already stays as it is.

        With a salt they get the names that they have under it, and so no other agent finds them;
        without one they keep the names they have. Returns the record, under the name that is given;
        to write it, last of all, is left to the caller. Raises `AgentExistsError` where there is a
        record of that name, `InvalidRequestError` for an archive that is damaged, another model's
        or of more than belongs to its agent, `OSError`; and then nothing of it is left. Believes
        that a block's content is what its tokens make of it: that cannot be known without computing
        it.
        """

    def spool(self) -> BinaryIO:
        """A file without a name for an archive that is on its way in; it is gone when it is closed,
        or with the process.

        Raises `OSError`.
        """


class AnswerReader(Protocol):
    """Takes one answer apart while it comes: text, thoughts, calls, in the words of one model."""

    def push(self, text: str) -> list[AnswerPart]:
        """Return what is certain now: more text, more of a thought, more of a call, or a whole
        call.

        Ids of calls are empty.

        Text that may become a delimiter is held back. Pieces of a call are the beginning of the
        arguments that the whole call then has.
        """

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """Return the rest; `is_cut`: the answer was not ended by the model.

        A call counts when it is whole. One that is not is text as it was written, or a `CutCall`
        where pieces of it were told.
        """

    @property
    def thoughts(self) -> Thoughts | None:
        """Delimiters of thoughts in the answer; None where there are none."""

    @property
    def is_over(self) -> bool:
        """True if the answer has ended in the model's words, with a token that ends no turn by
        itself.
        """

    @property
    def apart(self) -> type[Part] | None:
        """Type of the part that the last pushed text belongs to if that text gave no output (a
        delimiter, or blanks behind one), else None.
        """


class TextCodec(Protocol):
    """Tokenizer and chat template of a model, and its way of thinking and calling."""

    @property
    def fingerprint(self) -> str:
        """Hash of the tokenizer, the chat template and the special tokens: under one fingerprint a
        conversation has the same tokens.
        """

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Ids that end a turn."""

    @property
    def longest_token_bytes(self) -> int:
        """Bytes of text that one token stands for at most; 0 where a token may stand for any
        number.
        """

    def encode_prompt(self, conversation: Conversation, known: Known = NOTHING_KNOWN) -> Prompt:
        """The prompt of a canonical conversation, up to where the assistant is to speak.

        Raises `InvalidRequestError` where the template refuses.

        Tokens of a message never depend on what comes after it. `known` stands for its messages as
        it is; only what follows is tokenised, and of that the draft is kept as far as its text
        agrees. Holds no lock for long.
        """

    def encode_text(self, text: str) -> tuple[int, ...]:
        """The tokens of a plain text, with the beginning its model expects.

        Holds no lock for long.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Text for people, special tokens included."""

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token's text, perhaps part of a character; of a special token its
        name.
        """

    def decoder(self) -> TextDecoder:
        """A fresh decoder for the tokens of one generation.

        Delimiters of thoughts and calls are text.
        """

    def reader(self, conversation: Conversation, opening: str) -> AnswerReader:
        """A fresh reader for the answer to a conversation; it reads the prompt's `opening` first.

        Arguments are read as the conversation's tools want them. Where no call may be made, calls
        are text.
        """

    def grammar(self, conversation: Conversation, opening: str) -> Grammar | None:
        """Return the grammar of the answer where the conversation demands calls or JSON of a form,
        or bounds its thoughts; else None.

        What a grammar cannot express is left out. Blocking: takes up to a second for what was never
        asked before. Raises `InvalidRequestError` where nothing can satisfy what is demanded,
        `GrammarError` where it is too complex.
        """


class ResponseStore(Protocol):
    """Responses that outlive the process.

    Blocking: called in worker threads, by several at a time; other processes may work on the same
    store.

    Every method raises `StoreError` where the database cannot be reached, read or written, and then
    nothing has changed; but where a connection broke just when a change was being confirmed, that
    is not known. Waits for a database that does not answer, seconds or a minute, never for ever.
    """

    def put(self, response: StoredResponse) -> None:
        """Keep a response: whatever happens to process and machine from now on, it is there.

        The same again is nothing.

        Takes the place of the same turn while that is queued or in progress, and of nothing else.
        Raises `ResponseNotFoundError` where it was deleted meanwhile, or its parent is not there;
        `ResponseConflictError` where the id is another's, the parent has no answer yet, or the
        hashes are not those that follow from the parent and the content.
        """

    def get(self, response_id: str) -> StoredResponse | None:
        """A response with what was said in it; None where there is none, or it was deleted."""

    def chain(self, response_id: str) -> tuple[StoredResponse, ...]:
        """A response and all before it, the first one first, those that were deleted among them;
        empty where there is none.

        Says nothing of whether they fit: `verify` does.
        """

    def delete(self, response_id: str) -> bool:
        """Forget what was said in a response, for good; its place in the chain stays.

        Whether there was anything to forget.
        """

    def prune(self, today: int, days: int) -> int:
        """Note that a server is working `today` (days since 1970), and remove what came more than
        so many days before: of those that were noted.

        What newer responses follow stays. Returns how many were removed, deleted ones too; with 0
        days nothing is. A clock that leaps ahead makes one day of all that it leaves out, and one
        that goes back none.
        """

    def close(self) -> None:
        """Give the database back. Afterwards everything but another `close` raises `StoreError`."""


class Observer(Protocol):
    """Takes notice of what the server does: metrics, the event log, traces."""

    def observe(self, observation: Observation) -> None:
        """Take notice of an observation.

        Called on the event loop, between two steps: returns at once, and raises nothing.
        """


class Sink(Protocol[Item_contra]):
    """A place outside of the process that items are delivered to: observations, or metrics.

    Blocking: called in one worker thread at a time.
    """

    def write(self, batch: Sequence[Item_contra]) -> None:
        """Deliver items, in their order.

        Raises `OSError` where they are refused. May hang: the caller does not wait for ever.
        """
