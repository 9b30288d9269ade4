# Writes the bytes of the file INPUT as the C++ array yolact::NAME_data with its length yolact::NAME_size to OUTPUT.
# They stand in string literals, which compilers read much faster than lists of numbers.
file(READ ${INPUT} bytes HEX)
string(REGEX REPLACE "(..)" "\\\\x\\1" bytes "${bytes}")
string(REGEX REPLACE "(................................................................)" "\\1\"\n\"" lines "${bytes}")
file(SIZE ${INPUT} size)
file(WRITE ${OUTPUT} "namespace yolact {\n"
     "extern const unsigned char ${NAME}_data[];\n"
     "extern const unsigned long ${NAME}_size;\n"
     "const unsigned char ${NAME}_data[] = \"${lines}\";\n"
     "const unsigned long ${NAME}_size = ${size};\n"
     "}  // namespace yolact\n")
