// The instances of the decode kernel of one type, for the sources that compile them side by side.
#pragma once

#include "decode.cuh"

namespace river
{
using DecodeKernel = void (*)(DecodeParams);

constexpr int kDecodeAheads = 2; // rings of one panel and of two
// [rows 1, 2, 4, 8][exact, int8][ahead - 1]
using DecodeTable = DecodeKernel[4][2][kDecodeAheads];
extern DecodeTable const kDecodeHalf;
extern DecodeTable const kDecodeBfloat16;

#define RIVER_DECODE_ROWS(T, rows)                                                                 \
    {                                                                                              \
        {&decode_kernel<T, rows, false, 1>, &decode_kernel<T, rows, false, 2>},                    \
        {                                                                                          \
            &decode_kernel<T, rows, true, 1>, &decode_kernel<T, rows, true, 2>                     \
        }                                                                                          \
    }
#define RIVER_DECODE_TABLE(T)                                                                      \
    {RIVER_DECODE_ROWS(T, 1), RIVER_DECODE_ROWS(T, 2), RIVER_DECODE_ROWS(T, 4),                    \
        RIVER_DECODE_ROWS(T, 8)}
} // namespace river
