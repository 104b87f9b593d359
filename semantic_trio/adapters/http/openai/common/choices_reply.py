"""The reply to a request for one answer or several, whole or streamed.

Knows generations and their results. Knows nothing of how an answer is written on the wire.
"""

from collections.abc import Callable, Sequence

from semantic_trio.adapters.http.serving.responding import Body, Reply
from semantic_trio.adapters.http.serving.sse import StreamEncoder
from semantic_trio.application.answer import Answer, WholeAnswer
from semantic_trio.application.choices import Choices, Chosen


def choices_reply(
    answers: Sequence[Answer],
    encoder: Callable[[], StreamEncoder[Chosen]],
    whole: Callable[[Sequence[WholeAnswer]], object],
) -> Reply[Chosen]:
    """Return the reply that waits for all answers, or streams them as they come.

    `whole` makes the JSON body of their results. The reuse that is reported is that of the first.
    """

    async def body() -> Body:
        results = [await answer.result() for answer in answers]
        return whole(results), results[0].finished.reuse

    return Reply(Choices(answers), encoder, body)
