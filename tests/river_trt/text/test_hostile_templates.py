"""Templates that want to hurt: each ends in a sentence, and the next one is rendered."""

import threading

import pytest

from river_trt.errors import RiverError
from river_trt.text import renderer as renderer_module
from river_trt.text.chat import ChatOptions
from river_trt.text.renderer import Renderer
from river_trt.text.template import ChatTemplate

HELLO = [{"role": "user", "content": "hello"}]
LOOP = "{% for a in range(99999) %}"
HOSTILE = {
    "a power that is folded when it is compiled": ("{{ 10**(10**9) }}", "too large"),
    "powers of powers": ("{{ (2 ** 1000) ** 1000 ** 2 }}", "too large"),
    "a long repetition": ("{{ 'x' * 10**9 }}", "too large"),
    "a list of lists": ("{{ [0] * 10**9 }}", "too large"),
    "a large range": ("{{ range(10**9) | list }}", "Range too big"),
    "nested ranges": (LOOP * 3 + "{% endfor %}" * 3, "it takes too long"),
    "doubled strings": (
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
        "{% endfor %}{{ ns.x }}",
        "MemoryError",
    ),
    "doubled lists": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}"
        "{% endfor %}{{ ns.x }}",
        "MemoryError",
    ),
    "a wide column": ("{{ 'a' | center(10**10) }}", "MemoryError"),
    "a wide number": ("{{ '%9999999999d' % 1 }}", "MemoryError"),
    "a wide number of format": ("{{ '{:>9999999999}'.format(1) }}", "MemoryError"),
    "a long text": (LOOP + "{{ 'a' * 1000000 }}{% endfor %}", "longer than 8388608 characters"),
    "endless recursion": (
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "RecursionError",
    ),
    "parentheses": ("{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}", "no valid one"),
    "blocks": ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "no valid one"),
    "a long template": ("a" * 300_000, "may have 262144 characters, got 300000"),
    "a number of many digits": ("{{ 9" + "9" * 5000 + " }}", "no valid one|refuses"),
    "no UTF-8": (b"\xff\xfe", "no valid one .*utf-8"),
    "a file": ("{% include '/etc/passwd' %}", "refuses"),
    "an import": ("{{ cycler.__init__.__globals__.os.system('true') }}", "refuses|undefined"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_stopped_and_told(name):
    source, message = HOSTILE[name]
    with pytest.raises(RiverError, match=message):
        ChatTemplate(source).render(HELLO, ChatOptions())


def test_what_a_request_brings_is_bounded_too():
    template = ChatTemplate("{{ messages[0].content }}")
    with pytest.raises(RiverError, match="a conversation may have 8388608 characters, got 900"):
        template.render([{"role": "user", "content": "x" * 9_000_000}], ChatOptions())
    deep: object = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RiverError, match="nested too deeply"):
        template.render([{"role": "user", "content": deep}], ChatOptions())
    with pytest.raises(RiverError, match="cannot be written as JSON"):
        template.render([{"role": "user", "content": 10**5000}], ChatOptions())
    text = "é\ud800\x00\u2028" * 1000
    assert template.render([{"role": "user", "content": text}], ChatOptions()) == text


def test_the_process_is_kept_and_is_started_again_after_it_was_stopped():
    renderer = Renderer()
    assert renderer.render("{{ a }}", {"a": 1}) == "1"
    first = renderer._process
    assert renderer.render("{{ a }}!", {"a": 2}) == "2!" and renderer._process is first
    with pytest.raises(RiverError, match="refuses"):
        renderer.render("{{ 1 / 0 }}", {})
    assert renderer._process is first
    first.kill()
    first.wait()
    assert renderer.render("{{ a }}", {"a": 3}) == "3" and renderer._process is not first


def test_an_interrupted_request_leaves_no_reply_for_the_next(monkeypatch):
    renderer = Renderer()
    assert renderer.render("{{ a }}", {"a": "before"}) == "before"
    exchange = renderer_module._exchange

    def interrupted(process, request):
        process.stdin.write(request.encode() + b"\n")
        process.stdin.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(renderer_module, "_exchange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        renderer.render("{{ a }}", {"a": "lost"})
    monkeypatch.setattr(renderer_module, "_exchange", exchange)
    assert renderer.render("{{ a }}", {"a": "after"}) == "after"


def test_threads_share_it():
    renderer, found = Renderer(), {}

    def ask(number):
        found[number] = renderer.render("{{ a }}", {"a": number})

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {i: str(i) for i in range(16)}


def test_it_goes_with_its_owner():
    renderer = Renderer()
    renderer.render("a", {})
    process = renderer._process
    del renderer
    assert process.wait(20) == 0
