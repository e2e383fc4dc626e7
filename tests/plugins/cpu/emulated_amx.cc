// kernels_amx.cc with tiles in software, so that a processor of AVX-512 alone tests it, too.
#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace
{

struct Tile
{
    uint8_t bytes[16][64];
};
thread_local Tile tiles[8];
thread_local bool configured = false;

Tile& tile(int number)
{
    if (!configured)
    {
        std::puts("FAILED: tiles are used before they have shapes");
        std::exit(1);
    }
    return tiles[number];
}

// All tiles in use have 16 rows of 64 bytes, and nothing but that is offered.
void load_config(void const* shapes)
{
    uint8_t config[64];
    std::memcpy(config, shapes, sizeof(config));
    for (int t = 0; t < 8; ++t)
    {
        bool const used = config[48 + t] != 0;
        if (config[0] != 1 || (used && (config[48 + t] != 16 || config[16 + 2 * t] != 64)))
        {
            std::puts("FAILED: other shapes than the test offers");
            std::exit(1);
        }
    }
    configured = true;
}

void load(int to, void const* from, int64_t stride)
{
    for (int row = 0; row < 16; ++row)
        std::memcpy(tile(to).bytes[row], static_cast<uint8_t const*>(from) + row * stride, 64);
}

void store(int from, void* to, int64_t stride)
{
    for (int row = 0; row < 16; ++row)
        std::memcpy(static_cast<uint8_t*>(to) + row * stride, tile(from).bytes[row], 64);
}

// Signed bytes of a, unsigned ones of b.
void multiply(int to, int a, int b)
{
    int32_t sums[16][16];
    std::memcpy(sums, tile(to).bytes, sizeof(sums));
    for (int row = 0; row < 16; ++row)
    {
        for (int k = 0; k < 64; ++k)
        {
            auto const value = static_cast<int8_t>(tile(a).bytes[row][k]);
            for (int column = 0; column < 16; ++column)
                sums[row][column] += value * tile(b).bytes[k / 4][4 * column + k % 4];
        }
    }
    std::memcpy(tile(to).bytes, sums, sizeof(sums));
}

} // namespace

#undef _tile_loadconfig
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbsud
#undef _tile_release
#define _tile_loadconfig(shapes) load_config(shapes)
#define _tile_loadd(to, from, stride) load(to, from, stride)
#define _tile_stored(from, to, stride) store(from, to, stride)
#define _tile_zero(to) std::memset(&tile(to), 0, sizeof(Tile))
#define _tile_dpbsud(to, a, b) multiply(to, a, b)
#define _tile_release() (configured = false)
#define amx_kernels emulated_amx_kernels
#define has_amx emulated_has_amx

#include "kernels_amx.cc"

#endif
