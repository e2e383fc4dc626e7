#include "decode_table.cuh"

namespace river
{
DecodeTable const kDecodeBfloat16 = RIVER_DECODE_TABLE(__nv_bfloat16);
} // namespace river
