# TensorRT's headers: TENSORRT_ROOT (variable or environment), an installed TensorRT, or the headers
# alone that PyPI's kernel-lens carries, in the Python on the PATH. Sets TensorRT_INCLUDE_DIR and
# TensorRT_MAJOR.
if(NOT TENSORRT_ROOT AND DEFINED ENV{TENSORRT_ROOT})
  set(TENSORRT_ROOT $ENV{TENSORRT_ROOT})
endif()
if(TENSORRT_ROOT)
  find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h PATHS ${TENSORRT_ROOT} PATH_SUFFIXES include NO_DEFAULT_PATH)
else()
  find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h
    PATHS /usr/local/tensorrt/include ${CUDAToolkit_INCLUDE_DIRS})
  if(NOT TensorRT_INCLUDE_DIR)
    find_program(RIVER_PYTHON NAMES python3 python)
    if(RIVER_PYTHON)
      execute_process(
        COMMAND ${RIVER_PYTHON} -c "import importlib.util as u; print(u.find_spec('kernel_lens').submodule_search_locations[0])"
        OUTPUT_VARIABLE kernel_lens OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
      find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h PATHS ${kernel_lens}/include/tensorrt NO_DEFAULT_PATH)
    endif()
  endif()
endif()
if(NOT TensorRT_INCLUDE_DIR)
  message(FATAL_ERROR "no TensorRT headers: set TENSORRT_ROOT to a TensorRT, or take the headers alone: "
    "pip install --no-deps kernel-lens==2.0.1")
endif()
file(STRINGS ${TensorRT_INCLUDE_DIR}/NvInferVersion.h line REGEX "define (TRT_MAJOR_ENTERPRISE|NV_TENSORRT_MAJOR) [0-9]+")
if(NOT line MATCHES "MAJOR(_ENTERPRISE)? ([0-9]+)")
  message(FATAL_ERROR "${TensorRT_INCLUDE_DIR}/NvInferVersion.h tells no major version")
endif()
set(TensorRT_MAJOR ${CMAKE_MATCH_2})
