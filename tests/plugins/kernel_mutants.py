"""Mistakes to seed in the kernels: each must make the CPU tests fail."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """Replaces the one place of `old` in a file of plugins/kernels by `new`."""

    file: str
    old: str
    new: str
    source: str  # the .cu that compiles it
    program: str  # the test that must catch it


def _linear(old: str, new: str) -> Mutant:
    return Mutant("linear.cuh", old, new, "linear.cu", "linear")


def _prefill(old: str, new: str) -> Mutant:
    return Mutant("linear_prefill.cuh", old, new, "linear_prefill.cu", "linear_prefill")


def _gate(old: str, new: str) -> Mutant:
    return Mutant("gate.cuh", old, new, "gate.cu", "gate")


def _attention(old: str, new: str) -> Mutant:
    return Mutant("attention.cuh", old, new, "attention.cu", "attention")


MUTANTS = {
    "x is read beyond its row": _linear("!active || at >= k", "!active || at > k"),
    "a bank leaves the sums of the other's rows": _linear(
        "if (rows_of_bank >> row & 1U)", "if (row < rows)"
    ),
    "a bank that no row needs is read": _linear("if (on_river != 0)", "if (rows != 0)"),
    "pre_scale on the backbone": _linear(
        "all_rows & ~on_river, nullptr,", "all_rows & ~on_river, p.river.pre_scale,"
    ),
    "x in the wrong order for the codes": _linear(
        "b[4] = {__byte_perm(x.x, x.z, 0x5410), __byte_perm(x.x, x.z, 0x7632)",
        "b[4] = {__byte_perm(x.x, x.y, 0x5410), __byte_perm(x.x, x.z, 0x7632)",
    ),
    "symmetric zero point of 7": _linear(
        "zero[tile][half][chunk] = 8.F", "zero[tile][half][chunk] = 7.F"
    ),
    "group of a column ignores the group size": _linear("+ at / river.group_size", "+ at / 64"),
    "warps overlap along k": _linear("k0 += kStride;", "k0 += Step::kColumns;"),
    "no barrier before the sums are added": _linear(
        "__syncthreads();\n\n    auto const total", "auto const total"
    ),
    "no barrier after the row is measured": _linear(
        "+ p.norm_eps);\n    }\n    __syncthreads();", "+ p.norm_eps);\n    }"
    ),
    "weight row beyond the end": _linear("local >= width ? -1", "local > width ? -1"),
    "up half has the wrong bias": _linear("row, n + width);", "row, n);"),
    "second row tile reads the flags of the first": _linear(
        "p.flag_type, row0 + lane)", "p.flag_type, lane)"
    ),
    "prefill selects the other bank": _prefill(
        "(args.river != nullptr && load_flag(", "(args.river != nullptr && !load_flag("
    ),
    "prefill dequantises the high code first": _prefill(
        "words[word] >> (4 * e)", "words[word] >> (4 * (e ^ 1))"
    ),
    "an exit is forgotten": _gate("row, before || passed);", "row, passed);"),
    "the exit layer moves up": _gate("passed && !before ? p.layer", "passed ? p.layer"),
    "NaN is the smallest score": _gate("a < b || a != a ? a : b", "a < b ? a : b"),
    "a pinned layer takes the river": _gate(
        "(before || passed) && !pinned_next", "(before || passed) && pinned_next"
    ),
    "one warp's part of the cosine is lost": _gate(
        "w < kGateWarps; ++w", "w < kGateWarps - 1; ++w"
    ),
    "sequences are decided as one": _gate("p.batch, p.seq, tau", "1, rows, tau"),
    "the counter is not reset": Mutant(
        "platform.cuh", "*counter = 0;", "*counter += 0;", "gate.cu", "gate"
    ),
    "the future is visible": _attention("key <= position[q]\n", "key <= position[q] + 1\n"),
    "the window is one too short": _attention(
        "key > position[q] - p.window)", "key > position[q] - p.window + 1)"
    ),
    "an old maximum is not corrected": _attention("state[q].sum *= kept;", ""),
    "the rotation turns back": _attention(
        "first ? -p.rotary_sin[angle] : p", "first ? p.rotary_sin[angle] : p"
    ),
    "a slot is read before it is written": _attention("key < past))", "key <= past))"),
    "a new key is not stored": _attention("kQueries == chunk)", "kQueries == chunk + 1)"),
    "splits are added without their maximum": _attention(
        "sum += load_shared_by_blocks(theirs + 1) * kept",
        "sum += load_shared_by_blocks(theirs + 1)",
    ),
    "slots beyond the cache are written": _attention(
        "if (slot >= usable_slots(p))", "if (slot < 0)"
    ),
}
