"""The OpenAI shape that most clouds speak: parsing, answering and rendering, with a method for each thing that differs.

Rule 1. A cloud's file overrides what its cloud does otherwise and nothing else.
Rule 2. What a cloud would refuse is refused before anything is counted against its limits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import msgspec

from sandbox.answers import Ask, Choice, ToolCall, answer, key_of, logprob_of, tokens_of
from sandbox.cloud import Cloud, encode
from sandbox.embeddings import embedded, texts_of
from sandbox.limits import Short
from sandbox.prompt import ANY_OBJECT, Turn, count_images, form_in_words, prompt_tokens, turns_of
from sandbox.site import Site
from sandbox.types import Event, Json, Model, Refusal, Reply, Request

Route = Callable[[Request, Site], Reply]
DONE = Event(b"data: [DONE]\n\n", 0, "done")


class Talk(msgspec.Struct, kw_only=True):
    """One chat call being answered."""

    id: str
    created: int
    model: str
    body: dict[str, Json]
    request: Request
    choices: list[Choice]
    prompt_tokens: int

    @property
    def generated(self) -> int:
        return sum(choice.generated for choice in self.choices)

    @property
    def wants_usage(self) -> bool:
        return bool((self.body.get("stream_options") or {}).get("include_usage"))


class OpenAIShape(Cloud):
    """A cloud whose chat is OpenAI's."""

    id_prefix: ClassVar[str] = "chatcmpl-"
    stream_type: ClassVar[str] = "text/event-stream"
    length_merges_finish: ClassVar[bool] = False
    prefill: ClassVar[bool] = False

    # ------------------------------------------------------------------ routing
    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        """path -> method -> what answers."""
        base = self.base_path
        return {base + "/chat/completions": {"POST": self.chat}, base + "/models": {"GET": self.list_models}}

    def answer(self, request: Request, site: Site) -> Reply:
        methods = self.routes().get(request.path) or self.dynamic_route(request)
        if methods is None:
            raise self.no_such_path(request)
        route = methods.get(request.method)
        if route is None:
            raise self.wrong_method(request, methods)
        self.authorize(request, site)
        return route(request, site)

    def dynamic_route(self, request: Request) -> Mapping[str, Route] | None:
        """Routes whose path has a variable part."""
        prefix = self.base_path + "/models/"
        if request.path.startswith(prefix):
            return {"GET": lambda r, s: self.one_model(r, s, r.path[len(prefix) :])}
        return None

    def authorize(self, request: Request, site: Site) -> None:
        if self.credential(request, site) != "ok":
            raise self.unauthorized(self.credential(request, site))

    # ------------------------------------------------------------------ refusals, in OpenAI's words
    def error(self, status: int, message: str, type_: str, param: str | None = None, code: Json = None) -> Refusal:
        return Refusal(status, {"error": {"message": message, "type": type_, "param": param, "code": code}})

    def invalid(self, message: str, param: str | None = None, code: Json = None) -> Refusal:
        return self.error(400, message, "invalid_request_error", param, code)

    def unauthorized(self, credential: str) -> Refusal:
        raise NotImplementedError

    def no_such_path(self, request: Request) -> Refusal:
        return self.error(404, f"Invalid URL ({request.method} {request.path})", "invalid_request_error")

    def wrong_method(self, request: Request, methods: Mapping[str, Route]) -> Refusal:
        return self.error(405, f"Not allowed to {request.method} on {request.path}", "invalid_request_error")

    def no_such_model(self, model: str) -> Refusal:
        message = f"The model `{model}` does not exist or you do not have access to it."
        return self.error(404, message, "invalid_request_error", "model", "model_not_found")

    def limited(self, short: Short) -> Refusal:
        raise NotImplementedError

    # ------------------------------------------------------------------ reading
    def decode(self, raw: bytes) -> dict[str, Json]:
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self.bad_json(raw, str(error)) from error
        if not isinstance(body, dict):
            raise self.bad_json(raw, "not an object")
        return body

    def bad_json(self, raw: bytes, why: str) -> Refusal:
        return self.invalid(f"We could not parse the JSON body of your request. ({why})")

    def model_of(self, body: dict[str, Json]) -> tuple[str, Model]:
        name = body.get("model")
        if not isinstance(name, str):
            raise self.invalid("you must provide a model parameter")
        found = self.models.get(name)
        if found is None:
            raise self.no_such_model(name)
        return name, found

    def check_chat(self, body: dict[str, Json], model: Model) -> None:
        """Refuses what this cloud does not take; messages are a list of objects after it."""
        raise NotImplementedError

    def context_of(self, model: Model, site: Site) -> int:
        return site.behaviour.context_tokens or model.context_tokens

    def check_room(self, prompt: int, asked: int | None, context: int) -> None:
        """Refuses what the context window cannot hold."""
        if prompt + (asked or 0) > context:
            total = prompt + (asked or 0)
            message = (
                f"This model's maximum context length is {context} tokens. However, you requested {total} tokens "
                f"({prompt} in the messages, {asked or 0} in the completion). "
                "Please reduce the length of the messages or completion."
            )
            raise self.invalid(message, "messages", "context_length_exceeded")

    def asked_tokens(self, body: dict[str, Json]) -> int | None:
        asked = body.get("max_completion_tokens")
        return asked if asked is not None else body.get("max_tokens")

    def goes_on(self, body: dict[str, Json], messages: Sequence[Json]) -> bool:
        """Whether the last message of the assistant is to be gone on from."""
        return self.prefill and bool(messages) and messages[-1].get("role") == "assistant" and not body.get("tools")

    def ask_of(self, body: dict[str, Json], site: Site, length: int | None) -> Ask:
        messages = list(body["messages"])
        prefix = ""
        if self.goes_on(body, messages):
            prefix = turns_of(messages[-1:])[0][1]
            messages = messages[:-1]
        turns = turns_of(messages)
        stop = body.get("stop")
        form = body.get("response_format") or {}
        tools = [tool for tool in body.get("tools") or () if isinstance(tool.get("function"), dict)]
        return Ask(
            key=key_of(turns, body.get("seed"), [t["function"] for t in tools], form),
            length=length,
            natural_length=site.behaviour.default_tokens,
            choices=body.get("n") or 1,
            stop=[stop] if isinstance(stop, str) else stop or (),
            tools=tools,
            tool_choice=body.get("tool_choice"),
            parallel_tools=body.get("parallel_tool_calls") is True,
            after_tool=bool(messages) and messages[-1].get("role") == "tool",
            user_text=next((text for role, text in reversed(turns) if role == "user"), ""),
            json_form=_json_form(form, turns),
            prefix=prefix,
        )

    # ------------------------------------------------------------------ chat
    def chat(self, request: Request, site: Site) -> Reply:
        body = self.decode(request.body)
        name, model = self.model_of(body)
        self.check_chat(body, model)
        messages: list[Json] = body["messages"]
        prompt = prompt_tokens(turns_of(messages), body.get("tools") or (), count_images(messages))
        asked, context = self.asked_tokens(body), self.context_of(model, site)
        self.check_room(prompt, asked, context)
        limit = min(model.max_output_tokens, context - prompt)
        length = min(asked, limit) if asked is not None else limit if site.behaviour.default_tokens > limit else None
        self.take_room(prompt + (length or site.behaviour.default_tokens), site)
        choices = answer(self.ask_of(body, site, length))
        talk = Talk(
            id=self.new_id(request, site, self.id_prefix),
            created=int(site.wall()),
            model=name,
            body=body,
            request=request,
            choices=choices,
            prompt_tokens=prompt,
        )
        return self.reply(talk, self.whole, self.events)

    def reply(self, talk: Talk, whole: Callable[[Talk], Json], events: Callable[[Talk], Iterator[Event]]) -> Reply:
        """A stream or a whole answer, as the call asks."""
        streams = bool(talk.body.get("stream"))
        return Reply(
            headers=[("content-type", self.stream_type if streams else "application/json")],
            body=b"" if streams else encode(whole(talk)),
            events=events(talk) if streams else None,
            model=talk.model,
            prompt_tokens=talk.prompt_tokens,
            tokens=talk.generated,
            lanes=len(talk.choices),
            finishes=tuple(choice.finish for choice in talk.choices),
            choices=talk.choices,
            answer=True,
        )

    def take_room(self, tokens: int, site: Site) -> None:
        short = site.limiter.take(tokens, site.now())
        if short is not None:
            raise self.limited(short)

    def new_id(self, request: Request, site: Site, prefix: str) -> str:
        return f"{prefix}{key_of(self.name, site.began_wall, site.next_number()):016x}"

    def usage(self, talk: Talk, generated: int) -> dict[str, Json]:
        return {
            "prompt_tokens": talk.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": talk.prompt_tokens + generated,
        }

    # ------------------------------------------------------------------ a whole answer
    def whole(self, talk: Talk) -> dict[str, Json]:
        return {
            "id": talk.id,
            "object": "chat.completion",
            "created": talk.created,
            "model": talk.model,
            "choices": [self.whole_choice(talk, choice) for choice in talk.choices],
            "usage": self.usage(talk, talk.generated),
        }

    def whole_choice(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        return {
            "index": choice.index,
            "message": self.message(talk, choice),
            "logprobs": self.logprobs(talk, choice.pieces, 0),
            "finish_reason": choice.finish,
        }

    def message(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        out: dict[str, Json] = {"role": "assistant", "content": choice.text}
        if choice.calls:
            out["content"] = None
            out["tool_calls"] = self.tool_calls(choice)
        return out

    def tool_calls(self, choice: Choice) -> list[Json]:
        return [
            {
                "id": self.call_id(call.id),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in choice.calls
        ]

    def call_id(self, made: str) -> str:
        return f"call_{made}"

    def logprobs(self, talk: Talk, pieces: Sequence[str], place: int) -> Json:
        """null, or the log probabilities of those tokens, the first of which is at that place."""
        if not talk.body.get("logprobs"):
            return None
        top = talk.body.get("top_logprobs") or 0
        return {"content": [_token_logprob(piece, place + i, top) for i, piece in enumerate(pieces)]}

    # ------------------------------------------------------------------ a stream
    def events(self, talk: Talk) -> Iterator[Event]:
        for choice in talk.choices:
            yield self.event(self.start_chunk(talk, choice), 0, "start")
        longest = max((len(choice.pieces) for choice in talk.choices), default=0)
        for place in range(longest):
            for choice in talk.choices:
                if place < len(choice.pieces):
                    yield self._text_event(talk, choice, place)
        for choice in talk.choices:
            yield from self._call_events(talk, choice)
            if not (self.length_merges_finish and choice.finish == "length" and choice.pieces):
                part = self.delta_choice(talk, choice, self.finish_delta(choice), None, finished=True)
                yield self.event(self.chunk(talk, [part], choice.generated, final=True), 0, "finish")
        yield from self.closing(talk)

    def _text_event(self, talk: Talk, choice: Choice, place: int) -> Event:
        piece = choice.pieces[place]
        last = self.length_merges_finish and choice.finish == "length" and place == len(choice.pieces) - 1
        part = self.delta_choice(talk, choice, {"content": piece}, self.logprobs(talk, [piece], place), finished=last)
        return self.event(self.chunk(talk, [part], place + 1, final=last), 1, "finish" if last else "text")

    def _call_events(self, talk: Talk, choice: Choice) -> Iterator[Event]:
        for number, call in enumerate(choice.calls):
            head = self.call_head(number, call)
            part = self.delta_choice(talk, choice, {"tool_calls": [head]}, None)
            yield self.event(self.chunk(talk, [part]), len(tokens_of(call.name)), "text")
            for piece in tokens_of(call.arguments):
                fragment = {"index": number, "function": {"arguments": piece}}
                part = self.delta_choice(talk, choice, {"tool_calls": [fragment]}, None)
                yield self.event(self.chunk(talk, [part]), 1, "text")

    def call_head(self, number: int, call: ToolCall) -> dict[str, Json]:
        """The first fragment of a call; the others have only its index and arguments."""
        function = {"name": call.name, "arguments": ""}
        return {"index": number, "id": self.call_id(call.id), "type": "function", "function": function}

    def event(self, chunk: Mapping[str, Json], tokens: int, kind: str) -> Event:
        return Event(b"data: " + encode(chunk) + b"\n\n", tokens, kind)  # type: ignore[arg-type]

    def start_chunk(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        return self.chunk(talk, [self.delta_choice(talk, choice, {"role": "assistant", "content": ""}, None)])

    def finish_delta(self, choice: Choice) -> dict[str, Json]:
        return {}

    def delta_choice(
        self, talk: Talk, choice: Choice, delta: Json, logprobs: Json, finished: bool = False
    ) -> dict[str, Json]:
        finish = choice.finish if finished else None
        return {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def chunk(self, talk: Talk, choices: list[Json], generated: int = 0, final: bool = False) -> dict[str, Json]:
        """One event's value. `generated` is how many tokens the choice has by then, `final` says that it ends here."""
        return {
            "id": talk.id,
            "object": "chat.completion.chunk",
            "created": talk.created,
            "model": talk.model,
            "choices": choices,
        }

    def closing(self, talk: Talk) -> Iterator[Event]:
        """Usage, if it was asked for, and the end mark."""
        if talk.wants_usage:
            yield self.event({**self.chunk(talk, []), "usage": self.usage(talk, talk.generated)}, 0, "usage")
        yield DONE

    # ------------------------------------------------------------------ embeddings
    def embed(self, request: Request, site: Site) -> Reply:
        body = self.decode(request.body)
        name, model = self.model_of(body)
        if not model.vector:
            raise self.no_vectors(name)
        texts = texts_of(body.get("input"))
        if texts is None:
            raise self.invalid(
                "'input' must be a string, strings, tokens or lists of tokens, none of them empty", "input"
            )
        length = body.get("dimensions") or model.vector
        if not isinstance(length, int) or not 1 <= length <= model.vector:
            raise self.invalid(f"Invalid value for 'dimensions': {length}.", "dimensions")
        self.take_room(sum(len(tokens_of(text)) for text in texts), site)
        return embedded(name, texts, length, body.get("encoding_format") == "base64")

    def no_vectors(self, model: str) -> Refusal:
        return self.error(403, "You are not allowed to generate embeddings from this model", "invalid_request_error")

    # ------------------------------------------------------------------ models
    def list_models(self, request: Request, site: Site) -> Reply:
        raise NotImplementedError

    def one_model(self, request: Request, site: Site, name: str) -> Reply:
        raise NotImplementedError


def _json_form(form: Mapping[str, Json], turns: Sequence[Turn]) -> Json:
    """The schema that the answer must be valid for, {} for any object, None for text."""
    match form.get("type"):
        case "json_object":
            return ANY_OBJECT
        case "json_schema":
            return (form.get("json_schema") or {}).get("schema") or {}
        case _:
            return form_in_words(turns)


def _token_logprob(token: str, place: int, top: int) -> dict[str, Json]:
    ranked = [(token, logprob_of(token, place))]
    ranked += [(f" t{i}", logprob_of(token, place) - i) for i in range(1, top)]
    out = _logprob(*ranked[0])
    out["top_logprobs"] = [_logprob(*one) for one in ranked[:top]]
    return out


def _logprob(token: str, logprob: float) -> dict[str, Json]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
