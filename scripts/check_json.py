"""Texts held to ten JSON schemas: all valid, and greedy lossless texts are the greedy full ones.

python scripts/check_json.py --engine engine/
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import river_trt
from river_trt import GenerationConfig
from scripts.research.json_schemas import MODELS, hold


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=200, help="sampled texts in each mode")
    parser.add_argument("--tokens", type=int, default=300, help="of a text at most")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(argv)
    engine = river_trt.load(
        args.engine, max_batch_size=args.batch, max_seq_len=1024, threads=args.threads
    )
    chats = {
        model: engine.chat_prompt([{"role": "user", "content": text + " Answer in JSON."}])
        for model, text in MODELS.items()
    }
    wrong = 0
    each = -(-args.texts // len(MODELS))
    for mode in ("river", "lossless", "full"):
        totals = []
        for seed, (model, prompt) in enumerate(chats.items()):
            config = GenerationConfig(
                max_new_tokens=args.tokens,
                mode=mode,  # type: ignore[arg-type]
                temperature=args.temperature,
                seed=1000 * seed,
            )
            found, _ = hold(engine, model, [prompt] * each, config)
            totals.append(found)
            if found.valid < found.texts:
                print(f"{mode}, {model.__name__}: {found.problem}", flush=True)
        texts, valid = sum(f.texts for f in totals), sum(f.valid for f in totals)
        tokens, seconds = sum(f.tokens for f in totals), sum(f.seconds for f in totals)
        masks, cost = sum(f.masks for f in totals), sum(f.mask_seconds for f in totals)
        print(
            f"{mode}: {valid} of {texts} texts valid, {tokens} tokens in {seconds:.1f} s; "
            f"{masks} masks of {1e6 * cost / masks:.0f} us, {100 * cost / seconds:.1f} % of it",
            flush=True,
        )
        wrong += texts - valid
    equal = 0
    for model, prompt in chats.items():
        texts = []
        for mode in ("lossless", "full"):
            config = GenerationConfig(
                max_new_tokens=args.tokens,
                mode=mode,  # type: ignore[arg-type]
                temperature=0,
            )
            texts.append(hold(engine, model, [prompt], config)[1][0].token_ids)
        equal += texts[0] == texts[1]
        if texts[0] != texts[1]:
            print(f"greedy, {model.__name__}: lossless {texts[0]}, full {texts[1]}")
    print(f"greedy: {equal} of {len(chats)} lossless texts equal the full ones")
    return 1 if wrong or equal < len(chats) else 0


if __name__ == "__main__":
    sys.exit(main())
