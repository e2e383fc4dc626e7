// The decode kernel's instances of one number of rows and one arithmetic: -DROWS=1 -DINT8=0 ...
#include "decode_variants.h"

namespace river::variants
{
#define INSTANCE(depth, threads, blocks, bound)                                                           \
    {                                                                                              \
        ROWS, INT8 != 0, depth, threads, blocks,                                                   \
            &decode_kernel<__nv_bfloat16, ROWS, INT8 != 0, depth, threads, bound>                 \
    }
#define NAME2(rows, int8) part_##rows##_##int8
#define NAME(rows, int8) NAME2(rows, int8)
std::vector<Instance> NAME(ROWS, INT8)()
{
    return {INSTANCE(8, 512, 1, 2), INSTANCE(12, 512, 1, 2), INSTANCE(16, 512, 1, 2),
        INSTANCE(20, 512, 1, 2), INSTANCE(12, 512, 1, 1), INSTANCE(12, 256, 2, 4),
        INSTANCE(20, 256, 2, 4), INSTANCE(20, 256, 1, 4), INSTANCE(6, 1024, 1, 1)};
}
} // namespace river::variants
