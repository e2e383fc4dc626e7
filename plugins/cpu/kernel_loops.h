// What the loops of several instruction sets have in common.
#pragma once

#include <cstddef>
#include <type_traits>

#include "kernels.h"

namespace river
{

// Calls with the number of rows as a constant, kMaxRows for all above:
// call(std::integral_constant<size_t, rows>).
template <typename Call>
inline void with_rows(size_t rows, Call&& call)
{
    switch (rows)
    {
    case 1:
        return call(std::integral_constant<size_t, 1>());
    case 2:
        return call(std::integral_constant<size_t, 2>());
    case 3:
        return call(std::integral_constant<size_t, 3>());
    case 4:
        return call(std::integral_constant<size_t, 4>());
    case 5:
        return call(std::integral_constant<size_t, 5>());
    default:
        return call(std::integral_constant<size_t, kMaxRows>());
    }
}

// Hardware fetches ahead within a page only, and a panel is little more than a page.
constexpr size_t kAhead = 2048;

inline void prefetch(void const* at)
{
    __builtin_prefetch(at);
}

} // namespace river
