"""What a request is answered with, response by response. Knows no Triton."""

from collections.abc import Iterator

import numpy as np

from river_trt.results import FinishReason, TokenEvent
from river_trt.triton.ask import Ask

# As vLLM's clients know them: an end-of-sequence token is a stop too.
FINISH_REASONS: dict[FinishReason, str] = {"eos": "stop", "stop": "stop", "length": "length"}


class Reply:
    """Gathers the tokens that the next response will tell of."""

    def __init__(self, ask: Ask, prompt_tokens: int) -> None:
        self._ask, self._prompt_tokens = ask, prompt_tokens
        self._text: list[str] = [ask.prompt] if ask.echo and isinstance(ask.prompt, str) else []
        self._exit_layers: list[int] = []
        self._backbone_layers: list[int] = []

    def add(self, event: TokenEvent) -> Iterator[dict[str, np.ndarray]]:
        """The outputs of a response, if one is due: with the last token, in a stream with text."""
        self._text.append(event.text)
        self._exit_layers.append(event.exit_layer)
        self._backbone_layers.append(event.backbone_layers)
        if event.finish_reason or (self._ask.stream and event.text):
            yield self._outputs(event.finish_reason)
            self._text, self._exit_layers, self._backbone_layers = [], [], []

    def _outputs(self, finish_reason: FinishReason | None) -> dict[str, np.ndarray]:
        ask = self._ask
        outputs = {"text_output": _string("".join(self._text))}
        if ask.return_finish_reason:
            reason = FINISH_REASONS[finish_reason] if finish_reason else ""
            outputs["finish_reason"] = _string(reason)
        if ask.return_num_input_tokens:
            outputs["num_input_tokens"] = np.array([self._prompt_tokens], np.uint32)
        if ask.return_num_output_tokens:
            outputs["num_output_tokens"] = np.array([len(self._exit_layers)], np.uint32)
        if ask.return_exit_statistics:
            outputs["exit_layers"] = np.array(self._exit_layers, np.int32)
            mean = np.mean(self._backbone_layers)
            outputs["mean_backbone_layers"] = np.array([mean], np.float32)
        return outputs


def _string(text: str) -> np.ndarray:
    return np.array([text.encode()], np.object_)
