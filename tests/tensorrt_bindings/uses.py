"""Every name of TensorRT's Python bindings that this project uses.

A class maps methods to their calls, (positional arguments, keywords), and attributes to "get" or
"set". The versions that lack a name say so in LACKING; the code asks before it uses those.
"""

Call = tuple[int, tuple[str, ...]]

USES: dict[str, dict[str, Call | str]] = {
    "Builder": {
        "create_network": (1, ()),
        "create_builder_config": (0, ()),
        "create_optimization_profile": (0, ()),
        "build_serialized_network": (2, ()),
    },
    "IBuilderConfig": {
        "add_optimization_profile": (1, ()),
        "create_timing_cache": (1, ()),
        "get_timing_cache": (0, ()),
        "set_timing_cache": (1, ("ignore_mismatch",)),
        "set_flag": (1, ()),
        "set_preview_feature": (2, ()),
        "builder_optimization_level": "set",
        "hardware_compatibility_level": "set",
        "profiling_verbosity": "set",
        "progress_monitor": "set",
        "set_compute_capability": (2, ()),
        "num_compute_capabilities": "set",
    },
    "IOptimizationProfile": {"set_shape": (4, ())},
    "ITimingCache": {"serialize": (0, ())},
    "INetworkDefinition": {
        "get_input": (1, ()),
        "get_output": (1, ()),
        "get_layer": (1, ()),
        "num_inputs": "get",
        "num_outputs": "get",
        "num_layers": "get",
        "add_attention": "get",  # asked for, not called: the parser adds the layers
        "add_kv_cache_update": "get",
        "add_rotary_embedding": "get",
    },
    "ILayer": {
        "get_output": (1, ()),
        "name": "get",
        "type": "get",
        "num_outputs": "get",
        "metadata": "get",
    },
    "ITensor": {"name": "get", "shape": "get", "dtype": "get"},
    "IAttentionOutputLayer": {"attention": "get"},
    "IAttention": {"decomposable": "set"},
    "IPluginV3Layer": {"plugin": "get"},
    "IPluginV3": {"get_capability_interface": (1, ())},
    "IPluginV3OneCore": {"plugin_name": "get"},
    "IPluginRegistry": {"load_library": (1, ())},
    "OnnxParser": {"parse_from_file": (1, ()), "get_error": (1, ()), "num_errors": "get"},
    "Runtime": {
        "deserialize_cuda_engine": (1, ()),
        "error_recorder": "set",
        "engine_host_code_allowed": "set",
    },
    "ICudaEngine": {
        "create_execution_context": (1, ()),
        "create_engine_inspector": (0, ()),
        "get_tensor_name": (1, ()),
        "get_tensor_dtype": (1, ()),
        "get_tensor_mode": (1, ()),
        "get_tensor_shape": (1, ()),
        "get_tensor_profile_shape": (2, ()),
        "is_shape_inference_io": (1, ()),
        "num_io_tensors": "get",
        "num_optimization_profiles": "get",
        "device_memory_size_v2": "get",
        "streamable_weights_size": "get",
        "weight_streaming_budget_v2": "set",
        "error_recorder": "set",
    },
    "IExecutionContext": {
        "set_device_memory": (2, ()),
        "set_optimization_profile_async": (2, ()),
        "set_input_shape": (2, ()),
        "set_tensor_address": (2, ()),
        "execute_async_v3": (1, ()),
        "error_recorder": "set",
    },
    "EngineInspector": {"get_engine_information": (1, ())},
}
ENUMS: dict[str, tuple[str, ...]] = {
    "BuilderFlag": ("VERSION_COMPATIBLE", "WEIGHT_STREAMING"),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "HardwareCompatibilityLevel": ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
    "LayerInformationFormat": ("JSON",),
    "LayerType": ("ATTENTION_OUTPUT", "CONDITION", "CONSTANT", "PLUGIN_V3"),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "PluginCapabilityType": ("CORE",),
    "PreviewFeature": ("ALIASED_PLUGIN_IO_10_03",),
    "ProfilingVerbosity": ("DETAILED",),
    "TensorIOMode": ("INPUT", "OUTPUT"),
    "DataType": (
        *("FLOAT", "HALF", "BF16", "INT64", "INT32", "INT8", "INT4", "BOOL", "UINT8", "FP8"),
    ),
}
# Classes that this project derives from: the methods that TensorRT calls in ours.
OVERRIDDEN: dict[str, tuple[str, ...]] = {
    "ILogger": ("log",),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "IErrorRecorder": (
        *("num_errors", "get_error_code", "get_error_desc", "has_overflowed", "clear"),
        "report_error",
    ),
}
# Only TensorRT-RTX, another module, has the first two.
ABSENT = {"IBuilderConfig.set_compute_capability", "IBuilderConfig.num_compute_capabilities"}
LACKING: dict[str, set[str]] = {
    "10.14.1.48.post1": {
        "INetworkDefinition.add_kv_cache_update",
        "INetworkDefinition.add_rotary_embedding",
    },
    "10.15.1.29": set(),
    "10.16.1.11": set(),
    "11.4.0.106": set(),
}
