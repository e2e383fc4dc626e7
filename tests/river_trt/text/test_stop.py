"""One automaton for all stop strings, against a search that is written without one."""

import numpy as np
import pytest

from river_trt.text.stop import StopStrings


def searched(text, stop):
    """The text before the first stop string to be complete, and whether there was one."""
    for end in range(1, len(text) + 1):
        found = [string for string in stop if text[:end].endswith(string)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def pushed(pieces, stop):
    strings = StopStrings(stop)
    out = []
    for piece in pieces:
        out.append(strings.push(piece))
        if strings.found:
            break
    return "".join(out) + strings.flush(), strings.found


def test_any_strings_in_any_text_however_it_is_cut():
    rng = np.random.default_rng(0)

    def word(least, most):
        return "".join(rng.choice(list("ab"), int(rng.integers(least, most))))

    for _ in range(3000):
        stop = [word(1, 7) for _ in range(int(rng.integers(0, 5)))]
        pieces = [word(0, 4) for _ in range(int(rng.integers(0, 8)))]
        assert pushed(pieces, stop) == searched("".join(pieces), stop), (pieces, stop)


@pytest.mark.parametrize(
    ("stop", "text", "before"),
    [
        (["abcde", "c"], "abcde", "ab"),  # the first to be complete, whole or in pieces
        (["bcd", "cd"], "abcd", "a"),  # of those complete at once the longest
        (["aab"], "aaab", "a"),
        ([" return"], "x return", "x"),
    ],
)
def test_where_the_text_ends(stop, text, before):
    assert pushed([text], stop) == pushed(list(text), stop) == (before, True)


def test_what_may_begin_a_stop_string_is_held_and_no_more():
    strings = StopStrings(["STOP"])
    assert [strings.push(piece) for piece in ("xST", "O", "x", "S")] == ["x", "", "STOx", ""]
    assert strings.flush() == "S"


def test_each_character_is_looked_at_a_bounded_number_of_times():
    """The worst text for a search string by string: all but the end of many long ones."""
    strings = StopStrings([f"{'a' * 200}{end}" for end in range(64)])
    steps = []
    step = strings._step
    strings._step = lambda state, character: steps.append(state) or step(state, character)
    text = "a" * 5000
    assert strings.push(text) + strings.flush() == text
    assert len(steps) == len(text)


def test_what_is_not_shown_can_stop_a_text_but_is_no_part_of_it():
    strings = StopStrings(["a<e>", "b<x>"])
    assert strings.push("<x>", shown=False) == ""
    assert strings.push("b") == "" and strings.push("<x", shown=False) == ""
    assert strings.push("c") == "bc"
    assert strings.push("a") == "" and strings.push("<e>", shown=False) == ""
    assert strings.found and strings.flush() == ""
