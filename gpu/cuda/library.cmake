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
foreach(source IN LISTS sources)
  get_filename_component(name ${source} NAME)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/cuda/${name}.o)
  add_custom_command(OUTPUT ${object} VERBATIM COMMENT "Compiling gpu/cuda/${name}"
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_CURRENT_BINARY_DIR}/cuda
    COMMAND ${CONVOY_CUDA_LAUNCHER} ${CONVOY_NVCC} ${nvcc_flags} -MD -MF ${object}.d -c ${source} -o ${object}
    DEPENDS ${source} DEPFILE ${object}.d)
  list(APPEND objects ${object})
endforeach()
set(library ${CMAKE_BINARY_DIR}/libconvoy_cuda.so)
add_custom_command(OUTPUT ${library} VERBATIM COMMENT "Linking libconvoy_cuda.so"
  # Its own C++ runtime, so that whoever loads it may have another one.
  COMMAND ${CONVOY_NVCC} -shared -cudart static -Xlinker --version-script=${CMAKE_CURRENT_SOURCE_DIR}/cuda/exports.map
    -Xcompiler -static-libstdc++,-static-libgcc -o ${library} ${objects}
  DEPENDS ${objects} ${CMAKE_CURRENT_SOURCE_DIR}/cuda/exports.map)
add_custom_target(convoy_cuda ALL DEPENDS ${library})
