"""Arguments that several commands take, and how their text becomes values."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from river_trt.config import GenerationConfig
from river_trt.engine import Engine, load
from river_trt.errors import RiverError
from river_trt.json_text import parse_json
from river_trt.progress import Progress
from river_trt.text import ChatOptions

DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(GenerationConfig)}


def add_engine_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", nargs="?", type=Path, metavar="ENGINE", help="engine directory")
    parser.add_argument(
        "--engine", dest="engine_option", type=Path, metavar="DIR", help="the same, as an option"
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare the files with their SHA-256"
    )


def engine_path(args: argparse.Namespace) -> Path:
    given = [path for path in (args.engine, args.engine_option) if path is not None]
    if len(given) != 1:
        raise RiverError("give one engine directory: --engine DIR")
    path: Path = given[0]
    return path


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_argument(parser)
    add_runtime_arguments(parser)


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """How engines are loaded, one or several."""
    parser.add_argument(
        "--max-seq-len",
        type=int,
        metavar="N",
        help="cache slots, prompt and new tokens together (default: the model's limit, to 4096)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: the backend's choice)"
    )


def load_engine(
    args: argparse.Namespace, progress: Progress, max_batch_size: int = 1, **options: Any
) -> Engine:
    return load(
        engine_path(args),
        max_batch_size=max_batch_size,
        max_seq_len=args.max_seq_len,
        threads=args.threads,
        verify=not args.no_verify,
        progress=progress,
        **options,
    )


def add_quantiser_arguments(bank: argparse._ActionsContainer) -> None:
    """How the river bank is made; one that is not given is the recipe's."""
    bank.add_argument(
        "--quantiser",
        metavar="NAME",
        help="of the river bank: rtn, hqq, awq, or tuned: fitted to the whole model, for minutes",
    )
    bank.add_argument(
        "--group-size", type=int, metavar="N", help="weights that share a scale: 32, 64 or 128"
    )
    bank.add_argument(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        help="river weights without zero points",
    )
    bank.add_argument(
        "--calibration-text",
        type=Path,
        metavar="FILE",
        help="UTF-8 text for quantisers that look at activations (default: a built-in one)",
    )


def add_text_arguments(group: argparse._ActionsContainer, pieces: int, pieces_help: str) -> None:
    """The text that is scored, and how it is cut into pieces."""
    group.add_argument(
        "--text", type=Path, metavar="FILE", help="UTF-8 text, or .jsonl with a field `text`"
    )
    for name, default, help_text in (
        ("pieces", pieces, pieces_help),
        ("piece-tokens", 256, "tokens of a piece: the longest context"),
        ("skip", 32, "first positions of a piece, not scored"),
        ("seed", 0, "of the bootstrap that gives the intervals"),
    ):
        help_text += " (default: %(default)s)"
        group.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help_text)


def add_chat_arguments(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--chat", action="store_true", help="apply the chat template: the prompt is a user's turn"
    )
    group.add_argument("--system", metavar="TEXT", help="system message of the chat")
    group.add_argument(
        "--chat-template", metavar="NAME", help="which, for a model that has several"
    )
    group.add_argument(
        "--template-arguments",
        type=parse_object,
        metavar="JSON",
        help="""what the template knows, such as '{"enable_thinking": false}'""",
    )


def check_prompt(text: str, args: argparse.Namespace) -> str:
    """The prompt's text, refused before an engine is loaded."""
    if not text:
        raise RiverError("the prompt is empty; give at least one character")
    for name in ("system", "chat_template", "template_arguments"):
        if getattr(args, name) is not None and not args.chat:
            raise RiverError(f"--{name.replace('_', '-')} is for a chat; add --chat")
    try:
        f"{text}{args.system or ''}".encode()
    except UnicodeEncodeError as error:
        raise RiverError("the prompt is not UTF-8 text") from error
    return text


def encode_prompt(
    engine: Engine, text: str, args: argparse.Namespace, chat: bool
) -> str | list[int]:
    """The text itself, or the token ids of a chat whose user says it."""
    if not chat:
        return text
    messages = [{"role": "user", "content": text}]
    if args.system is not None:
        messages.insert(0, {"role": "system", "content": args.system})
    options = ChatOptions(template=args.chat_template, arguments=args.template_arguments or {})
    return engine.chat_prompt(messages, options)


def parse_tau(text: str) -> float | tuple[float, ...]:
    """`0.97`, `inf`, `-inf`, or one value a layer, with commas."""
    values = _numbers(text, float, "numbers")
    return values[0] if len(values) == 1 else tuple(values)


def parse_pinned(text: str) -> tuple[int, ...]:
    """`1,30`, or `none` for no layer at all."""
    return () if text == "none" else tuple(_numbers(text, int, "layer numbers"))


def parse_ids(text: str) -> list[int]:
    return _numbers(text, int, "token ids")


def parse_lengths(text: str) -> tuple[int, ...]:
    """`1,4,8`."""
    return tuple(_numbers(text, int, "whole numbers"))


def parse_object(text: str) -> dict[str, Any]:
    """`{"enable_thinking": false}`."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


def _numbers(text: str, kind: Any, what: str) -> list[Any]:
    try:
        return [kind(item) for item in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} joined by commas") from error
