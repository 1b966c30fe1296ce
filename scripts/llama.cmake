# Read by CMake after each project() of llama.cpp, since scripts/llama.sh names it in CMAKE_PROJECT_INCLUDE.
if(NOT PROJECT_NAME STREQUAL "llama.cpp")
  return()
endif()

# The crate llama-cpp-sys-2 turns this off unless all Rust code is compiled for this machine alone as well.
set(GGML_NATIVE ON CACHE BOOL "Compile for the instruction set of the machine that compiles" FORCE)

# GCC before 13.3 (and 12.4) takes `_tile_loadconfig` to read 8 bytes of the 64, leaves the others unwritten, and the first
# product of two matrices ends the process (GCC bug 114098).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13.3
    AND CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  add_compile_options(-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
endif()

# For a client of HTTP that only llama.cpp's own programs have, and which nothing here links.
set(LLAMA_OPENSSL OFF CACHE BOOL "Look for OpenSSL" FORCE)
foreach(target IN ITEMS cpp-httplib vendor-hash)
  cmake_language(DEFER CALL set_target_properties ${target} PROPERTIES EXCLUDE_FROM_ALL ON)
endforeach()
