// gemm() by cuBLASLt. The library is found at run time and its few types are declared here, so that
// neither the build nor machines that only decode need it. Values: cublasLt.h of CUDA 12 and 13.
#include "gemm.h"

#include <dlfcn.h>
#include <library_types.h>

namespace river
{
namespace
{
using Status = int; // cublasStatus_t; 0 is success
using Handle = void*;
using Descriptor = void*;

struct Algorithm
{
    uint64_t data[8];
};

struct HeuristicResult
{
    Algorithm algorithm;
    size_t workspace_bytes;
    Status state;
    float waves;
    int reserved[4];
};

constexpr int kCompute32F = 68;
constexpr int kTransposeA = 3;        // CUBLASLT_MATMUL_DESC_TRANSA
constexpr int kMaxWorkspaceBytes = 1; // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
constexpr int kTransposed = 1;        // CUBLAS_OP_T
constexpr char const* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

struct Library
{
    Handle handle = nullptr;
    Status (*create)(Handle*) = nullptr;
    Status (*matmul_create)(Descriptor*, int compute, int scale_type) = nullptr;
    Status (*matmul_set)(Descriptor, int attribute, void const*, size_t) = nullptr;
    Status (*matmul_destroy)(Descriptor) = nullptr;
    Status (*layout_create)(
        Descriptor*, int type, uint64_t rows, uint64_t columns, int64_t ld) = nullptr;
    Status (*layout_destroy)(Descriptor) = nullptr;
    Status (*preference_create)(Descriptor*) = nullptr;
    Status (*preference_set)(Descriptor, int attribute, void const*, size_t) = nullptr;
    Status (*preference_destroy)(Descriptor) = nullptr;
    Status (*heuristic)(Handle, Descriptor, Descriptor, Descriptor, Descriptor, Descriptor,
        Descriptor, int requested, HeuristicResult*, int* returned) = nullptr;
    Status (*matmul)(Handle, Descriptor, void const* alpha, void const* a, Descriptor,
        void const* b, Descriptor, void const* beta, void const* c, Descriptor, void* d, Descriptor,
        Algorithm const*, void* workspace, size_t workspace_bytes, cudaStream_t) = nullptr;
};

template <typename Function>
bool find(void* library, char const* name, Function& function)
{
    function = reinterpret_cast<Function>(dlsym(library, name));
    return function != nullptr;
}

bool load(Library& lib)
{
    void* library = nullptr;
    for (char const* name : kNames)
        if (library == nullptr)
            library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    return library != nullptr && find(library, "cublasLtCreate", lib.create)
        && find(library, "cublasLtMatmulDescCreate", lib.matmul_create)
        && find(library, "cublasLtMatmulDescSetAttribute", lib.matmul_set)
        && find(library, "cublasLtMatmulDescDestroy", lib.matmul_destroy)
        && find(library, "cublasLtMatrixLayoutCreate", lib.layout_create)
        && find(library, "cublasLtMatrixLayoutDestroy", lib.layout_destroy)
        && find(library, "cublasLtMatmulPreferenceCreate", lib.preference_create)
        && find(library, "cublasLtMatmulPreferenceSetAttribute", lib.preference_set)
        && find(library, "cublasLtMatmulPreferenceDestroy", lib.preference_destroy)
        && find(library, "cublasLtMatmulAlgoGetHeuristic", lib.heuristic)
        && find(library, "cublasLtMatmul", lib.matmul) && lib.create(&lib.handle) == 0;
}

// Loaded once; a process that lacks the library isn't asked again.
Library const* library()
{
    static Library lib;
    static bool const loaded = load(lib);
    return loaded ? &lib : nullptr;
}

// A descriptor and what destroys it.
struct Owned
{
    Descriptor descriptor = nullptr;
    Status (*destroy)(Descriptor) = nullptr;

    explicit Owned(Status (*destroyer)(Descriptor))
        : destroy(destroyer)
    {
    }
    Owned(Owned const&) = delete;
    Owned& operator=(Owned const&) = delete;
    ~Owned()
    {
        if (descriptor != nullptr)
            destroy(descriptor);
    }
};
} // namespace

cudaError_t load_prefill_library()
{
    return library() != nullptr ? cudaSuccess : cudaErrorSharedObjectInitFailed;
}

cudaError_t gemm(Gemm const& g, cudaStream_t stream)
{
    Library const* lib = library();
    if (lib == nullptr)
        return cudaErrorSharedObjectInitFailed;
    // Column-major to the library: y^T [n, m] = w [n, k] (its transpose is stored) * x^T [k, m].
    int const type = g.type == DataType::kHalf ? CUDA_R_16F : CUDA_R_16BF;
    Owned matmul(lib->matmul_destroy);
    Owned w(lib->layout_destroy);
    Owned x(lib->layout_destroy);
    Owned y(lib->layout_destroy);
    Owned preference(lib->preference_destroy);
    HeuristicResult best{};
    int found = 0;
    bool const described = lib->matmul_create(&matmul.descriptor, kCompute32F, CUDA_R_32F) == 0
        && lib->matmul_set(matmul.descriptor, kTransposeA, &kTransposed, sizeof(kTransposed)) == 0
        && lib->layout_create(&w.descriptor, type, g.k, g.n, g.k) == 0
        && lib->layout_create(&x.descriptor, type, g.k, g.m, g.k) == 0
        && lib->layout_create(&y.descriptor, type, g.n, g.m, g.y_stride) == 0
        && lib->preference_create(&preference.descriptor) == 0
        && lib->preference_set(preference.descriptor, kMaxWorkspaceBytes, &g.workspace_bytes,
               sizeof(g.workspace_bytes))
            == 0;
    if (!described
        || lib->heuristic(lib->handle, matmul.descriptor, w.descriptor, x.descriptor, y.descriptor,
               y.descriptor, preference.descriptor, 1, &best, &found)
            != 0
        || found < 1)
        return cudaErrorNotSupported;
    float const alpha = 1.F;
    float const beta = 0.F;
    Status const status = lib->matmul(lib->handle, matmul.descriptor, &alpha, g.w, w.descriptor,
        g.x, x.descriptor, &beta, g.y, y.descriptor, g.y, y.descriptor, &best.algorithm,
        g.workspace, g.workspace_bytes, stream);
    return status == 0 ? cudaSuccess : cudaErrorLaunchFailure;
}
} // namespace river
