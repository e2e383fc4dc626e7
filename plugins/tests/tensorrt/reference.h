// The plugins in double precision, from their documentation alone: what enqueue is compared with.
#pragma once
#include "layers.h"

#include <map>

namespace reference
{

// The values of a layer's tensors at run-time sizes, as memory and as numbers.
class Values
{
public:
    Values(layers::Layer const& layer, std::vector<int64_t> const& free_sizes, unsigned seed);

    bool has(std::string const& name) const
    {
        return memory_.count(name) > 0;
    }
    void* memory(std::string const& name)
    {
        return memory_.at(name).get();
    }
    std::vector<int64_t> const& sizes(std::string const& name) const
    {
        return sizes_.at(name);
    }
    int64_t count(std::string const& name) const;
    double at(std::string const& name, int64_t i) const; // element i
    void set(std::string const& name, int64_t i, double value);
    uint32_t byte(std::string const& name, int64_t i) const // of a packed tensor
    {
        return static_cast<unsigned char const*>(memory_.at(name).get())[i];
    }
    size_t bytes(std::string const& name) const;

private:
    struct Free
    {
        void operator()(void* memory) const
        {
            std::free(memory);
        }
    };
    std::map<std::string, std::unique_ptr<void, Free>>
        memory_; // exact sizes: ASan sees what lies beyond
    std::map<std::string, std::vector<int64_t>> sizes_;
    std::map<std::string, nvinfer1::DataType> types_;
};

using Results = std::map<std::string, std::vector<double>>;

// Expected outputs by name; caches are whole.
Results compute(layers::Layer const& layer, Values const& values);

} // namespace reference
