# Read by CMake before llama.cpp's own files, since scripts/llama.sh names it in CMAKE_PROJECT_TOP_LEVEL_INCLUDES.

# The crate llama-cpp-sys-2 turns this off unless all Rust code is compiled for this machine alone as well.
set(GGML_NATIVE ON CACHE BOOL "Compile for the instruction set of the machine that compiles" FORCE)

# For a client of HTTP that only llama.cpp's own programs have, and which nothing here links.
set(LLAMA_OPENSSL OFF CACHE BOOL "Look for OpenSSL" FORCE)
foreach(target IN ITEMS cpp-httplib vendor-hash)
  cmake_language(DEFER CALL set_target_properties ${target} PROPERTIES EXCLUDE_FROM_ALL ON)
endforeach()
