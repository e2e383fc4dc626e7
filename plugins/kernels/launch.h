// Host interface of the river kernels: plain C++, no CUDA compiler and no TensorRT needed.
//
// Rules for all launchers:
// - Every pointer is device memory, aligned to 16 bytes, dense and row-major, and is not kept.
// - They only enqueue on `stream`: no synchronisation, no allocation, no memory that outlives the
//   call. So all can be captured in a CUDA graph; what may change between replays (flags, tau,
//   pinned, lengths) is read on the device.
// - They never change what they read, except where a comment says so.
// - They return cudaErrorInvalidValue for parameters outside the limits; explain_* says which
//   value broke which rule (nullptr: none did). Other errors are CUDA's own.
// - T is the activations' type, __half or __nv_bfloat16. Arithmetic is fp32 between loads and the
//   rounding of the result.
// - programmatic: launch with programmatic stream serialisation (sm_90 and later; ignored on
//   older devices). Every kernel waits for its predecessor before it touches what that may write.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

namespace river
{
enum class DataType : int32_t
{
    kHalf = 0,
    kBfloat16 = 1,
};

enum class FlagType : int32_t // of exited and use_river in memory; anything but 0 is true
{
    kBool = 0, // one byte
    kInt32 = 1,
};

// ---------------------------------------------------------------------------------------------
// linear: y[r] = epilogue(use_river[r] ? river(prologue(x[r])) : backbone(prologue(x[r])) + bias)
// ---------------------------------------------------------------------------------------------

// The river bank in the dialect's own packing (builders/dialect.py); nothing is repacked, but
// scales and pre_scale are fp16 whatever T is: fp32 would add 6 to 12 % to the bytes of the bank.
// river(x)[n] = sum_k T(x[k] * pre_scale[k]) * T((code[n, k] - zero_point[n, g]) * T(scale[n, g]))
struct RiverBank
{
    void const* qweight = nullptr;     // [n, groups, group_size / 2] uint8, low nibble = even k
    void const* scales = nullptr;      // [n, groups] fp16
    void const* zero_points = nullptr; // [n, groups] uint8 0..15; nullptr: symmetric, 8
    void const* pre_scale = nullptr;   // [k] fp16, multiplies x; nullptr: none
    int32_t group_size = 0;            // 32, 64 or 128; groups = ceil(k / group_size)

    // The same codes, scales and zero points in the kernel's own layout (packed.h), groups of 64 or
    // 128 only: then the three above are not read and may be nullptr. pack_river() makes it.
    void const* packed = nullptr;
    // With `packed`, up to kDecodeRows rows: x, after the norm and pre_scale, is rounded to 8 bits,
    // with a scale for every 64 of k and row. Otherwise it is T.
    bool int8_activations = false;
};

// What the host knows about the flags. kBackbone and kRiver do not read use_river, and touch
// nothing of the other bank, whose pointers may be nullptr.
enum class Banks : int32_t
{
    kByFlag = 0,
    kBackbone = 1,
    kRiver = 2,
};

// How more than kDecodeRows rows are computed. kCublasLt: the library is loaded on first use by
// its soname; where it cannot be, launch_linear returns cudaErrorSharedObjectInitFailed.
// kRowTiles: the decode kernel over tiles of 8 rows; correct, no workspace, slow.
enum class Prefill : int32_t
{
    kCublasLt = 0,
    kRowTiles = 1,
};

constexpr int32_t kDecodeRows = 8; // up to here one launch of the decode kernel, no workspace

struct LinearParams
{
    DataType type = DataType::kHalf;
    FlagType flag_type = FlagType::kBool;
    Banks banks = Banks::kByFlag;
    Prefill prefill = Prefill::kCublasLt;
    bool programmatic = false;

    int32_t rows = 0; // batch * seq, 1 .. 65536
    int32_t n = 0;    // rows of the weight, >= 1
    int32_t k = 0;    // multiple of 8, 8 .. 131072

    void const* x = nullptr;         // [rows, k] T
    void const* use_river = nullptr; // [rows] flags; needed for kByFlag only
    void const* weight = nullptr;    // [n, k] T, the backbone bank
    RiverBank river;
    void const* bias = nullptr; // [n] T, shared by both banks; nullptr: none

    // Prologue: x <- T(x * rsqrt(mean(x^2) + eps) * norm_weight). nullptr: none.
    void const* norm_weight = nullptr; // [k] T
    float norm_eps = 0.F;

    // Epilogue. silu_mul: n is even, the first n / 2 outputs are `gate`, the others `up`, and
    // y [rows, n / 2] = silu(gate) * up. Otherwise y is [rows, n]; residual is added where given
    // (not together with silu_mul) and may be y itself.
    bool silu_mul = false;
    void const* residual = nullptr; // [rows, n] T

    void* y = nullptr; // [rows, n] or [rows, n / 2] T

    // For the packed bank alone. flags_early: use_river was written two launches ago or before, so
    // the bank is known, and its first weights are loaded, before the predecessor ends.
    bool flags_early = false;
    // What the norm needs, where another kernel left it: sums of squares of x, in parts that are
    // added in order. nullptr: the kernel measures x itself.
    float const* sum_squares = nullptr; // [rows, sum_squares_parts]
    int32_t sum_squares_parts = 0;
    float* sum_squares_out =
        nullptr;          // [rows, kSumSquaresParts] of the rounded y; not with silu_mul
    int32_t variant = -1; // of the decode kernel, 0 .. linear_variants() - 1; -1: the default

    void* workspace = nullptr; // linear_workspace_bytes(), contents don't matter
    size_t workspace_bytes = 0;
};

// Rows that are mixed and more than kDecodeRows: both banks are computed for all rows and the
// flag selects ("both and select"), since the host does not see the flags. Say banks where known.
size_t linear_workspace_bytes(LinearParams const& p);
char const* explain_linear(LinearParams const& p);
cudaError_t launch_linear(LinearParams const& p, cudaStream_t stream);

// Variants of the packed bank's kernel give the same result up to the order of fp32 sums; which is
// fastest depends on card and shape. The tuner of the runtime measures them.
constexpr int32_t kSumSquaresParts = 256;
int linear_variants();
char const* linear_variant_name(int variant);
// Whether `variant` can run p on this device (shared memory).
bool linear_variant_fits(LinearParams const& p, int variant);
// From now on `variant` is the default of this shape in this process; false: there is no such one.
// Where it does not fit a launch, another is taken.
bool set_linear_variant(
    int32_t n, int32_t k, int32_t group_size, int32_t rows, bool int8_activations, int32_t variant);
int32_t linear_version(); // of kernels and packed layout: what a measurement is worth

// Bytes of a packed bank; 0 where the group size cannot be packed. pack_river reads qweight, scales
// and zero_points of p.river and writes `packed` on the device.
size_t packed_river_bytes(int32_t n, int32_t k, int32_t group_size);
cudaError_t pack_river(
    RiverBank const& bank, int32_t n, int32_t k, void* packed, cudaStream_t stream);

// Loads cuBLASLt now rather than at the first prefill; call it before a capture that holds one.
cudaError_t load_prefill_library();

// ---------------------------------------------------------------------------------------------
// gate: h_out = residual + delta; score = cos(reference, h_out) in fp32; exited' = exited or
// score > tau; exit_layer' = the layer of the first exit; use_river_next = exited' and not pinned.
// ---------------------------------------------------------------------------------------------

enum GateScope : int32_t // the values of the dialect's `scope`
{
    kTokenScope = 0,
    kSequenceScope = 1, // the smallest score of a sequence decides for all its tokens
    kBatchScope = 2,    // the smallest score of all rows decides for all
};

struct GateParams
{
    DataType type = DataType::kHalf;
    FlagType flag_type = FlagType::kBool;
    bool programmatic = false; // of what is read, only delta may be written by the kernel launched
                               // just before: the rest is read before the wait

    int32_t batch = 0; // batch * seq is 1 .. 65536
    int32_t seq = 0;
    int32_t hidden = 0; // multiple of 8, 8 .. 65536
    int32_t layer = 0;  // 1 .. L, what exit_layer gets

    void const* h_in = nullptr;     // [batch, seq, hidden] T, the block's input
    void const* delta = nullptr;    // [batch, seq, hidden] T: the block's output, or what is added
    void const* residual = nullptr; // [batch, seq, hidden] T; nullptr: delta is h_out already
    void* h_out = nullptr;          // [batch, seq, hidden] T, written where residual is given; may
                                    // be residual or delta. The score is of the rounded h_out.

    float const* direction = nullptr;    // [hidden] fp32; nullptr: always the block's input
    bool const* use_direction = nullptr; // [] device; nullptr: direction is used where given
    float const* tau = nullptr;          // [] device, this layer's
    bool const* pinned_next = nullptr;   // [] device, the next layer's; nullptr: not pinned
    int32_t const* scope = nullptr;      // [] device GateScope; nullptr: token

    void const* exited = nullptr;        // [batch, seq] flags; nullptr: none has exited
    int32_t const* exit_layer = nullptr; // [batch, seq]; nullptr: num_layers everywhere
    int32_t num_layers = 0;              // L, used where exit_layer is nullptr
    void* exited_out = nullptr;          // [batch, seq] flags, may be exited
    int32_t* exit_layer_out = nullptr;   // [batch, seq], may be exit_layer
    void* use_river_next = nullptr;      // [batch, seq] flags; nullptr: not wanted
    float* score = nullptr;              // [batch, seq]; nullptr: not wanted
    float* sum_squares = nullptr;        // [batch, seq] of the rounded h_out, for the norm that
                                         // comes next; nullptr: not wanted

    // gate_workspace_bytes(), its counter zero before the first launch; every launch leaves it so.
    // Launches that may run at the same time need workspaces of their own.
    void* workspace = nullptr;
    size_t workspace_bytes = 0;
};

constexpr int32_t kMostGateTokens = 65536; // batch * seq
constexpr size_t kGateCounterBytes = 16;   // of the workspace; these alone must be zero
size_t gate_workspace_bytes(GateParams const& p);
char const* explain_gate(GateParams const& p);
cudaError_t launch_gate(GateParams const& p, cudaStream_t stream);

// ---------------------------------------------------------------------------------------------
// attention: rotary on q and k, k and v written to the sequence's slots past .. past + seq - 1,
// causal attention over the cache (grouped queries).
// ---------------------------------------------------------------------------------------------

// How the splits of the keys are added up.
enum class Merge : int32_t
{
    kChosen = 0,
    kCounters = 1, // by the block that comes last, through the workspace
    kCluster = 2,  // by a cluster of blocks, through their shared memory; sm_90 and later
};

struct AttentionParams
{
    DataType type = DataType::kHalf;
    bool programmatic = false; // neither the caches nor past_lengths may be written by the kernel
                               // launched just before: old slots are read before the wait

    // The variant; 0 is chosen: as set_attention_variant said for the shape, or else from the shape.
    // No result depends on it but by rounding.
    Merge merge = Merge::kChosen;
    int32_t splits = 0;  // 1 .. 32; of a cluster a power of two and at most 16
    int32_t queries = 0; // of a block, 8 or 16
    int32_t warps = 0;   // of a block, 4 or 8

    int32_t batch = 0;     // 1 .. 65535
    int32_t seq = 0;       // new tokens of each sequence, >= 1
    int32_t num_heads = 0; // multiple of num_kv_heads
    int32_t num_kv_heads = 0;
    int32_t head_dim = 0;      // multiple of 8, 8 .. 256
    int32_t capacity = 0;      // T, slots of a sequence in the cache
    int32_t rotary_dim = 0;    // R, even, 0 .. head_dim; the rest of a head is not rotated
    int32_t num_positions = 0; // rows of the rotary tables
    float scale = 0.F;         // of the scores, normally head_dim ** -0.5
    int32_t window = 0;        // a token sees the last `window` positions, itself included; 0: all
    float softcap = 0.F;       // score <- softcap * tanh(score / softcap); 0: none

    void const* q = nullptr; // row r (of batch * seq) begins at q + r * q_stride; so q, k and v may
    void const* k = nullptr; // be parts of one qkv tensor. Strides in elements, multiples of 8.
    void const* v = nullptr;
    int32_t q_stride = 0;
    int32_t k_stride = 0;
    int32_t v_stride = 0;

    // Updated in place. past + seq <= capacity and <= num_positions is the caller's promise; a
    // token beyond is not stored and not attended to, so memory stays whole.
    void* k_cache = nullptr;               // [batch, num_kv_heads, capacity, head_dim] T
    void* v_cache = nullptr;               // the same
    int32_t const* cache_rows = nullptr;   // [batch], each sequence's row of the caches, which may
                                           // have more; nullptr: sequence b has row b
    int32_t const* past_lengths = nullptr; // [batch], tokens already in the cache
    float const* rotary_cos = nullptr;     // [num_positions, R / 2]
    float const* rotary_sin = nullptr;     // [num_positions, R / 2]

    void* out = nullptr; // [batch, seq, num_heads, head_dim] T

    // attention_workspace_bytes(), zero before the first launch (as for the gate). Clusters and
    // caches that are not split need none.
    void* workspace = nullptr;
    size_t workspace_bytes = 0;
};

size_t attention_workspace_bytes(AttentionParams const& p);
// The first bytes of the workspace, which alone must be zero.
size_t attention_counter_bytes(AttentionParams const& p);
char const* explain_attention(AttentionParams const& p);
cudaError_t launch_attention(AttentionParams const& p, cudaStream_t stream);

// Named variants, as for linear; the first leaves all to the shape. Writes merge, splits, queries and
// warps of p; false: there is no such one.
int attention_variants();
char const* attention_variant_name(int variant);
bool take_attention_variant(AttentionParams& p, int variant);
// From now on launches of p's batch, seq, heads, head_dim, capacity and window that leave the choice
// open take `variant` in this process; where it does not fit the device, they choose from the shape.
bool set_attention_variant(AttentionParams const& p, int variant);
int32_t attention_version(); // of the kernel and its variants: what a measurement is worth

} // namespace river
