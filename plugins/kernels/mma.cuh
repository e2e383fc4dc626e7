// One tensor core step of a warp: c[16, 8] += a[16, 16] * b[16, 8], fp32 accumulation.
//
// Fragments (PTX ISA, mma.m16n8k16), for lane = 4 g + t:
//   a[0], a[1]: rows g and g + 8, columns 2t, 2t + 1     a[2], a[3]: the same rows, columns + 8
//   b0, b1: column g, rows 2t, 2t + 1 and 2t + 8, 2t + 9
//   c[0], c[1]: row g, columns 2t, 2t + 1                c[2], c[3]: row g + 8
// The sum over k has no order, so a kernel may lay any k on these places as long as a and b agree.
#pragma once

#include <type_traits>

#include "numeric.cuh"

namespace river
{
template <typename T>
__device__ __forceinline__ void mma_16x8x16(
    float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
#if defined(RIVER_CPU_SHIM)
    shim::mma_16x8x16(c, a, b0, b1, &Numeric<T>::unpack);
#else
    if constexpr (std::is_same_v<T, __half>)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// The same for 8-bit integers: c[16, 8] += a[16, 32] * b[32, 8], a unsigned and b signed.
//   a[0], a[1]: rows g and g + 8, columns 4t .. 4t + 3     a[2], a[3]: the same rows, columns + 16
//   b0, b1: column g, rows 4t .. 4t + 3 and 4t + 16 .. 4t + 19;  c as above
__device__ __forceinline__ void mma_16x8x32_u8_s8(
    int32_t (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
#if defined(RIVER_CPU_SHIM)
    shim::mma_16x8x32_u8_s8(c, a, b0, b1);
#else
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
} // namespace river
