// AVX-512 with VNNI: the products of weights; all else is AVX2's. Compiled with the flags of
// native_library.py, and called only where the processor has all of it.
//
// A panel's 16 columns are one register of float32 or int32. One instruction multiplies four
// inputs of all columns: 64 bytes of 8-bit codes, or 32 bytes of 4-bit ones.
#if defined(__x86_64__)

// GCC 12 takes the undefined values of its own intrinsics for a mistake.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include <algorithm>

#include "kernels.h"

// Loops over an array of registers: unrolled early, or the compiler keeps the array in memory.
#define RIVER_UNROLL _Pragma("GCC unroll 8")

namespace river {
namespace {

inline __m512 load_16(const float* at) { return _mm512_loadu_ps(at); }
inline __m512 load_16(const uint16_t* at) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}

// Rows x panels: y = x * weight, on top of y where `add`. One chain of additions a column in the
// order of k, whatever the number of rows and panels: a row equals that row alone, to the bit.
template <size_t kRows, size_t kPanels, typename Value>
inline void dense_tile(const Value* weight, size_t stride, size_t inputs, const float* const* x,
                       bool add, float* y, size_t y_stride) {
  __m512 sums[kRows * kPanels];
RIVER_UNROLL
  for (size_t r = 0; r < kRows; ++r) {
RIVER_UNROLL
    for (size_t p = 0; p < kPanels; ++p) {
      sums[r * kPanels + p] =
          add ? _mm512_loadu_ps(y + r * y_stride + p * kPanel) : _mm512_setzero_ps();
    }
  }
  for (size_t k = 0; k < inputs; ++k) {
    __m512 w[kPanels];
RIVER_UNROLL
    for (size_t p = 0; p < kPanels; ++p) w[p] = load_16(weight + p * stride + k * kPanel);
RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
      const __m512 value = _mm512_set1_ps(x[r][k]);
RIVER_UNROLL
      for (size_t p = 0; p < kPanels; ++p) {
        sums[r * kPanels + p] = _mm512_fmadd_ps(value, w[p], sums[r * kPanels + p]);
      }
    }
  }
RIVER_UNROLL
  for (size_t r = 0; r < kRows; ++r) {
RIVER_UNROLL
    for (size_t p = 0; p < kPanels; ++p) {
      _mm512_storeu_ps(y + r * y_stride + p * kPanel, sums[r * kPanels + p]);
    }
  }
}

template <size_t kPanels, typename Value>
void dense_rows(const Value* weight, size_t stride, size_t inputs, const float* const* x,
                size_t rows, bool add, float* y, size_t y_stride) {
  switch (rows) {
    case 1: return dense_tile<1, kPanels>(weight, stride, inputs, x, add, y, y_stride);
    case 2: return dense_tile<2, kPanels>(weight, stride, inputs, x, add, y, y_stride);
    case 3: return dense_tile<3, kPanels>(weight, stride, inputs, x, add, y, y_stride);
    case 4: return dense_tile<4, kPanels>(weight, stride, inputs, x, add, y, y_stride);
    case 5: return dense_tile<5, kPanels>(weight, stride, inputs, x, add, y, y_stride);
    default: return dense_tile<6, kPanels>(weight, stride, inputs, x, add, y, y_stride);
  }
}

constexpr size_t kPart = 256;

// Inputs in parts, so that the part of the panels that all rows read stays in the first cache.
template <size_t kPanels, typename Value>
void dense_panels(const Value* weight, size_t inputs, const float* const* x, size_t rows, float* y,
                  size_t y_stride) {
  const size_t most = rows == 1 ? inputs : kPart;
  for (size_t start = 0; start < inputs; start += most) {
    for (size_t row = 0; row < rows; row += kMaxRows) {
      const size_t block = std::min(kMaxRows, rows - row);
      const float* values[kMaxRows];
      for (size_t r = 0; r < block; ++r) values[r] = x[row + r] + start;
      dense_rows<kPanels>(weight + start * kPanel, inputs * kPanel, std::min(most, inputs - start),
                          values, block, start > 0, y + row * y_stride, y_stride);
    }
  }
}

template <typename Value>
void dense_values(const Value* weight, size_t inputs, size_t panels, const float* const* x,
                  size_t rows, float* y) {
  size_t p = 0;
  for (; p + 2 <= panels; p += 2) {
    dense_panels<2>(weight + p * inputs * kPanel, inputs, x, rows, y + p * kPanel,
                    panels * kPanel);
  }
  if (p < panels) {
    dense_panels<1>(weight + p * inputs * kPanel, inputs, x, rows, y + p * kPanel,
                    panels * kPanel);
  }
}

void dense(const DensePanels& weight, size_t panels, const float* const* x, size_t rows,
           float* y) {
  if (weight.half != nullptr) return dense_values(weight.half, weight.inputs, panels, x, rows, y);
  dense_values(weight.single, weight.inputs, panels, x, rows, y);
}

// Four inputs of 16 columns, a byte each.
template <int kBits>
inline __m512i four_inputs(const uint8_t* codes) {
  if constexpr (kBits == 8) return _mm512_loadu_si512(codes);
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  const __m512i both =
      _mm512_inserti64x4(_mm512_castsi256_si512(bytes), _mm256_srli_epi16(bytes, 4), 1);
  return _mm512_and_si512(both, _mm512_set1_epi8(15));
}

inline __m512i four_values(const int8_t* at) {
  int32_t value;
  __builtin_memcpy(&value, at, 4);
  return _mm512_set1_epi32(value);
}

// Hardware fetches ahead within a page only, and a panel is little more than a page.
constexpr size_t kAhead = 2048;

template <int kBits, size_t kRows>
void rounded_panel(const QuantisedPanels& weight, const RoundedRow* x, float* y,
                   size_t y_stride) {
  constexpr size_t kBytes = 8 * kBits;  // of four inputs
  const size_t groups = weight.groups(), size = weight.group_size;
  __m512 sums[kRows];
RIVER_UNROLL
  for (size_t r = 0; r < kRows; ++r) sums[r] = _mm512_setzero_ps();
  const uint8_t* codes = weight.codes;
  for (size_t g = 0; g < groups; ++g) {
    // Two chains a row: whole numbers, so their order does not matter.
    __m512i even[kRows], odd[kRows];
RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r) even[r] = odd[r] = _mm512_setzero_si512();
    for (size_t k = g * size; k < (g + 1) * size; k += 8, codes += 2 * kBytes) {
      for (size_t line = 0; line < 2 * kBytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(codes + line + kAhead), _MM_HINT_T0);
      }
      const __m512i first = four_inputs<kBits>(codes);
      const __m512i second = four_inputs<kBits>(codes + kBytes);
RIVER_UNROLL
      for (size_t r = 0; r < kRows; ++r) {
        even[r] = _mm512_dpbusd_epi32(even[r], first, four_values(x[r].codes + k));
        odd[r] = _mm512_dpbusd_epi32(odd[r], second, four_values(x[r].codes + k + 4));
      }
    }
    __m512 zero = _mm512_set1_ps(8.0f);
    if (weight.zero_points != nullptr) {
      const auto* at = reinterpret_cast<const __m128i*>(weight.zero_points + g * kPanel);
      zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at)));
    }
    const __m512 scales = _mm512_loadu_ps(weight.scales + g * kPanel);
RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
      const __m512 dots = _mm512_cvtepi32_ps(_mm512_add_epi32(even[r], odd[r]));
      // Exact: both terms are whole numbers below 2^24.
      const __m512 centred = _mm512_fnmadd_ps(zero, _mm512_set1_ps(x[r].sums[g]), dots);
      const __m512 scaled = _mm512_mul_ps(centred, _mm512_set1_ps(x[r].scales[g]));
      sums[r] = _mm512_fmadd_ps(scaled, scales, sums[r]);
    }
  }
RIVER_UNROLL
  for (size_t r = 0; r < kRows; ++r) _mm512_storeu_ps(y + r * y_stride, sums[r]);
}

template <int kBits>
void rounded_rows(const QuantisedPanels& weight, const RoundedRow* x, size_t rows, float* y,
                  size_t y_stride) {
  switch (rows) {
    case 1: return rounded_panel<kBits, 1>(weight, x, y, y_stride);
    case 2: return rounded_panel<kBits, 2>(weight, x, y, y_stride);
    case 3: return rounded_panel<kBits, 3>(weight, x, y, y_stride);
    case 4: return rounded_panel<kBits, 4>(weight, x, y, y_stride);
    case 5: return rounded_panel<kBits, 5>(weight, x, y, y_stride);
    default: return rounded_panel<kBits, 6>(weight, x, y, y_stride);
  }
}

void rounded(const QuantisedPanels& weight, size_t panels, const RoundedRow* x, size_t rows,
             float* y) {
  for (size_t p = 0; p < panels; ++p) {
    const QuantisedPanels panel = weight.from(p);
    if (weight.bits == 4) {
      rounded_rows<4>(panel, x, rows, y + p * kPanel, panels * kPanel);
    } else {
      rounded_rows<8>(panel, x, rows, y + p * kPanel, panels * kPanel);
    }
  }
}

}  // namespace

const Kernels kAvx512 = {"avx512 vnni",   dense,     rounded,        kAvx2.widened,
                         kAvx2.round_row, kAvx2.dot, kAvx2.silu_mul, kAvx2.attend};

}  // namespace river

#endif
