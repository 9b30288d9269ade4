# Defines the imported target yolact_torch, and TORCH_LIBRARY_DIR.
#
# find_package(Torch) is not used on purpose: for a CUDA build of torch it needs a CUDA toolkit, even for a project that
# links only the CPU libraries. These places are searched, in this order: TORCH_DIR, the torch of
# YOLACT_PYTHON_EXECUTABLE, CMAKE_PREFIX_PATH, and the torch of the Python that CMake finds.

set(TORCH_DIR "" CACHE PATH "LibTorch: the folder that holds include/ and lib/")
set(YOLACT_PYTHON_EXECUTABLE "" CACHE FILEPATH "The Python whose torch and pybind11 are used")

function(yolact_torch_of python result)
  execute_process(COMMAND ${python} -c "import torch; print(torch.__path__[0])"
                  OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    set(folder "")
  endif()
  set(${result} "${folder}" PARENT_SCOPE)
endfunction()

if(YOLACT_PYTHON_EXECUTABLE)
  set(Python_EXECUTABLE ${YOLACT_PYTHON_EXECUTABLE})
endif()

set(torch_folder "${TORCH_DIR}")
if(NOT torch_folder AND YOLACT_PYTHON_EXECUTABLE AND NOT TORCH_INCLUDE_DIR)
  yolact_torch_of(${YOLACT_PYTHON_EXECUTABLE} torch_folder)
  if(NOT torch_folder)
    message(FATAL_ERROR "${YOLACT_PYTHON_EXECUTABLE} has no torch: install it there, or give TORCH_DIR")
  endif()
endif()
find_path(TORCH_INCLUDE_DIR torch/script.h HINTS "${torch_folder}" PATH_SUFFIXES include)
if(NOT TORCH_INCLUDE_DIR)
  find_package(Python COMPONENTS Interpreter QUIET)
  if(Python_EXECUTABLE)
    yolact_torch_of(${Python_EXECUTABLE} torch_folder)
    find_path(TORCH_INCLUDE_DIR torch/script.h HINTS "${torch_folder}" PATH_SUFFIXES include)
  endif()
endif()
if(NOT TORCH_INCLUDE_DIR)
  message(FATAL_ERROR "LibTorch was not found: give -DTORCH_DIR=<its folder>, or -DYOLACT_PYTHON_EXECUTABLE=<a Python "
                      "with torch installed>")
endif()

get_filename_component(TORCH_LIBRARY_DIR ${TORCH_INCLUDE_DIR}/../lib ABSOLUTE)
add_library(yolact_torch INTERFACE IMPORTED)
target_include_directories(yolact_torch SYSTEM INTERFACE
                           ${TORCH_INCLUDE_DIR} ${TORCH_INCLUDE_DIR}/torch/csrc/api/include)
target_link_libraries(yolact_torch INTERFACE ${TORCH_LIBRARY_DIR}/libtorch_cpu${CMAKE_SHARED_LIBRARY_SUFFIX}
                                                   ${TORCH_LIBRARY_DIR}/libc10${CMAKE_SHARED_LIBRARY_SUFFIX})
