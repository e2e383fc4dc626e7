"""An engine end to end: a small Llama made here, built and run by the CLI, against the reference.

usage: engine.py --out DIR [--library FILE]. With a library over the kernels' CPU shim the same code
runs where there is no GPU: the device is then the CPU, and a replay of a graph is a run.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

SIZES = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
}
GROUP_SIZE, PROMPT_TOKENS = 64, 12
# Over the shim, which takes a thousand times as long: what differs, and the tokens.
SHIM_SIZES = SIZES | {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
HEAD_BITS = (8, 4)
PLAIN_STEPS = ((1, 1), (1, 3), (2, 1), (2, 8), (4, 1), (4, 2), (8, 1))  # rows, tokens of each
TOO_MANY_ROWS = 500_000  # of 2 MiB of cache each, on a GPU
TAU_FILE = "middle_tau.json"
NEW_TOKENS = {True: 24, False: 6}  # whether it is on a GPU
TOLERANCE = 0.05  # of bfloat16 logits against float32 ones
# A token may differ where the reference's best two logits lie this near, as part of their spread.
NEAR = 0.15
NEAR_SCORE = 5e-3  # a score may pass tau in one arithmetic and not in the other
FORWARD = {"one pass, tau inf": np.inf, "one pass, tau -inf": -np.inf}
MODES: dict[str, dict[str, Any]] = {
    "tau inf": {"tau": np.inf},
    "tau 0.97": {"tau": 0.97},
    "tau -inf": {"tau": -np.inf},
    "lossless": {"mode": "lossless"},
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="an engine built and run by the CLI")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--library", type=Path, help="over the CPU shim; default: on the GPU")
    parser.add_argument("--inner", action="store_true", help="the half that runs the engine")
    args = parser.parse_args(argv)
    folder = args.out / "build" / "engine"
    if args.inner:
        if args.library is not None:
            run_over_shim(args.library)
        run_engine(folder, NEW_TOKENS[args.library is None])
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "model", SIZES if args.library is None else SHIM_SIZES)
    (folder / TAU_FILE).write_text(json.dumps(middle_tau(folder)))
    # A process of its own: a library over the shim replaces the reference's operators.
    command = [sys.executable, __file__, "--inner", *(sys.argv[1:] if argv is None else argv)]
    if code := subprocess.run(command, check=False).returncode:
        print(f"the engine's process ended with {code}")
        return 1
    report = check(folder)
    (args.out / "engine.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = [f"| {name} | {text} |" for name, text in report["modes"].items()]
    table = "\n".join(["| mode | against the reference |", "|---|---|", *lines])
    problems = "".join(f"- problem: {text}\n" for text in report["problems"])
    (args.out / "engine.md").write_text(f"{table}\n\n{problems}")
    print(table)
    print(f"{problems}{len(report['problems'])} problems on {report['device']}")
    return int(bool(report["problems"]))


def save_model(directory: Path, sizes: dict[str, int]) -> None:
    """Random weights, but large enough in the later layers that every bank and exit shows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.06))
    model.to(torch.bfloat16).save_pretrained(directory)


def load_reference(folder: Path) -> Any:
    """The torch reference on the CPU, with the engine's river."""
    from builders.quantisers import make_quantiser
    from builders.river_bank import load_decoder, river_format
    from builders.source import ModelSource

    source = ModelSource.open(str(folder / "model"))
    quantiser = make_quantiser("rtn", GROUP_SIZE, False)
    river = river_format(source.config, quantiser, GROUP_SIZE, False)
    return load_decoder(source, quantiser, river, SIZES["max_position_embeddings"])


def middle_tau(folder: Path) -> float:
    """One that the scores of some layers pass and those of others do not."""
    from river_trt.spec import ExitPolicy

    decoder = load_reference(folder)
    full = ExitPolicy.full_depth(len(decoder.layers))
    text = np.array([[*prompt_ids(folder), *range(3, 9)]])
    _, _, scores = decode_reference(decoder, text, full)
    return float(np.median(scores[1:]))


def run_over_shim(library: Path) -> None:
    """Put the CPU in the GPU's place: the operators' device, and the recorder."""
    from builders import dialect  # noqa: F401 (before the library, which replaces its operators)
    from river_trt.backends.torch import opening
    from tests.gpu.decode_bench import host_record

    def load_operators(device: str) -> Path:
        torch.ops.load_library(str(library))
        return library

    opening.load_operators = load_operators
    opening.find_device = lambda manifest, number: torch.device("cpu")
    opening.Recorder = lambda: host_record


def run_engine(folder: Path, new_tokens: int) -> None:
    """Build with the CLI, run with the CLI, then every mode; writes FOLDER/ran.npz and ran.json."""
    import river_trt
    from river_trt.cli.main import main as cli
    from river_trt.spec import ExitPolicy

    engine_dir = folder / "engine"
    prompt = prompt_ids(folder)
    build = ["build", "--model", folder / "model", "--out", engine_dir, "--target", "cuda"]
    build += ["--quantiser", "rtn", "--group-size", GROUP_SIZE, "--force", "--json"]
    built = json.loads(run_cli(cli, build))
    print("built", flush=True)
    command = ["run", "--engine", engine_dir, "--json", "--max-new-tokens", new_tokens]
    command += ["--prompt-ids", ",".join(map(str, prompt)), "--ignore-eos", "--tau", "inf"]
    said = json.loads(run_cli(cli, command))
    print("run", flush=True)

    refused = refusal(engine_dir) if torch.cuda.is_available() else None
    engine = river_trt.load(engine_dir, max_seq_len=128)
    arrays: dict[str, np.ndarray] = {"pinned": engine.policy.pinned}
    text = np.array([[*prompt, *said["token_ids"]]])
    for name, tau in FORWARD.items():
        policy = ExitPolicy.uniform(engine.num_layers, tau)
        arrays[f"{name} ids"] = text
        arrays[f"{name} logits"], arrays[f"{name} exits"] = engine.forward(text, policy)
    for name, options in modes_of(folder).items():
        config = river_trt.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, **options)
        (result,) = engine.generate([prompt], config)
        arrays[f"{name} tokens"] = np.array(result.token_ids)
        arrays[f"{name} exits"] = result.exit_layers
        print(name, flush=True)
    plain_dir = folder / "engine-plain"
    command = [plain_dir if part == engine_dir else part for part in build]
    run_cli(cli, [*command, "--banks", "backbone"])
    compare_plain(engine, river_trt.load(plain_dir, max_seq_len=128), text, new_tokens, arrays)
    for bits in HEAD_BITS:
        small = folder / f"engine-head-{bits}"
        command = [small if part == engine_dir else part for part in build]
        run_cli(cli, [*command, "--lm-head-bits", bits])
        pass_over = river_trt.load(small, max_seq_len=128).forward
        arrays[f"head {bits}"], _ = pass_over(text, ExitPolicy.full_depth(engine.num_layers))
        print(f"head of {bits} bits", flush=True)
    config = river_trt.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, tau=np.inf)
    prompts = [prompt, prompt[:5], prompt[3:]]
    together = [result.token_ids for result in engine.generate(prompts, config)]
    alone = [engine.generate([one], config)[0].token_ids for one in prompts]
    arrays["together"], arrays["alone"] = np.array(together), np.array(alone)
    longer = river_trt.GenerationConfig(
        max_new_tokens=4 * new_tokens, ignore_eos=True, tau=np.inf, top_p=0.9, temperature=1.0
    )
    arrays["graphs"] = record_all_kinds(engine, text)
    bench = ["bench", "--engine", engine_dir, "--context", 8, "--new-tokens", 4, "--rounds", 1]
    measured = json.loads(run_cli(cli, [*bench, "--mode", "full", "--mode", "river", "--json"]))
    arrays["bandwidth"] = np.array(measured["bandwidth"])
    print("benchmarked", flush=True)
    verify_on_both(engine, prompts, 4 * new_tokens, arrays)
    for name, way in (("greedy", config), ("sampled", longer)):
        engine.generate([prompt], way)  # records what it needs
        (timed,) = engine.generate([prompt], way)
        steps = max(1, len(timed.token_ids) - 1)
        arrays[f"ms {name}"] = np.array(1000 * timed.decode_seconds / steps)
    np.savez(folder / "ran.npz", **arrays)
    facts = {"build": built, "run": said, "refusal": refused}
    (folder / "ran.json").write_text(json.dumps(facts))


def compare_plain(
    engine: Any, plain: Any, text: np.ndarray, new_tokens: int, arrays: dict[str, np.ndarray]
) -> None:
    """At tau inf the engine is the plain model, to the bit: in one pass, and in steps of each kind.

    A step of S tokens of R rows is another kernel, or another instance of it, for each R and S.
    """
    from river_trt.spec import ExitPolicy

    policy = ExitPolicy.full_depth(engine.num_layers)
    for rows, seq in PLAIN_STEPS:
        length = text.shape[1] - seq
        ids = np.repeat(text, rows, axis=0)
        ids[:, 0] += np.arange(rows)
        both = []
        for one in (engine, plain):
            one.forward(ids[:, :length], policy)
            logits, _ = one.forward(ids[:, length:], policy, past_length=length)
            both.append(logits)
        arrays[f"plain {rows}x{seq}"] = np.array(np.array_equal(*both))
    config = {"max_new_tokens": new_tokens, "ignore_eos": True, "temperature": 0.0}
    import river_trt

    prompts = [text[0, :5].tolist(), text[0, :9].tolist()]
    texts = [
        [r.token_ids for r in one.generate(prompts, river_trt.GenerationConfig(**config, **way))]
        for one, way in ((engine, {"tau": np.inf}), (plain, {}), (engine, {"mode": "full"}))
    ]
    arrays["plain texts"] = np.array(texts[0] == texts[1] == texts[2])


def record_all_kinds(engine: Any, text: np.ndarray) -> np.ndarray:
    """Recordings of steps of 1 to 8 tokens of 1 to 8 rows: how many, and bytes that they take."""
    from river_trt.spec import ExitPolicy

    has_gpu = torch.cuda.is_available()
    policy = ExitPolicy.full_depth(engine.num_layers)
    free = torch.cuda.mem_get_info()[0] if has_gpu else 0
    longest = 8 if has_gpu else 2
    for rows in (1, 2, 4, 8) if has_gpu else (1, 2):
        for seq in range(1, longest + 1):
            engine.forward(np.repeat(text[:, :seq], rows, axis=0), policy)
    taken = free - torch.cuda.mem_get_info()[0] if has_gpu else 0
    return np.array([len(engine.stepper.session._runners), taken])


def verify_on_both(
    engine: Any, prompts: list[list[int]], new_tokens: int, arrays: dict[str, np.ndarray]
) -> None:
    """Sampled, penalised lossless texts, verified on the device and from logits on the host."""
    import river_trt
    from river_trt.lossless import answers, length

    length.FURTHER_TOKEN, length.LEAST_PROMISE = 0.0, 0.0  # draft, whatever it brings
    config = river_trt.GenerationConfig(
        max_new_tokens=new_tokens,
        temperature=0.2,  # so that small differences of the logits matter
        top_p=0.95,
        repetition_penalty=1.2,
        pinned=(),
        seed=5,
        ignore_eos=True,
        mode="lossless",
    )
    chooses = answers.ChoosesTokens
    for name, kind in (("device", chooses), ("host", river_trt.RiverError)):  # no session is one
        answers.ChoosesTokens = kind
        engine.generate(prompts, config)  # records what it needs
        results = engine.generate(prompts, config)
        arrays[f"verified on the {name}"] = np.array([r.token_ids for r in results])
        arrays[f"ms a token, verified on the {name}"] = np.array(
            1000 * max(r.decode_seconds for r in results) / new_tokens
        )
        arrays["drafted"] = np.concatenate([r.speculation.drafted for r in results])
        arrays["accepted"] = np.concatenate([r.speculation.accepted for r in results])
    answers.ChoosesTokens = chooses


def refusal(engine_dir: Path) -> str:
    """What loading says where the cache does not fit the GPU; nothing may be loaded by then."""
    import river_trt

    before = torch.cuda.memory_allocated()
    try:
        river_trt.load(engine_dir, max_batch_size=TOO_MANY_ROWS)
    except river_trt.RiverError as error:
        taken = torch.cuda.memory_allocated() - before
        return f"{error} ({taken} bytes loaded by then)"
    return "was not refused"


def check(folder: Path) -> dict[str, Any]:
    """What the engine gave, against the torch reference on the CPU."""
    from builders.quantisers.integer import quantise_integer
    from builders.reference import teacher_forced
    from river_trt.spec import ExitPolicy

    decoder = load_reference(folder)
    layers, head = len(decoder.layers), decoder.lm_head
    ran = np.load(folder / "ran.npz")
    problems: list[str] = []
    modes: dict[str, str] = {}
    for name, tau in FORWARD.items():
        policy = ExitPolicy.uniform(layers, tau)
        logits, exits = teacher_forced(decoder, ran[f"{name} ids"], policy)
        got = ran[f"{name} logits"]
        error = float(np.linalg.norm(got - logits) / np.linalg.norm(logits))
        same = bool((ran[f"{name} exits"] == exits).all())
        modes[name] = f"relative error {error:.1e}, exit layers equal: {same}"
        if not (error < TOLERANCE and same):
            problems.append(f"{name}: {modes[name]}")
    for name, options in modes_of(folder).items():
        tokens = ran[f"{name} tokens"]
        text = np.array([*prompt_ids(folder), *tokens])[None, :-1]
        policy = ExitPolicy.uniform(layers, options.get("tau", np.inf))
        if name not in ("tau inf", "lossless"):
            policy = ExitPolicy(policy.tau, ran["pinned"])
        modes[name], wrong = compare(decoder, text, tokens, ran[f"{name} exits"], policy, name)
        problems += wrong
    for bits in HEAD_BITS:
        decoder.lm_head = quantise_integer(head, bits, GROUP_SIZE).dequantise(head.shape[1])
        text = ran[f"{next(iter(FORWARD))} ids"]
        logits, _ = teacher_forced(decoder, text, ExitPolicy.full_depth(layers))
        error = float(np.linalg.norm(ran[f"head {bits}"] - logits) / np.linalg.norm(logits))
        modes[f"head of {bits} bits"] = f"relative error {error:.1e}"
        if not error < TOLERANCE:
            problems.append(f"head of {bits} bits: {error:.1e}")
    for name in ("greedy", "sampled"):
        modes[f"a step at full depth, {name}"] = f"{float(ran[f'ms {name}']):.2f} ms, host and all"
    kinds = [name.removeprefix("plain ") for name in ran.files if name.startswith("plain ")]
    unlike = [kind for kind in kinds if not ran[f"plain {kind}"]]
    modes["tau inf and the plain model, bit for bit"] = (
        f"{len(kinds) - len(unlike)} of {len(kinds)} alike ({', '.join(kinds)})"
    )
    problems += [f"at tau inf {kind} is not the plain model's, to the bit" for kind in unlike]
    from river_trt.gpu_memory import GRAPHS

    modes["`river-trt bench`"] = f"a copy reaches {float(ran['bandwidth']) / 1e9:.0f} GB/s"
    count, taken = ran["graphs"].tolist()
    modes["recordings of all kinds of steps"] = f"{count}, {taken / 2**20:.0f} MiB more"
    if taken > GRAPHS:
        problems.append(f"recordings take {taken} bytes, {GRAPHS} are counted before loading")
    alike = ran["verified on the device"] == ran["verified on the host"]
    times = [float(ran[f"ms a token, verified on the {where}"]) for where in ("device", "host")]
    modes["lossless, sampled and penalised"] = (
        f"{int(alike.all(axis=1).sum())} of {len(alike)} texts as verified on the host, "
        f"{ran['accepted'].sum()} of {ran['drafted'].sum()} drafted tokens accepted; "
        f"{times[0]:.2f} ms a token of the rows, {times[1]:.2f} on the host"
    )
    if not alike.all():
        problems.append("sampled lossless texts differ from those verified on the host")
    rows = (ran["together"] == ran["alone"]).all(axis=1)
    modes["three rows together"] = f"{int(rows.sum())} of {len(rows)} texts as alone"
    has_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if has_gpu else "cpu"
    facts = json.loads((folder / "ran.json").read_text())
    if facts["refusal"] is not None:
        modes["too large a cache"] = facts["refusal"]
        if not facts["refusal"].endswith("(0 bytes loaded by then)"):
            problems.append(f"too large a cache: {facts['refusal']}")
    return facts | {
        "device": device,
        "torch": torch.__version__,
        "modes": modes,
        "problems": problems,
    }


def modes_of(folder: Path) -> dict[str, dict[str, Any]]:
    return MODES | {"tau in the middle": {"tau": json.loads((folder / TAU_FILE).read_text())}}


def prompt_ids(folder: Path) -> list[int]:
    vocab = json.loads((folder / "model" / "config.json").read_text())["vocab_size"]
    ids: list[int] = np.random.default_rng(0).integers(3, vocab, PROMPT_TOKENS).tolist()
    return ids


def compare(
    decoder: Any,
    text: np.ndarray,  # [1, prompt and all tokens but the last]
    tokens: np.ndarray,
    exit_layers: np.ndarray,
    policy: Any,
    name: str,
) -> tuple[str, list[str]]:
    """Every token of a greedy text against the reference's next-token logits of that very text.

    The prompt is prefilled at full depth, the rest decoded under the policy, as the engine did. A
    token that differs must be a near tie, an exit that differs a score near tau.
    """
    logits, exits, scores = decode_reference(decoder, text, policy)
    problems, ties = [], 0
    for index, token in enumerate(tokens):
        row = logits[index]
        gap = float(row.max() - row[token])
        if gap > NEAR * float(row.std()):
            problems.append(f"{name}: token {index} is {token}, {gap:.3f} below the best logit")
        ties += int(row.argmax()) != token
    differing = 0
    if name != "lossless":
        for index, (got, expected) in enumerate(zip(exit_layers, exits, strict=True)):
            if got == expected:
                continue
            differing += 1
            first = min(int(got), int(expected))
            distance = abs(float(scores[index][first - 1]) - float(policy.tau[first - 1]))
            if not distance < NEAR_SCORE:
                problems.append(
                    f"{name}: token {index} left after {got}, the reference after {expected}"
                )
    return (
        f"{len(tokens)} tokens, {ties} near ties; exit layers differ {differing} times "
        f"(mean {float(np.mean(exit_layers)):.2f} of {len(policy.tau)})"
    ), problems


def decode_reference(
    decoder: Any, text: np.ndarray, policy: Any
) -> tuple[list[np.ndarray], list[int], list[list[float]]]:
    """Logits, exit layers and scores of the tokens after the prompt, prefilled at full depth."""
    from builders import dialect
    from river_trt.spec import ExitPolicy

    layers = len(policy.tau)
    size = (1, decoder.config.num_kv_heads, text.shape[1], decoder.config.head_dim)
    caches = [torch.zeros(size) for _ in range(2 * layers)]
    seen: list[float] = []
    watched = [
        layer.register_forward_hook(
            lambda module, args, out: seen.append(float(dialect.cosine(args[0], out[0])[0, -1]))
        )
        for layer in decoder.layers
    ]
    logits, exits, scores = [], [], []
    steps = [(0, PROMPT_TOKENS, ExitPolicy.full_depth(layers))]
    steps += [(at, at + 1, policy) for at in range(PROMPT_TOKENS, text.shape[1])]
    with torch.inference_mode():
        for start, end, chosen in steps:
            seen.clear()
            out, exit_layer, caches = decoder(
                torch.tensor(text[:, start:end]),
                torch.tensor([start], dtype=torch.int32),
                torch.tensor([end - start - 1]),
                torch.tensor(chosen.tau),
                torch.tensor(chosen.pinned),
                torch.tensor(False),
                torch.zeros(layers, decoder.config.hidden_size),
                torch.tensor(1 if start == 0 else 0, dtype=torch.int32),
                caches,
            )
            logits.append(out[0, -1].numpy())
            exits.append(int(exit_layer[0, -1]))
            scores.append(list(seen))
    for hook in watched:
        hook.remove()
    return logits, exits, scores


def run_cli(cli: Callable[[list[str]], int], command: Sequence[object]) -> str:
    """What the command prints; RuntimeError where it fails."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = cli([str(part) for part in command])
    if code != 0:
        raise RuntimeError(f"river-trt {command[0]}: exit code {code}: {printed.getvalue()}")
    return printed.getvalue()


if __name__ == "__main__":
    sys.exit(main())
