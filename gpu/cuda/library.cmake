# libconvoy_cuda.so, beside the binary.
string(REPLACE ";" " " architectures "${CONVOY_CUDA_ARCHITECTURES}")
set(nvcc_flags -std=c++20 -O3 --expt-relaxed-constexpr -I${CMAKE_SOURCE_DIR}
  -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-missing-field-initializers
  "-DCONVOY_CUDA_ARCHITECTURES=\"${architectures}\"")
if(CONVOY_WERROR)
  list(APPEND nvcc_flags --Werror=all-warnings)
endif()
foreach(architecture IN LISTS CONVOY_CUDA_ARCHITECTURES)
  list(APPEND nvcc_flags -gencode=arch=compute_${architecture},code=sm_${architecture})
endforeach()
file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cu ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cpp)
set(objects)
# convoy_cuda_object(SOURCE OBJECT): compiles by nvcc.
function(convoy_cuda_object source object)
  file(RELATIVE_PATH name ${CMAKE_SOURCE_DIR} ${source})
  get_filename_component(folder ${object} DIRECTORY)
  add_custom_command(OUTPUT ${object} VERBATIM COMMENT "Compiling ${name}"
    COMMAND ${CMAKE_COMMAND} -E make_directory ${folder}
    COMMAND ${CONVOY_CUDA_LAUNCHER} ${CONVOY_NVCC} ${nvcc_flags} -MD -MF ${object}.d -c ${source} -o ${object}
    DEPENDS ${source} DEPFILE ${object}.d)
endfunction()
foreach(source IN LISTS sources)
  get_filename_component(name ${source} NAME)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.o)
  convoy_cuda_object(${source} ${object})
  list(APPEND objects ${object})
endforeach()
set(library ${CMAKE_BINARY_DIR}/libconvoy_cuda.so)
add_custom_command(OUTPUT ${library} VERBATIM COMMENT "Linking libconvoy_cuda.so"
  # Its own C++ runtime, so that whoever loads it may have another one.
  COMMAND ${CONVOY_NVCC} -shared -cudart static -Xlinker --version-script=${CMAKE_CURRENT_SOURCE_DIR}/cuda/exports.map
    -Xcompiler -static-libstdc++,-static-libgcc -o ${library} ${objects}
  DEPENDS ${objects} ${CMAKE_CURRENT_SOURCE_DIR}/cuda/exports.map)
add_custom_target(convoy_cuda ALL DEPENDS ${library})

# bench/gpu_kernels.cpp looks inside of the device: it is linked with the library's objects and CUDA's run time.
file(REAL_PATH ${CONVOY_NVCC} nvcc)
cmake_path(GET nvcc PARENT_PATH cuda)
cmake_path(GET cuda PARENT_PATH cuda)
find_path(CONVOY_CUDA_HEADERS cuda_runtime_api.h HINTS ${cuda}/include ${cuda}/targets/x86_64-linux/include)
find_library(CONVOY_CUDA_RUNTIME cudart_static HINTS ${cuda}/lib64 ${cuda}/lib ${cuda}/targets/x86_64-linux/lib)
if(CONVOY_CUDA_HEADERS AND CONVOY_CUDA_RUNTIME)
  set(card ${CMAKE_CURRENT_BINARY_DIR}/cuda/gpu_card.cu.o)
  convoy_cuda_object(${CMAKE_SOURCE_DIR}/bench/gpu_card.cu ${card})
  add_executable(convoy_bench_gpu_kernels ${CMAKE_SOURCE_DIR}/bench/gpu_kernels.cpp
    ${CMAKE_SOURCE_DIR}/bench/gpu_chain.cpp ${card} ${objects})
  target_include_directories(convoy_bench_gpu_kernels SYSTEM PRIVATE ${CONVOY_CUDA_HEADERS})
  target_link_libraries(convoy_bench_gpu_kernels PRIVATE convoy_gpu ${CONVOY_CUDA_RUNTIME} rt)
  add_dependencies(convoy_bench_gpu_kernels convoy_cuda)  # one at a time makes the objects
endif()
