"""Lossless greedy texts of an engine against its full-depth texts, token for token.

Where two top logits lie so near that rounding may turn the choice, the place is named.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import river_trt
from scripts.research.flips import first_flip
from scripts.research.prompts import PROMPTS


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="of the forty")
    parser.add_argument("--tokens", type=int, default=200, help="generated for each")
    parser.add_argument("--batch", type=int, default=1, help="prompts decoded together")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args(argv)
    engine = river_trt.load(
        args.engine, max_batch_size=args.batch, max_seq_len=1024, threads=args.threads
    )
    texts = PROMPTS[: args.prompts]
    prompts = [engine.chat_prompt([{"role": "user", "content": text}]) for text in texts]
    config = river_trt.GenerationConfig(
        max_new_tokens=args.tokens,
        mode="full",
        ignore_eos=True,
        temperature=0,
        repetition_penalty=1,
    )
    equal = near = wrong = 0
    for start in range(0, len(prompts), args.batch):
        group = prompts[start : start + args.batch]
        full = engine.generate(group, config)
        lossless = engine.generate(group, replace(config, mode="lossless"))
        for number, prompt in enumerate(group):
            flip = first_flip(engine, prompt, full[number].token_ids, lossless[number].token_ids)
            if flip is None:
                equal += 1
                continue
            near, wrong = near + flip.is_near_tie, wrong + (not flip.is_near_tie)
            print(f"prompt {start + number} {texts[start + number]!r}, {flip}", flush=True)
    print(
        f"{equal} of {len(prompts)} texts of {args.tokens} tokens equal full depth's, "
        f"{near} turned at a near tie, {wrong} differ"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
