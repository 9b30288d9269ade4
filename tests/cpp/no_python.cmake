# Fails if FILE needs a Python library, directly or through another library.
execute_process(COMMAND ldd ${FILE} OUTPUT_VARIABLE libraries COMMAND_ERROR_IS_FATAL ANY)
if(libraries MATCHES "lib[a-z_]*python[0-9.]*[.]so")
  message(FATAL_ERROR "${FILE} needs a Python library:\n${libraries}")
endif()
if(NOT libraries MATCHES "libtorch_cpu" OR libraries MATCHES "not found")
  message(FATAL_ERROR "${FILE} does not find its libraries:\n${libraries}")
endif()
