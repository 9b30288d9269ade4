"""The package's version and the number of its file format. pyproject.toml and CMakeLists.txt read them here."""

__version__ = "0.1.0"

# Of exported models. It is raised when a runtime that knows the lower number could not run the file.
FILE_FORMAT = 1
