// AVX-512 with AMX: products of rounded rows, sixteen at a time; all else is AVX-512's. A tile
// multiplies 64 inputs of 16 rows and of a panel's 16 columns: whole numbers, as VNNI's, so that a
// row's result is the same to the bit by either.
#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)

// GCC 12 takes the undefined values of its own intrinsics for a mistake.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "fine_sums_avx512.h"
#include "kernels.h"

#define RIVER_AMX __attribute__((target("amx-tile,amx-int8")))

namespace river
{
namespace
{

constexpr size_t kRows = 16;            // of a tile
constexpr size_t kPartBytes = 20 << 10; // of rows that panels take turns with: of the first cache

// Tiles 0..2: the products [rows, columns], the rows' codes and the panel's, of 64 inputs.
struct alignas(64) TileShapes
{
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64};
    uint8_t rows[16] = {kRows, kRows, 16};
};

// 64 inputs of 16 columns, a byte each, of 4-bit codes.
inline void widen_codes(uint8_t const* codes, uint8_t* out)
{
    for (size_t i = 0; i < 16; ++i)
    {
        __m256i const bytes = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(codes + 32 * i));
        __m256i const low = _mm256_set1_epi8(15);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 64 * i), _mm256_and_si256(bytes, low));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 64 * i + 32),
            _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low));
    }
}

// Sixteen rows whose codes lie `stride` bytes apart; their scales and sums [groups, 16], which all
// panels read in order.
template <typename Row>
struct RowTile
{
    using Sum = std::decay_t<decltype(*Row::sums)>;
    struct Group
    {
        float scales[kRows];
        Sum sums[kRows];
    };
    int8_t const* codes;
    size_t stride;
    Group const* groups;
};

// One panel for 16 rows; groups first .. end, on top of y where `first` is not 0.
RIVER_AMX void rounded_tile(QuantisedPanels const& weight, RowTile<RoundedRow> const& x,
    size_t first, size_t end, float* y, size_t y_stride)
{
    size_t const size = weight.group_size;
    __m512 sums[kRows];
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r)
        sums[r] = first != 0 ? _mm512_loadu_ps(y + r * y_stride) : _mm512_setzero_ps();
    alignas(64) int32_t products[2][kRows][kPanel];
    alignas(64) uint8_t widened[1024];
    uint8_t const* codes = weight.codes + first * size * 2 * weight.bits;
    for (size_t g = first; g < end; ++g)
    {
        _tile_zero(0);
        for (size_t k = g * size; k < (g + 1) * size; k += 64, codes += 128 * weight.bits)
        {
            _tile_loadd(1, x.codes + k, static_cast<int>(x.stride));
            if (weight.bits == 8)
            {
                _tile_loadd(2, codes, 64);
            }
            else
            {
                widen_codes(codes, widened);
                _tile_loadd(2, widened, 64);
            }
            _tile_dpbsud(0, 1, 2);
        }
        auto const& whole = products[g % 2]; // the next group's need not wait for these
        _tile_stored(0, products[g % 2], 64);
        __m512 zero = _mm512_set1_ps(8.0f);
        if (weight.zero_points != nullptr)
        {
            auto const* at = reinterpret_cast<__m128i const*>(weight.zero_points + g * kPanel);
            zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at)));
        }
        __m512 const scales = _mm512_loadu_ps(weight.scales + g * kPanel);
#pragma GCC unroll 16
        for (size_t r = 0; r < kRows; ++r)
        { // as rounded_tile of kernels_avx512.cc
            __m512 const centred = _mm512_fnmadd_ps(zero, _mm512_set1_ps(x.groups[g].sums[r]),
                _mm512_cvtepi32_ps(_mm512_load_si512(whole[r])));
            __m512 const scaled = _mm512_mul_ps(centred, _mm512_set1_ps(x.groups[g].scales[r]));
            sums[r] = _mm512_fmadd_ps(scaled, scales, sums[r]);
        }
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r)
        _mm512_storeu_ps(y + r * y_stride, sums[r]);
}

// A group's products with the high bytes of 16 fine rows.
RIVER_AMX inline void multiply_group(uint8_t const* weight, int8_t const* x, size_t stride,
    size_t size, int32_t (&products)[kRows][kPanel])
{
    _tile_zero(0);
    for (size_t k = 0; k < size; k += 64)
    {
        _tile_loadd(2, weight + k * kPanel, 64);
        _tile_loadd(1, x + k, static_cast<int>(stride));
        _tile_dpbsud(0, 1, 2);
    }
    _tile_stored(0, products, 64);
}

// As rounded_tile, for the high bytes of fine rows; groups first .. end, on top of y where `first` is
// not 0.
RIVER_AMX void high_tile(QuantisedPanels const& weight, RowTile<FineRow> const& x, size_t first,
    size_t end, float* y, size_t y_stride)
{
    size_t const size = weight.group_size;
    __m512 sums[kRows];
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r)
        sums[r] = first != 0 ? _mm512_loadu_ps(y + r * y_stride) : _mm512_setzero_ps();
    alignas(64) int32_t products[2][kRows][kPanel];
    multiply_group(weight.codes + first * size * kPanel, x.codes + first * size, x.stride, size,
        products[first % 2]);
    for (size_t g = first; g < end; ++g)
    {
        if (g + 1 < end)
        { // on its way while this group's products are added
            multiply_group(weight.codes + (g + 1) * size * kPanel, x.codes + (g + 1) * size,
                x.stride, size, products[(g + 1) % 2]);
        }
        auto const& whole = products[g % 2];
        __m512i const zero = fine_zeros<false>(weight, g);
        __m512 const scales = _mm512_loadu_ps(weight.scales + g * kPanel);
#pragma GCC unroll 16
        for (size_t r = 0; r < kRows; ++r)
        {
            sums[r] = add_scaled(_mm512_load_si512(whole[r]), zero, x.groups[g].sums[r],
                x.groups[g].scales[r], scales, sums[r]);
        }
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < kRows; ++r)
        _mm512_storeu_ps(y + r * y_stride, sums[r]);
}

// Bytes between the codes of 16 rows; 0 where they differ.
template <typename Row>
size_t stride_of(Row const* x)
{
    ptrdiff_t const stride = x[1].codes - x[0].codes;
    for (size_t r = 2; r < kRows; ++r)
    {
        if (x[r].codes - x[r - 1].codes != stride)
            return 0;
    }
    return stride > 0 ? static_cast<size_t>(stride) : 0;
}

// Sixteen rows by `tile`, where their codes let it, and then by `after`; the others by AVX-512's `few`.
template <typename Row>
RIVER_AMX void in_tiles(QuantisedPanels const& weight, size_t panels, Row const* x, size_t rows,
    float* y,
    void (*tile)(QuantisedPanels const&, RowTile<Row> const&, size_t, size_t, float*, size_t),
    void (*after)(QuantisedPanels const&, size_t, Row const*, size_t, float*),
    void (*few)(QuantisedPanels const&, size_t, Row const*, size_t, float*))
{
    thread_local std::vector<typename RowTile<Row>::Group> groups;
    bool configured = false;
    for (size_t row = 0; row < rows;)
    {
        size_t const stride =
            rows - row >= kRows && weight.group_size % 64 == 0 ? stride_of(x + row) : 0;
        float* values = y + row * panels * kPanel;
        if (stride == 0)
        {
            size_t const count = std::min(kMaxRows, rows - row);
            few(weight, panels, x + row, count, values);
            row += count;
            continue;
        }
        if (!configured)
        {
            TileShapes const shapes;
            _tile_loadconfig(&shapes);
            configured = true;
        }
        groups.resize(weight.groups());
        for (size_t r = 0; r < kRows; ++r)
        {
            for (size_t g = 0; g < groups.size(); ++g)
            {
                groups[g].scales[r] = x[row + r].scales[g];
                groups[g].sums[r] = x[row + r].sums[g];
            }
        }
        RowTile<Row> const tile_rows = {x[row].codes, stride, groups.data()};
        size_t const parts = (2 * kRows * weight.inputs + kPartBytes - 1) / kPartBytes;
        for (size_t part = 0; part < parts; ++part)
        {
            size_t const first = part * groups.size() / parts;
            size_t const end = (part + 1) * groups.size() / parts;
            for (size_t p = 0; p < panels; ++p)
                tile(weight.from(p), tile_rows, first, end, values + p * kPanel, panels * kPanel);
        }
        if (after != nullptr)
            after(weight, panels, x + row, kRows, values);
        row += kRows;
    }
    if (configured)
        _tile_release();
}

void rounded(
    QuantisedPanels const& weight, size_t panels, RoundedRow const* x, size_t rows, float* y)
{
    in_tiles<RoundedRow>(weight, panels, x, rows, y, rounded_tile, nullptr, kAvx512.rounded);
}

void fine(QuantisedPanels const& weight, size_t panels, FineRow const* x, size_t rows, float* y)
{
    in_tiles(weight, panels, x, rows, y, high_tile, add_low_bytes, kAvx512.fine);
}

} // namespace

Kernels const& amx_kernels()
{
    // When first asked for: a table of another file may be made after this file's.
    static Kernels const table = []
    {
        Kernels table = kAvx512;
        table.name = "avx512 amx";
        table.rounded = rounded;
        table.fine = fine;
        table.most_rounded = 6 * kRows;
        return table;
    }();
    return table;
}

bool has_amx()
{
    constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25; // of leaf 7's edx
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTile) == 0 || (d & kInt8) == 0)
        return false;
    constexpr int kRequestPermission = 0x1023, kTileData = 18; // the tiles' state is asked for
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

} // namespace river

#elif defined(__x86_64__)

#include "kernels.h"

namespace river
{

Kernels const& amx_kernels()
{
    return kAvx512;
}

bool has_amx()
{
    return false;
}

} // namespace river

#endif
