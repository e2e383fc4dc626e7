// What linear.cu needs of the decode kernel over packed banks.
#pragma once

#include "launch.h"

namespace river
{
// Whether launch_linear takes the packed bank's kernel for p; else the dialect's layout is read.
bool uses_decode(LinearParams const& p);
char const* explain_decode(LinearParams const& p);
cudaError_t launch_packed_decode(LinearParams const& p, cudaStream_t stream);
} // namespace river
