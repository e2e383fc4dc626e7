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


def _decode(old: str, new: str) -> Mutant:
    """In what depends on T: the other type's object keeps its own."""
    return Mutant("decode.cuh", old, new, "decode_half.cu", "decode")


def _gate(old: str, new: str) -> Mutant:
    return Mutant("gate.cuh", old, new, "gate.cu", "gate")


def _attention(old: str, new: str) -> Mutant:
    return Mutant("attention.cuh", old, new, "attention.cu", "attention")


def _softmax(old: str, new: str) -> Mutant:
    return Mutant("softmax.cuh", old, new, "attention.cu", "attention")


def _append(old: str, new: str) -> Mutant:
    return Mutant("attention_append.cuh", old, new, "attention.cu", "attention")


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
    "every chunk has the same x": _decode("active && g % kSpan == j", "active"),
    "the scale of another chunk": _decode("lane / 4 * 4 + chunk / 2;", "lane / 4 * 4 + chunk % 4;"),
    "the zero point of int8 is lost": _decode(
        "fmaf(factor * s.y, about.y, kIntegerMagicValue)", "kIntegerMagicValue"
    ),
    "high nibbles stay sixteen times too large": _decode("(1.F / factor)", "1.F"),
    "a backbone by flag leaves the sums of the river's rows": _decode(
        "if (of_row < kRows && (rows_of_bank >> of_row & 1U) != 0)", "if (of_row < kRows)"
    ),
    "codes of x in the order of x": _decode(
        "__byte_perm(codes[j], codes[j + 2], 0x0040)", "__byte_perm(codes[j], codes[j + 1], 0x0040)"
    ),
    "half of the codes are in the sum of a chunk": _decode(
        "kOnes, __dp4a(static_cast<int>(words.y), kOnes, 0)", "kOnes, 0"
    ),
    "rows of x run into each other": _decode(
        "at >= columns; at -= columns", "at > columns; at -= columns"
    ),
    "x is multiplied before it is there": _decode(
        "XForm::kExact>(d, b, rms);\n            __syncthreads();", "XForm::kExact>(d, b, rms);"
    ),
    "tiles are added before they are there": _decode("__syncthreads();\n    finish<", "finish<"),
    "the sum of squares is of another number": _decode(
        "square = value * value;", "square = value;"
    ),
    "an exit is forgotten": _gate("before.exited || passed;", "passed;"),
    "the exit layer moves up": _gate("passed && !before.exited ? p.layer", "passed ? p.layer"),
    "NaN is the smallest score": _gate("a < b || a != a ? a : b", "a < b ? a : b"),
    "a pinned layer takes the river": _gate("exited && !pinned_next", "exited && pinned_next"),
    "one warp's part of the cosine is lost": _gate(
        "kWarpSize * lane < threads ?", "kWarpSize * (lane + 1) < threads ?"
    ),
    "sequences are decided as one": _gate("p.batch, p.seq, tau", "1, rows, tau"),
    "the sum of squares is the reference's": _gate(
        "p.sum_squares[row] = sums[2]", "p.sum_squares[row] = sums[1]"
    ),
    "a long row keeps its first reference": _gate(
        "if (at >= 8 * threads)", "if (at >= 16 * threads)"
    ),
    "the counter is not reset": Mutant(
        "platform.cuh", "*counter = 0;", "*counter += 0;", "gate.cu", "gate"
    ),
    "the future is visible": _attention(
        "min(position, to - 1) : -1", "min(position + 1, to - 1) : -1"
    ),
    "the window is one too short": _attention(
        "? position - p.window + 1", "? position - p.window + 2"
    ),
    "a window's splits begin too late": _attention(
        "first_token - p.window + 1", "first_token - p.window + 9"
    ),
    "an old maximum is not corrected in the sum": _attention("sum[r] * kept + ", "sum[r] + "),
    "nor in the output": _attention("out[r][m][2] *= even;", ""),
    "two queries share a correction": _attention("kept, 8 * t + 4)", "kept, 8 * t)"),
    "a slot is read before it is written": _attention("min(past, to)", "min(past + 1, to)"),
    "a new key is not stored": _attention("/ kQueries == chunk;", "/ kQueries == chunk + 1;"),
    "a new key is stored by no split": _attention("|| key < from)", "|| key <= from)"),
    "no barrier after the queries": _attention(
        "block.plan(i, part);\n    }\n    __syncthreads();", "block.plan(i, part);\n    }"
    ),
    "a part of a head is not cleared": _attention("block.clear_rest();", ""),
    "keys of the second half with weights of the first": _attention(
        "__byte_perm(words[2][j], words[3][j], 0x5410)",
        "__byte_perm(words[0][j], words[1][j], 0x5410)",
    ),
    "no barrier between the warps of a block": _attention(
        "__syncthreads();\n    if (args.cluster)\n        wait_in_cluster();",
        "if (args.cluster)\n        wait_in_cluster();",
    ),
    "results are sent to a block that may not have started": _attention(
        "    __syncthreads();\n    if (args.cluster)\n        wait_in_cluster();",
        "    __syncthreads();",
    ),
    "a block merges before its splits have sent": _attention("wait_for(shared.sent);", "{}"),
    "results are sent to the wrong block": _attention(
        "int const rank = i >> args.share_log2;", "int const rank = split;"
    ),
    "splits are added without their maximum": _softmax(
        "sum += parts[i].sum * weight;", "sum += parts[i].sum;"
    ),
    "a first part without keys is kept": _softmax(
        "return maximum == -INFINITY ? 0.F : maximum;", "return maximum;"
    ),
    "the rotation turns back": _append("at < half ? -1.F : 1.F", "at < half ? 1.F : -1.F"),
    "an odd rotation turns back": _append(
        "d < half ? -p.rotary_sin[angle] : p", "d < half ? p.rotary_sin[angle] : p"
    ),
    "slots beyond the cache are written": _append("if (slot >= usable_slots(p))", "if (slot < 0)"),
    "a row of the cache is taken for another": _append(
        "p.cache_rows == nullptr ? b : p.cache_rows[b]", "b"
    ),
    "a division rounds down twice": _append("(power + divisor - 1) / divisor", "power / divisor"),
}
