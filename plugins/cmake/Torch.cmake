# The torch operators, against TORCH_ROOT (site-packages/torch). find_package(Torch) is not used: it
# asks for the whole CUDA toolkit, cuDNN and more, of which the operators need nothing.
if(NOT EXISTS ${TORCH_ROOT}/include/torch/library.h)
  message(FATAL_ERROR "TORCH_ROOT=${TORCH_ROOT} holds no include/torch/library.h; "
    "give the folder that `python -c 'import torch; print(torch.__path__[0])'` prints")
endif()
file(GLOB RIVER_TORCH CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/torch/*.cpp)
river_library(river_trt_torch ${CMAKE_CURRENT_SOURCE_DIR}/torch/exports.map ${RIVER_TORCH})
set_target_properties(river_trt_torch PROPERTIES CXX_STANDARD 20)
target_include_directories(river_trt_torch SYSTEM PRIVATE
  ${TORCH_ROOT}/include ${TORCH_ROOT}/include/torch/csrc/api/include)
target_link_libraries(river_trt_torch PRIVATE ${TORCH_ROOT}/lib/libtorch_cpu.so ${TORCH_ROOT}/lib/libc10.so)
if(EXISTS ${TORCH_ROOT}/lib/libc10_cuda.so)
  target_link_libraries(river_trt_torch PRIVATE ${TORCH_ROOT}/lib/libc10_cuda.so)
endif()
