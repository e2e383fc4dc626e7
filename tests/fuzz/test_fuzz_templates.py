"""Templates of any text: each makes a text or is refused in a sentence, in bounded time."""

from hypothesis import given
from hypothesis import strategies as st

from river_trt.errors import RiverError
from river_trt.text.renderer import Renderer
from tests.fuzz.budget import fuzzing, report

PIECES = st.sampled_from(
    [
        *(
            "{{ ",
            " }}",
            "{% ",
            " %}",
            "{# ",
            " #}",
            "{%- ",
            "-}}",
            "messages",
            "messages[0]",
            "loop",
        ),
        *(
            "for m in messages",
            "endfor",
            "if m.role == 'user'",
            "else",
            "elif",
            "endif",
            "set x = ",
        ),
        *(
            "x",
            "m.content",
            "range(99999)",
            "range(7)",
            "namespace(a=1)",
            ".a",
            "['content']",
            "[0]",
        ),
        *(
            "|tojson",
            "|trim",
            "|length",
            "|list",
            "|join('')",
            "|center(9999)",
            "|batch(3)",
            "|upper",
        ),
        *(
            " + ",
            " * ",
            " ** ",
            " ~ ",
            " // ",
            " % ",
            "10",
            "99999999",
            "-1",
            "'a'",
            "''",
            "(",
            ")",
        ),
        *("macro f(a)", "endmacro", "f(f)", "call f(1)", "endcall", "generation", "endgeneration"),
        *(
            "raise_exception('no')",
            "strftime_now('%Y')",
            "__class__",
            ".append(1)",
            "\n",
            "é\U0001f98a",
        ),
        *(
            "is defined",
            "not ",
            " and ",
            " in ",
            "break",
            "continue",
            "dict(a=1)",
            ".format(1)",
            "bos",
        ),
    ]
)
TEMPLATES = st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=60)
STATEMENTS = st.lists(PIECES, min_size=1, max_size=6).map(
    lambda pieces: "{{ " + "".join(pieces) + " }}"
)
CONTENTS = st.recursive(
    st.none() | st.text(max_size=20) | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "a"]), CONTENTS), max_size=3
)


def test_templates_of_any_text():
    renderer = Renderer()
    seen = {"text": 0, "refused": 0}

    @fuzzing(600)
    @given(source=TEMPLATES | STATEMENTS, messages=MESSAGES)
    def render(source, messages):
        try:
            text = renderer.render(source, {"messages": messages, "bos": "<s>"})
            kind = "text"
        except RiverError as error:
            text, kind = str(error), "refused"
        assert kind == "text" or "chat template" in text
        assert len(text) <= 8 * 2**20
        seen[kind] += 1

    render()
    report("templates", sum(seen.values()), f"{seen}")
    assert min(seen.values()) > 20, seen
    assert renderer.render("{{ 1 }}", {}) == "1"
