"""The package's version and the number of its file format. pyproject.toml and CMakeLists.txt read them here."""

__version__ = "0.1.0"

# Of exported models. It is raised when a runtime that knows the lower number could not run the file.
FILE_FORMAT = 1

# The number of the operators' schemas, which setup.py and CMake compile into the libraries. Python and the runtime
# refuse a library with another number. Raise it with every change of a schema: it is forbidden to add an argument
# without that.
OPERATOR_SCHEMA = 1
