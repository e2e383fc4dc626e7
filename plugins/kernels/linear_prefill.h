// More than kDecodeRows rows: the banks as matrix products, then select and epilogue.
#pragma once

#include "launch.h"

namespace river
{
size_t prefill_workspace_bytes(LinearParams const& p);
cudaError_t launch_prefill(LinearParams const& p, cudaStream_t stream);
} // namespace river
