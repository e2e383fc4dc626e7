"""Chat templates: the text that a model's own Jinja template makes of a conversation.

A template is a program that comes with the model, and its input comes with a request: it runs in a
process with bounded time and memory (renderer.py), in Jinja's sandbox (environment.py).
"""

from collections.abc import Mapping
from typing import Any

from river_trt.errors import RiverError
from river_trt.text.chat import ChatOptions, cut_continuation, mark_continuation, plain_messages
from river_trt.text.renderer import Renderer

CHAT_TEMPLATE_FILE = "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"  # a folder, as in transformers
DEFAULT, WITH_TOOLS = "default", "tool_use"  # names that transformers chooses itself


def template_file(name: str) -> str:
    """Where a template of that name lies in an engine directory."""
    return CHAT_TEMPLATE_FILE if name == DEFAULT else f"{MORE_TEMPLATES}/{name}.jinja"


def is_template(file: str) -> bool:
    """Whether a file of an engine directory, named from there, is a chat template."""
    in_folder = file.startswith(f"{MORE_TEMPLATES}/") and file.endswith(".jinja")
    return file == CHAT_TEMPLATE_FILE or in_folder


def template_name(file: str) -> str:
    """The inverse of template_file."""
    return DEFAULT if file == CHAT_TEMPLATE_FILE else file.split("/", 1)[1].removesuffix(".jinja")


class ChatTemplate:
    """A template's source; compiled when it is first rendered: who sends no chat needs none.

    variables: what the template sees beside the conversation, such as the special tokens.
    """

    def __init__(self, source: str | bytes, variables: Mapping[str, Any] | None = None) -> None:
        self._source = source
        self._variables = dict(variables or {})
        self._renderer = Renderer()

    def render(self, messages: Any, options: ChatOptions) -> str:
        """The conversation's text.

        Raises RiverError when the template is none, refuses the messages, or takes too long, too
        much memory, or makes too long a text.
        """
        prepared = plain_messages(messages)
        # Who continues a message does not begin another.
        begins = options.add_generation_prompt and not options.continue_final_message
        if options.continue_final_message:
            mark_continuation(prepared)
        text = self._renderer.render(
            self.text(),
            {
                **self._variables,
                **options.arguments,
                "messages": prepared,
                "tools": options.tools,
                "documents": options.documents,
                "add_generation_prompt": begins,
            },
        )
        return cut_continuation(text) if options.continue_final_message else text

    def compile(self) -> None:
        """RiverError when the template is none."""
        self._renderer.render(self.text(), None)

    def text(self) -> str:
        """The template itself; RiverError where it is no UTF-8."""
        if isinstance(self._source, str):
            return self._source
        try:
            return self._source.decode()
        except UnicodeDecodeError as error:
            raise RiverError(f"the chat template is no valid one ({error})") from error


class ChatTemplates:
    """A model's templates by name; most models have one, called "default"."""

    def __init__(
        self, sources: Mapping[str, str | bytes], variables: Mapping[str, Any] | None = None
    ) -> None:
        self._templates = {
            name: ChatTemplate(source, variables) for name, source in sources.items()
        }

    def __bool__(self) -> bool:
        return bool(self._templates)

    def __iter__(self) -> Any:
        return iter(self._templates)

    def choose(self, options: ChatOptions) -> ChatTemplate:
        """As transformers does; RiverError where the model has no such template."""
        if not self._templates:
            raise RiverError("the model has no chat template; give the prompt as plain text")
        names = ", ".join(sorted(self._templates))
        name = options.template
        if name is None:
            has_tools = options.tools is not None and WITH_TOOLS in self._templates
            name = WITH_TOOLS if has_tools else DEFAULT
            if name not in self._templates:
                raise RiverError(f"the model has no default chat template; choose one of {names}")
        if name not in self._templates:
            raise RiverError(f"the model has no chat template {name!r}; choose one of {names}")
        return self._templates[name]
