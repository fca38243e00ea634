"""Stands in for what a cloud cannot do, drops it or refuses: the degrade contract, for every provider that translates.

A provider writes `Native`: one whole call, one streamed call. With them and a `Plan` the answer is made here.

Rule 1. What is done about each feature is decided before anything is sent, from `Deployment.missing` and `emulates`.
Rule 2. Whatever is not done as asked is in `Reply.degraded`, by the name of the parameter.
Rule 3. Log probabilities are never made up and a seed is never claimed: they are refused, or dropped where told so.
Rule 4. Where an emulation needs several calls, their usage is summed; the first failure is the answer's.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from gateway.errors import Detail, UpstreamError
from gateway.transport.client import Response
from gateway.types import DROPPABLE, Call, Deployment, Reply, instead, lacking
from providers import _json_answer
from providers._completion import Choice, Chunks, Completion, Cutter, fitted, stream_bytes, summed, whole_bytes

Fields = dict[str, bytes]
"""A request's top-level fields as raw JSON."""
Word = Literal["emulated", "dropped", "clamped"]

MOST_CHOICES = 16
"""Choices that are made by so many parallel calls; more is a mistake or an attack on the account's quota."""

EMULATES = frozenset({"stream", "stream_tools", "n", "stop", "json_object", "json_schema", "parallel_tools"})
"""What can be stood in for here. An account's `emulates` names some of it."""


class Plan(NamedTuple):
    """What is done about the features that a deployment lacks; `degraded` says it by parameter."""

    emulated: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    degraded: Mapping[str, Word] = {}

    @property
    def whole(self) -> bool:
        """Whether the answer is made from whole calls even if it is streamed."""
        return not self.emulated <= {"stop"}


class Whole(NamedTuple):
    """A plain answer in OpenAI's form, and the cloud's headers."""

    completion: Completion
    headers: Mapping[str, str]


class Translator(Protocol):
    """A cloud's stream to OpenAI's events, however it was cut. After `fault` is set what came before it is still given;
    `end` is called at the clean end of the cloud's bytes."""

    fault: UpstreamError | None

    def feed(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class Native(Protocol):
    """What a cloud does by itself for one call. Both raise UpstreamError, and may add to `degraded` what they could not
    map as asked. `fields` hold nothing that is dropped or emulated. `first_byte_s` is the account's."""

    degraded: dict[str, Word]
    first_byte_s: float

    async def whole(self, fields: Fields) -> Whole: ...

    async def stream(self, fields: Fields, chunks: Chunks) -> tuple[Response, Translator]: ...


class Identity(NamedTuple):
    """How an answer is signed: its id, when it was made (seconds since the epoch), which model it names."""

    id: str
    created: int
    model: str


def fields_of(call: Call) -> Fields:
    """The request's fields; those that are null are as if unsaid."""
    body = call.body
    found = {name: body[span.start : span.end] for name, span in call.fields.items()}
    return {name: raw for name, raw in found.items() if raw != b"null"}


def plan(call: Call, deployment: Deployment, offers: frozenset[str]) -> Plan:
    """What is to be done. `offers` is what the dialect can carry at all, `deployment.features` what these weights do.

    Raises UpstreamError 400, the caller's, for what is neither there nor stood in for nor to be dropped."""
    fields = call.fields
    emulated: set[str] = set()
    dropped: set[str] = set()
    degraded: dict[str, Word] = {}
    for feature in sorted(lacking(call, deployment) | (call.features - offers)):
        done = instead(feature, call, deployment, deployment.missing)
        if done == "emulated":
            emulated.add(feature)
            degraded["stream" if feature == "stream_tools" else DROPPABLE.get(feature, (feature,))[0]] = "emulated"
        elif done == "dropped":
            dropped.add(feature)
            degraded |= dict.fromkeys((name for name in DROPPABLE[feature] if name in fields), "dropped")
        else:
            raise refusal(_unoffered(feature, deployment, offers), DROPPABLE.get(feature, (None,))[0])
    if "n" in emulated and call.choices > MOST_CHOICES:
        raise refusal(f"'n' can be at most {MOST_CHOICES} at {deployment.name}", "n")
    if emulated - {"stop"} and call.stream:
        degraded["stream"] = "emulated"
    return Plan(frozenset(emulated), frozenset(dropped), degraded)


def _unoffered(feature: str, deployment: Deployment, offers: frozenset[str]) -> str:
    known = feature in offers and feature not in deployment.features
    remedy = f"; if it is there, the config says so: features: [+{feature}]" if known else ""
    return f"'{feature}' is not offered by {deployment.name}{remedy}"


def refusal(message: str, param: str | None = None, code: str = "unsupported_feature") -> UpstreamError:
    """The caller's fault, found here and said as a cloud would."""
    detail = Detail(f"{message}.", "invalid_request_error", param, code)
    return UpstreamError("status", "cannot serve the request as asked", status=400, detail=detail, sent=False)


async def answer(call: Call, deployment: Deployment, plan_: Plan, native: Native, identity: Identity) -> Reply:
    """The answer to a call by a cloud's own means and what is stood in for. Raises UpstreamError."""
    fields = _narrowed(fields_of(call), plan_)
    stops = _extra_stops(fields, plan_, deployment.stop_limit)
    if call.stream and not plan_.whole:
        chunks = Chunks(identity.id, identity.created, identity.model, stops)
        response, translator = await native.stream(fields, chunks)
        return StreamedReply(response, translator, native.first_byte_s, {**plan_.degraded, **native.degraded})
    wholes = await _wholes(call, fields, plan_, native)
    completion = _merged([whole.completion for whole in wholes], identity, stops, plan_)
    body = stream_bytes(completion) if call.stream else whole_bytes(completion)
    return WholeReply(body, wholes[0].headers, {**plan_.degraded, **native.degraded}, stream=call.stream)


def _narrowed(fields: Fields, plan_: Plan) -> Fields:
    """The fields without what the cloud does not get to see."""
    gone = {name for feature in plan_.dropped for name in DROPPABLE[feature]}
    gone |= {name for feature in plan_.emulated - {"stop"} for name in DROPPABLE.get(feature, ())}
    kept = {name: raw for name, raw in fields.items() if name not in gone}
    for feature in ("json_object", "json_schema"):
        if feature in plan_.emulated:
            kept["response_format"] = fields["response_format"]  # until _json_answer has read it
    return kept


def _extra_stops(fields: Fields, plan_: Plan, limit: int | None) -> Sequence[str]:
    """The stop strings that are watched for here; `fields` keep as many as the cloud takes."""
    if "stop" not in plan_.emulated:
        return ()
    said = msgspec.json.decode(fields.pop("stop"), type=str | list[str])
    stops = [said] if isinstance(said, str) else said
    if limit:
        fields["stop"] = msgspec.json.encode(stops[:limit])
    return stops[limit or 0 :]


async def _wholes(call: Call, fields: Fields, plan_: Plan, native: Native) -> list[Whole]:
    """One whole answer for each choice that the cloud does not make by itself; all end when one fails."""
    ask = _asker(fields, plan_, native)
    if "n" not in plan_.emulated:
        return [await ask()]
    tasks = [asyncio.create_task(ask()) for _ in range(call.choices)]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Ask(Protocol):
    async def __call__(self) -> Whole: ...


def _asker(fields: Fields, plan_: Plan, native: Native) -> _Ask:
    """One whole call; with a form for its text where that is stood in for."""
    if not plan_.emulated & {"json_object", "json_schema"}:

        async def plain() -> Whole:
            return await native.whole(fields)

        return plain
    form = _json_answer.form(fields["response_format"])
    asked = {name: raw for name, raw in fields.items() if name != "response_format"}

    async def formed() -> Whole:
        return await _formed(form, asked, native)

    return formed


async def _formed(form: _json_answer.Form, fields: Fields, native: Native) -> Whole:
    """Asks for JSON in words, checks each choice, and asks once more where one is not what it should be."""
    first = await native.whole({**fields, "messages": form.instructed(fields["messages"])})
    broken = form.check(first.completion)
    if broken is None:
        return first
    again = await native.whole({**fields, "messages": form.repairing(fields["messages"], broken)})
    again.completion.usage = summed([first.completion.usage, again.completion.usage])
    if form.check(again.completion) is not None:
        raise UpstreamError("shape", "gave no JSON of the form asked for, nor after one repair")
    return again


def _merged(found: Sequence[Completion], identity: Identity, stops: Sequence[str], plan_: Plan) -> Completion:
    """The choices of all calls as one answer."""
    choices = [choice for completion in found for choice in completion.choices]
    for index, choice in enumerate(choices):
        choice.index = index
        if stops and choice.message.content:
            _cut(choice, Cutter(stops))
        if "parallel_tools" in plan_.emulated and choice.message.tool_calls:
            choice.message.tool_calls = choice.message.tool_calls[:1]
    usage = summed([completion.usage for completion in found])
    return Completion(identity.id, identity.created, identity.model, choices, usage, found[0].extra)


def _cut(choice: Choice, cutter: Cutter) -> None:
    """Ends a choice before the first stop string that is in it."""
    whole = choice.message.content or ""
    choice.message.content = cutter.feed(whole) + cutter.rest()
    if cutter.hit:
        choice.logprobs = fitted(choice.logprobs, whole, choice.message.content)
        choice.finish_reason = "stop"


class WholeReply:
    """An answer that is all here already, as a body or as the events of a stream."""

    def __init__(self, body: bytes, headers: Mapping[str, str], degraded: Mapping[str, str], stream: bool) -> None:
        self.status, self.degraded, self._body = 200, degraded, body
        self.headers: Mapping[str, str] = {**headers, "content-type": _TYPES[stream]}

    async def read(self) -> bytes:
        return self._body

    async def chunk(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def alive(self) -> None:
        """Nothing to time: it is whole."""

    def close(self) -> None:
        """Nothing is held."""


_TYPES = {False: "application/json", True: "text/event-stream"}


class StreamedReply:
    """A cloud's stream on its way through a translator. Until the first content it may be silent for `first_byte_s`;
    from then on every byte of the cloud is life."""

    def __init__(
        self, response: Response, translator: Translator, first_byte_s: float, degraded: Mapping[str, str]
    ) -> None:
        self._response, self._translator, self.degraded = response, translator, degraded
        self._patience_s: float | None = first_byte_s
        self._ended = False
        self.status = response.status
        self.headers: Mapping[str, str] = {**response.headers, "content-type": _TYPES[True]}

    async def read(self) -> bytes:
        pieces = []
        while piece := await self.chunk():
            pieces.append(piece)
        return b"".join(pieces)

    async def chunk(self) -> bytes:
        translator = self._translator
        while not self._ended:
            if translator.fault is not None:
                raise translator.fault
            data = await self._response.chunk(self._patience_s)
            if data and self._patience_s is None:
                self._response.alive()
            self._ended = not data
            out = translator.feed(data) if data else translator.end()
            if out:
                return out
        if translator.fault is not None:
            raise translator.fault
        return b""

    def alive(self) -> None:
        self._patience_s = None
        self._response.alive()

    def close(self) -> None:
        self._response.close()
