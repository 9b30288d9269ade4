# Installs the build in BUILD, then builds and runs a project that uses only the folder of the installation.
set(work ${BUILD}/tests/cpp/consumer)
file(REMOVE_RECURSE ${work})
set(quiet OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${work}/installed ${quiet})
execute_process(COMMAND ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${work}/build -G ${GENERATOR}
                        -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${work}/installed ${quiet})
execute_process(COMMAND ${CMAKE_COMMAND} --build ${work}/build ${quiet})
execute_process(COMMAND ${work}/build/consumer ${MODEL} OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
if(NOT output STREQUAL "1 red\n")
  message(FATAL_ERROR "the consumer printed: ${output}")
endif()
execute_process(COMMAND ${work}/installed/bin/yolact-segment --version ${quiet})
