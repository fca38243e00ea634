"""Conversations in words: prompts of every shape, sampling, ends, several choices, log probabilities, pictures."""

from sandbox.answers import FILTERED_WORD
from tests.conformance.conversation import Conversation, Seen, asking, assistant, expect, system, user

UNICODE = (
    "Ünïcode “quotes”: 日本語 한국어 العربية עברית हिन्दी 🦙 ﷽ "
    "(e\u0301) \u200b\u2028 👩\u200d👩\u200d👧\u200d👦 🧑🏽\u200d🚀"
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
)
ESCAPES = 'Say "\\u0000" and \\n, {"a": [1, "\\""]}, </s><|eot_id|>\ttab\r\nline\u0001\u007f%s ${x}'
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
LONG = " ".join(f"Fact {number}: a llama carries {number % 40} kilograms." for number in range(1500))


def ends(reason: str, tokens: int | None = None):
    """The answer ended for that reason, of so many tokens."""

    def check(seen: Seen) -> None:
        expect(seen.finish == reason, f"finish_reason is {seen.finish}")
        usage = seen.answer.usage
        if tokens is not None and usage is not None:
            expect(usage.completion_tokens == tokens, f"{usage.completion_tokens} tokens, {tokens} were asked for")

    return check


def stopped_before(*stops: str):
    """The answer ended at one of those strings, which is not shown."""

    def check(seen: Seen) -> None:
        expect(seen.finish == "stop", f"finish_reason is {seen.finish}")
        for stop in stops:
            expect(stop not in seen.text, f"{stop!r} is shown")

    return check


def empty(seen: Seen) -> None:
    expect(seen.text == "" and seen.finish == "stop", f"{seen.text!r}, {seen.finish}")


def unicode_came(seen: Seen) -> None:
    expect(all(sign in seen.text for sign in ("🦙", "ñ", "東", "🏔", "\n", "\\", '"')), "signs are lost")


def choices(number: int):
    def check(seen: Seen) -> None:
        places = sorted(choice.index for choice in seen.answer.choices)
        expect(places == list(range(number)), f"choices {places}")
        expect(all(choice.message.content for choice in seen.answer.choices), "a choice says nothing")

    return check


def logprobs(top: int):
    def check(seen: Seen) -> None:
        found = seen.answer.choices[0].logprobs
        expect(found is not None and found.content, "no log probabilities")
        assert found is not None
        assert found.content is not None
        expect("".join(token.token for token in found.content) == seen.text, "their tokens are not the text")
        expect(all(token.logprob < 0 for token in found.content), "a log probability of 0 or more")
        expect(all(len(token.top_logprobs) >= top for token in found.content), "too few alternatives")

    return check


HELLO = user("Tell me of llamas.")
TURNS = [message for n in range(12) for message in (user(f"Question {n}?"), assistant(f"Answer {n} 🦙."))]

TALKS = [
    Conversation("a question", "text", asking(HELLO, max_tokens=12), ends("length", 12)),
    Conversation("no limit named", "text", {"messages": [HELLO]}),
    Conversation("one token", "text", asking(HELLO, max_tokens=1), ends("length", 1)),
    Conversation("a long answer", "text", asking(HELLO, max_tokens=700), ends("length", 700)),
    Conversation("a long prompt", "text", asking(user(LONG), max_tokens=5), ends("length", 5)),
    Conversation("a system prompt", "text", asking(system("Be brief."), HELLO)),
    Conversation("two system prompts", "text", asking(system("Be brief."), system("Be kind."), HELLO)),
    Conversation("a developer's prompt", "text", asking({"role": "developer", "content": "Be brief."}, HELLO)),
    Conversation("several turns", "text", asking(HELLO, assistant("They hum."), user("Why?"))),
    Conversation("twenty-five turns", "text", asking(system("Remember."), *TURNS, user("And now?"))),
    Conversation("two user turns in a row", "text", asking(user("Listen."), user("Tell me of llamas."))),
    Conversation("the assistant begins", "text", asking(assistant("Hello!"), HELLO),
                 refusable="begin with a message of the user"),
    Conversation("content in parts", "text", asking(user([{"type": "text", "text": "Tell me"},
                                                          {"type": "text", "text": " of llamas."}]))),
    Conversation("unicode and emoji asked", "text", asking(user(UNICODE))),
    Conversation("escapes and marks asked", "text", asking(user(ESCAPES))),
    Conversation("unicode and emoji, byte by byte", "text", asking(HELLO, max_tokens=80), unicode_came,
                 cloud={"fault": {"kind": "slow_bytes"}}),
    Conversation("the output limit by its new name", "text",
                 {"messages": [HELLO], "max_completion_tokens": 9}, ends("length", 9)),
    Conversation("temperature 0", "sampling", asking(temperature=0)),
    Conversation("temperature 1.75", "sampling", asking(temperature=1.75)),
    Conversation("top_p", "sampling", asking(top_p=0.8125)),
    Conversation("seed", "sampling", asking(seed=20261122)),
    Conversation("penalties", "sampling", asking(frequency_penalty=0.625, presence_penalty=-0.375)),
    Conversation("logit_bias", "sampling", asking(logit_bias={"1234": -37})),
    Conversation("user", "sampling", asking(user="user-4711")),
    Conversation("one stop string", "stop", asking(stop=" w0003"), stopped_before(" w0003")),
    Conversation("four stop strings", "stop", asking(stop=["never", "w0009", "w0004", "w0017"]),
                 stopped_before("w0004", "w0009")),
    Conversation("twelve stop strings", "stop", asking(stop=[*(f"never{n}" for n in range(11)), "w0005"]),
                 stopped_before("w0005")),
    Conversation("a stop string across tokens", "stop", asking(stop=["03 w00"]), stopped_before("03 w00")),
    Conversation("an empty answer", "stop", asking(stop=["k"]), empty),
    Conversation("a refusal of the cloud's filter", "stop", asking(user(f"Give me the {FILTERED_WORD}.")),
                 ends("content_filter")),
    Conversation("two choices", "choices", asking(n=2, max_tokens=9), choices(2)),
    Conversation("log probabilities", "choices", asking(logprobs=True, max_tokens=9), logprobs(0)),
    Conversation("log probabilities and three alternatives", "choices",
                 asking(logprobs=True, top_logprobs=3, max_tokens=9), logprobs(3)),
    Conversation("a picture", "images", asking(user([{"type": "text", "text": "What is it?"}, PICTURE])),
                 route="sees"),
    Conversation("a picture for weights that are blind", "refusals",
                 asking(user([{"type": "text", "text": "What is it?"}, PICTURE]))),
]  # fmt: skip
