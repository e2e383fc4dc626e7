#include "decode_table.cuh"

namespace river
{
DecodeTable const kDecodeHalf = RIVER_DECODE_TABLE(__half);
} // namespace river
