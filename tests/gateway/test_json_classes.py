"""Row G3: the classes of cases of JSONTestSuite (N. Seriot, "Parsing JSON is a minefield"): refused, or taken."""

import pytest

from gateway.errors import ClientError
from gateway.peek import spans

NO = {
    "array": ["[1 true]", "[a]", '["": 1]', '[""],', "[,1]", "[1,,2]", '["x",,]', '["x"]]', '["x",]', '["x"', "[x",
              "[3[4]]", "[1:2]", "[,]", "[-]", "[   , \"\"]", '["a",\n4\n,1,', "[1,]", '["\va"\\f]', "[*]", '[""',
              "[1,",              "[1,\n1\n,1", "[{}", "[", "]", "[]]", "[1]x", '["a"]"b"'],
    "word": ["[fals]", "[nul]", "[tru]", "nulla", "True", "FALSE", "Null", "undefined", "[True]", "nan", "inf"],
    "number": ["++1234", "+1", "+Inf", "-01", "-1.0.", "-2.", "-", "-NaN", "NaN", "Infinity", "-Infinity", ".-1",
               ".2e-3", "0.1.2", "0.3e+", "0.3e", "0.e1", "0E+", "0E", "0e+", "0e", "1.0e+", "1.0e-", "1.0e",
    "1 000.0",
               "1eE2", "2.e+3", "2.e-3", "2.e3", "9.e+", "1+2", "0x1", "0x42", "-foo", "- 1", "-012", "-.123", "-1x",
               "1ea", "1a", "012", "00", "1e", "1.", "2.", "0xFF", "1_000", "\uff11", "1e1.5", "--1", "1-2"],
    "object": ['{"a" b}', '{:"b"}', '{"a":"a" 123}', '{key: "value"}', '{"a"', '{"a":', '{"a":"b",,"c":0}', "{1:1}",
               '{9999E9999:1}', "{null:null,null:null}", '{"id":0,,,,,}', "{'a':0}", '{"id":0,}', '{"a":"b"}/**/',
               '{"a":"b"}/**//', '{"a":"b"}//', '{"a":"b"}/', '{"a":"b",,}', '{a:"b"}', '{"a":"a', '{"a":"b"}#', "{}}",
               '{"":', '{"a":/*c*/"b"}', '{"a":"b"}{}', "{[: \"x\"}", '{"x"::"b"}', '{"x", null}', '{"a" "b"}', "{,}"],
    "string": ['"\\uD800\\"', '"\\uD800\\u"', '"\\uD800\\u1"', '"\\uD800\\u1x"', '"\\u00A"', '"\\x00"', '"\\\\\\"',
               '"\\\t"', '"\\🌀"', '"\\"', '"\\a"', '"\\uqqqq"', '"\\', "'single'", "“x”", '"\t"', '"\n"', '"\x00"',
               '"\x1f"', '"', '"x', 'abc', '"a"b', '"\\U0041"', '"\\\'"', '"\\u{41}"', '"\\u 041"', '"\\u+041"'],
    "structure": ["", " ", "\ufeff[]", "\u2060", "<.>", "[<null>]", "*", '{"a":true} "x"', '["asd]', "aå",
                  "[True]", "1]", '{"x": true,', '[][]', "#", '{"asd":"asd"', "å", "[ ", "[\u000c]", "[\u00a0]",
                  "[\v1]",                  "[\u20281]", "/**/1", "1//", "[1]\x00", "(1)", "1;"],
}  # fmt: skip
NO_BYTES = [b"\xff", b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\xbf\xbf\xbf"', b'"\xe9"', b"[1]\xe5",
            b'{"\xb9":"0",}', b'"\xf8\x88\x80\x80\x80"', b"1e1\xe5", b'"\\u\xe5"', b'"\xc3"']  # fmt: skip
YES = [
    "[[]   ]", '[""]', "[]", '["a"]', "[false]", '[null, 1, "1", {}]', "[null]", "[1\n]", " [1]", "[1,null,null,2]",
    "[2] ", "123e65", "0e+1", "0e1", " 4", "-0.0000000000000000000000000000000000000000000000000000000000000000000001",
    "20e1", "-0", "-123", "-1", "1E22", "1E-2", "1E+2", "123e45", "123.456e78", "1e-2", "1e+2", "123", "123.456789",
    '{"a":"b"}', "{}", '{"":0}', '{"foo\\u0000bar": 42}', '{"min": -1.0e+28, "max": 1.0e+28}', '{"a":[]}',
    '{"x":{"x":1}}',    '{"\\u041f\\u043e": 1}', '{\n"a": "b"\n}', '"\\u0060\\u012a\\u12AB"', '"\\uD801\\udc37"',
    '"\\"\\\\\\/\\b\\f\\n\\r\\t"',    '"\\\\u0000"', '"\\""', '"a/*b*/c/*d//e"', '"\\\\a"', '"\\u0012"', '"\uffff"',
    '"\U0010ffff"', '"\\uDBFF\\uDFFF"',
    '"new\u00a0line"', '"\U0001b1bf"', '"\\u0000"', '"\\u002c"', '"π"', '"asd "', '" "', '"\\u0821"',
    '"\u2028"', '"\u2029"',    '"\u0061\u30af\u30ea\u30b9"', '"\x7f"', '"\\uA66D"', '"⍂㈴⍂"', '"\\u200B"',
    '"\\u2064"', '"\\uFDD0"', '"\\uFFFE"',
    '"\\u0022"', "42", "-0.1", "null", '"a"', "true", '""', '["a"]\n', " [] ", "1" * 5000, "1e309", "9007199254740993",
]  # fmt: skip


def body(value: bytes, name: bytes) -> bytes:
    return b'{"model":"m",%b:%b}' % (name, value)


NAMES = pytest.mark.parametrize("name", [b'"x"', b'"\\u0078"'], ids=["plain", "escaped"])
"""A body with an escaped name is read by another way."""


@NAMES
@pytest.mark.parametrize("kind", [*NO, "bytes"])
def test_g3_what_is_no_json_is_a_400(kind: str, name: bytes) -> None:
    for value in NO_BYTES if kind == "bytes" else [text.encode() for text in NO[kind]]:
        with pytest.raises(ClientError) as raised:
            spans(body(value, name))
        assert (raised.value.status, raised.value.code) == (400, "invalid_json"), value


@NAMES
def test_g3_what_is_json_is_taken_as_it_stands(name: bytes) -> None:
    for text in YES:
        value = text.encode()
        found = body(value, name)
        places = spans(found)
        assert list(places) == ["model", "x"], value


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_g2_a_depth_that_is_a_bomb_is_a_400(opening: bytes) -> None:
    for times in (1_000, 100_000):
        with pytest.raises(ClientError) as raised:
            spans(body(opening * times, b'"x"'))
        assert raised.value.status == 400
