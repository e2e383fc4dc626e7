#pragma once
#include <vector>

#include "decode.cuh"

namespace river::variants
{
struct Instance
{
    int rows;
    bool int8;
    int depth, threads, blocks;
    void (*kernel)(DecodeParams);
};
std::vector<Instance> part_1_0();
std::vector<Instance> part_2_0();
std::vector<Instance> part_4_0();
std::vector<Instance> part_8_0();
std::vector<Instance> part_1_1();
std::vector<Instance> part_2_1();
std::vector<Instance> part_4_1();
std::vector<Instance> part_8_1();
} // namespace river::variants
