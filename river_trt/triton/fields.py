"""The tensors of the two layouts that Triton's LLM clients know."""

from dataclasses import dataclass

from river_trt.errors import RiverError


@dataclass(frozen=True, slots=True)
class Field:
    """An input. `sets` is what it means to us: a key of parameters.PARAMETERS or FLAGS, or None
    where only the values in `neutral` are taken, because we do not have what it asks for."""

    name: str
    kind: str  # a Triton data type without TYPE_
    sets: str | None
    many: bool = False  # any number of values, not one
    neutral: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """A response's tensor; kind is Triton's name of its type."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Layout:
    """batched: the wire shape has a leading batch dimension, always 1. echo: a text that is not
    streamed begins with the prompt unless the request says otherwise."""

    name: str
    inputs: tuple[Field, ...]
    batched: bool
    echo: bool


OUTPUTS = (
    Output("text_output", "STRING"),
    Output("finish_reason", "STRING"),
    Output("num_input_tokens", "UINT32"),
    Output("num_output_tokens", "UINT32"),
    Output("exit_layers", "INT32"),
    Output("mean_backbone_layers", "FP32"),
)
RETURNS = (
    Field("exclude_input_in_output", "BOOL", "exclude_input_in_output"),
    Field("return_finish_reason", "BOOL", "return_finish_reason"),
    Field("return_num_input_tokens", "BOOL", "return_num_input_tokens"),
    Field("return_num_output_tokens", "BOOL", "return_num_output_tokens"),
    Field("return_exit_statistics", "BOOL", "return_exit_statistics"),
)
POLICY = (
    Field("tau", "FP32", "tau", many=True),
    Field("pinned", "INT32", "pinned", many=True),
)
SAMPLING = (
    Field("max_tokens", "INT32", "max_tokens"),
    Field("temperature", "FP32", "temperature"),
    Field("top_k", "INT32", "top_k"),
    Field("top_p", "FP32", "top_p"),
    Field("min_p", "FP32", "min_p"),
    Field("repetition_penalty", "FP32", "repetition_penalty"),
    Field("presence_penalty", "FP32", "presence_penalty"),
    Field("frequency_penalty", "FP32", "frequency_penalty"),
    Field("ignore_eos", "BOOL", "ignore_eos"),
    Field("prefill", "STRING", "prefill"),
    Field("mode", "STRING", "mode"),
    Field("policy", "STRING", "policy"),
    Field("max_draft_tokens", "INT32", "max_draft_tokens"),
)
# Single values come in sampling_parameters, or beside the inputs of generate, whose parser can
# name what is wrong with them; what is declared here, Triton parses itself. Lists must be.
VLLM = Layout(
    "vllm",
    (
        Field("text_input", "STRING", "text_input"),
        Field("stream", "BOOL", "stream"),
        Field("sampling_parameters", "STRING", "sampling_parameters"),
        *RETURNS,
        *POLICY,
        Field("stop", "STRING", "stop", many=True),
        Field("stop_token_ids", "INT32", "stop_token_ids", many=True),
    ),
    batched=False,
    echo=True,
)
TRTLLM = Layout(
    "trtllm",
    (
        Field("text_input", "STRING", "text_input"),
        Field("stream", "BOOL", "stream"),
        *RETURNS,
        *POLICY,
        *SAMPLING,
        Field("random_seed", "UINT64", "seed"),
        Field("stop_words", "STRING", "stop", many=True),
        Field("bad_words", "STRING", None, many=True, neutral=("",)),
        Field("min_length", "INT32", None, neutral=(0, 1)),
        Field("beam_width", "INT32", None, neutral=(1,)),
        Field("length_penalty", "FP32", None, neutral=(0, 1)),
    ),
    batched=True,
    echo=False,
)
LAYOUTS = {layout.name: layout for layout in (VLLM, TRTLLM)}


def find_layout(name: str) -> Layout:
    """Raises RiverError for a name that is none of LAYOUTS."""
    if name not in LAYOUTS:
        raise RiverError(f"layout must be one of {', '.join(LAYOUTS)}, got {name!r}")
    return LAYOUTS[name]
