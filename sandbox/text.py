"""/v1/completions in vLLM's shape, for the clouds that still have it."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from sandbox.answers import Ask, Choice, answer, key_of, logprob_of, tokens_of
from sandbox.openai_shape import DONE, OpenAIShape, Route, Talk
from sandbox.site import Site
from sandbox.types import Event, Json, Reply, Request

_DEFAULT_TOKENS = 16  # OpenAI's and vLLM's own default of this endpoint


class TextCompletions(OpenAIShape):
    """Chat and plain text completions."""

    text_prefix: ClassVar[str] = "cmpl-"

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {**super().routes(), self.base_path + "/completions": {"POST": self.complete}}

    def check_text(self, body: dict[str, Json]) -> list[str]:
        """The prompts; refuses what is not one."""
        given = body.get("prompt")
        items = (
            [given]
            if isinstance(given, str) or (isinstance(given, list) and all(isinstance(n, int) for n in given))
            else given
        )
        if not isinstance(items, list) or not items or not all(isinstance(item, str | list) for item in items):
            raise self.invalid("prompt must be a string, strings, tokens or lists of tokens", "prompt")
        return [item if isinstance(item, str) else " ".join(f"t{token}" for token in item) for item in items]

    def complete(self, request: Request, site: Site) -> Reply:
        body = self.decode(request.body)
        name, model = self.model_of(body)
        self.check_sampling(body)
        prompts = self.check_text(body)
        prompt = sum(len(tokens_of(text)) + 1 for text in prompts)
        length, context = body.get("max_tokens") or _DEFAULT_TOKENS, self.context_of(model, site)
        self.check_room(max(len(tokens_of(text)) + 1 for text in prompts), length, context)
        self.take_room(prompt + length, site)
        choices: list[Choice] = []
        for text in prompts:
            for made in answer(_ask(text, body, length)):
                made.index = len(choices)
                if body.get("echo"):
                    made.pieces = [*tokens_of(text), *made.pieces]
                choices.append(made)
        talk = Talk(
            id=self.new_id(request, site, self.text_prefix),
            created=int(site.wall()),
            model=name,
            body=body,
            request=request,
            choices=choices,
            prompt_tokens=prompt,
        )
        return self.reply(talk, self.whole_text, self.text_events)

    def check_sampling(self, body: dict[str, Json]) -> None:
        """Refuses numbers out of range."""
        raise NotImplementedError

    def whole_text(self, talk: Talk) -> dict[str, Json]:
        return {
            "id": talk.id,
            "object": "text_completion",
            "created": talk.created,
            "model": talk.model,
            "choices": [self.text_choice(talk, choice) for choice in talk.choices],
            **self.text_tail(talk),
        }

    def text_tail(self, talk: Talk) -> dict[str, Json]:
        return {"usage": self.usage(talk, talk.generated)}

    def text_choice(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        return {
            "index": choice.index,
            "text": choice.text,
            "logprobs": _text_logprobs(talk, choice.pieces, 0, 0),
            "finish_reason": choice.finish,
        }

    def text_events(self, talk: Talk) -> Iterator[Event]:
        offsets = [0] * len(talk.choices)
        for place in range(max(len(choice.pieces) for choice in talk.choices)):
            for choice in talk.choices:
                if place < len(choice.pieces):
                    last = place == len(choice.pieces) - 1
                    part = self.text_delta(talk, choice, place, offsets[choice.index], last)
                    offsets[choice.index] += len(choice.pieces[place])
                    yield self.event(self.text_chunk(talk, [part], place + 1), 1, "finish" if last else "text")
        if talk.wants_usage:
            yield self.event(self.text_usage_chunk(talk), 0, "usage")
        yield DONE

    def text_delta(self, talk: Talk, choice: Choice, place: int, offset: int, last: bool) -> dict[str, Json]:
        piece = choice.pieces[place]
        return {
            "index": choice.index,
            "text": piece,
            "logprobs": _text_logprobs(talk, [piece], place, offset),
            "finish_reason": choice.finish if last else None,
        }

    def text_chunk(self, talk: Talk, choices: list[Json], generated: int) -> dict[str, Json]:
        return {
            "id": talk.id,
            "object": "text_completion",
            "created": talk.created,
            "model": talk.model,
            "choices": choices,
        }

    def text_usage_chunk(self, talk: Talk) -> dict[str, Json]:
        return {**self.text_chunk(talk, [], 0), "usage": self.usage(talk, talk.generated)}


def _ask(prompt: str, body: dict[str, Json], length: int) -> Ask:
    stop = body.get("stop")
    return Ask(
        key=key_of(prompt, body.get("seed")),
        length=length,
        choices=body.get("n") or 1,
        stop=[stop] if isinstance(stop, str) else stop or (),
    )


def _text_logprobs(talk: Talk, pieces: list[str], place: int, offset: int) -> Json:
    top = talk.body.get("logprobs")
    if top is None or top is False:
        return None
    values = [logprob_of(piece, place + i) for i, piece in enumerate(pieces)]
    offsets = [offset + sum(len(piece) for piece in pieces[:i]) for i in range(len(pieces))]
    ranked = [
        {piece: value, **{f" t{n}": value - n for n in range(1, int(top))}}
        for piece, value in zip(pieces, values, strict=True)
    ]
    return {"text_offset": offsets, "token_logprobs": values, "tokens": pieces, "top_logprobs": ranked}
