"""Text to token ids and back: prompts, chats, and text that streams without broken characters."""

from river_trt.text.chat import Chat, ChatOptions
from river_trt.text.stream import TextStream
from river_trt.text.template import CHAT_TEMPLATE_FILE
from river_trt.text.tokenizer import TOKENIZER_FILE, Tokenizer

__all__ = ["CHAT_TEMPLATE_FILE", "TOKENIZER_FILE", "Chat", "ChatOptions", "TextStream", "Tokenizer"]
