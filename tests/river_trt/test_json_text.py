import pytest

from river_trt.json_text import parse_json


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[1,", b"\xff"])
def test_what_is_no_json_is_one_kind_of_error(text):
    with pytest.raises(ValueError, match="nested too deeply|Expecting|decode"):
        parse_json(text)


def test_constants_of_python_may_be_refused():
    def refuse(name):
        raise ValueError(name)

    assert parse_json('{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="NaN"):
        parse_json("NaN", refuse)
