# Compiler flags, ccache and sanitizers.
find_program(CCACHE ccache)
if(CCACHE)
  # Paths below the source tree do not count, so that another clone finds what this one built.
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}
      CCACHE_NOHASHDIR=1 ${CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_C_COMPILER_LAUNCHER})
endif()

set(INTERMEZZO_SANITIZE "" CACHE STRING "address (with undefined) or thread; empty for none")

set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1 -DNDEBUG")
add_compile_options(-fno-omit-frame-pointer -fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=)
add_link_options(-Wl,--as-needed)
find_program(LLD ld.lld)
if(LLD)
  add_link_options(-fuse-ld=lld)
endif()

if(INTERMEZZO_SANITIZE)
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")  # with assertions
endif()
if(INTERMEZZO_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
elseif(INTERMEZZO_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread)
  add_link_options(-fsanitize=thread)
  # Some of our calls of abseil go through sanitizers/tsan_abseil.cc, which says why.
  add_library(tsan_abseil STATIC ${CMAKE_SOURCE_DIR}/deploy/sanitizers/tsan_abseil.cc)
  target_link_libraries(tsan_abseil PUBLIC absl::status absl::synchronization)
  file(STRINGS ${CMAKE_SOURCE_DIR}/deploy/sanitizers/tsan_abseil.cc lines REGEX "WRAPPED[_CONST]*[(][0-9]")
  foreach(line IN LISTS lines)
    string(REGEX MATCH "WRAPPED(_CONST)?[(]([0-9A-Za-z_]+)[)]" matched "${line}")
    set(prefix _ZN4absl7debian3)
    if(CMAKE_MATCH_1)
      set(prefix _ZNK4absl7debian3)
    endif()
    add_link_options(LINKER:--wrap=${prefix}${CMAKE_MATCH_2})
  endforeach()
  set(INTERMEZZO_EXTRA_LIBRARIES tsan_abseil)
elseif(INTERMEZZO_SANITIZE)
  message(FATAL_ERROR "INTERMEZZO_SANITIZE is '${INTERMEZZO_SANITIZE}': use address or thread")
endif()

# Warnings for our own code; generated code is built without them.
add_library(intermezzo_warnings INTERFACE)
target_compile_options(intermezzo_warnings INTERFACE -Wall -Wextra -Werror -Wno-unused-parameter)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(intermezzo_warnings INTERFACE -Wthread-safety)
endif()

# intermezzo_library(NAME SOURCES... DEPS...): a static library of ours, included as
# "services/..." from the top of the tree.
function(intermezzo_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE intermezzo_warnings)
endfunction()

# intermezzo_binary(NAME SOURCES... DEPS...): a program; it lands in build/bin.
function(intermezzo_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} intermezzo_warnings ${INTERMEZZO_EXTRA_LIBRARIES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endfunction()

# intermezzo_test(NAME LABEL SOURCES... DEPS...): a GoogleTest program under a label of
# tests/run.sh: unit, contract, simulation, service, mount, tour.
function(intermezzo_test name label)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} intermezzo_warnings GTest::gmock
                        GTest::gtest_main ${INTERMEZZO_EXTRA_LIBRARIES})
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT ${ARG_TIMEOUT})
endfunction()
