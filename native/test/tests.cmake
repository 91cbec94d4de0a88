# C++ tests: no Node needed. `ctest` after building the target `trefoil_tests`.
enable_testing()

# What tests look at inside of each instruction set: vector functions as plain functions of arrays, and how products are cut into tasks.
set(TREFOIL_ISA_PROBES)
foreach(isa ${TREFOIL_ISAS})
  add_library(trefoil_probe_${isa} OBJECT EXCLUDE_FROM_ALL test/vector_math_probe.cc test/gemm_plan_probe.cc)
  target_link_libraries(trefoil_probe_${isa} PRIVATE trefoil_flags)
  foreach(property INCLUDE_DIRECTORIES COMPILE_DEFINITIONS COMPILE_OPTIONS)
    get_target_property(values trefoil_cpu_${isa} ${property})
    set_target_properties(trefoil_probe_${isa} PROPERTIES ${property} "${values}")
  endforeach()
  list(APPEND TREFOIL_ISA_PROBES $<TARGET_OBJECTS:trefoil_probe_${isa}>)
endforeach()

file(GLOB TREFOIL_TESTS CONFIGURE_DEPENDS test/*_test.cc)
add_executable(trefoil_tests EXCLUDE_FROM_ALL test/main.cc test/toy_backend.cc ${TREFOIL_TESTS} ${TREFOIL_ISA_PROBES})
target_link_libraries(trefoil_tests PRIVATE trefoil_engine)
foreach(library stranger old_backend fake_cublaslt)
  add_library(trefoil_test_${library} MODULE EXCLUDE_FROM_ALL test/${library}.cc)
  target_link_libraries(trefoil_test_${library} PRIVATE trefoil_flags)
  add_dependencies(trefoil_tests trefoil_test_${library})
endforeach()
target_include_directories(trefoil_test_fake_cublaslt PRIVATE src/cuda)
set_target_properties(trefoil_test_fake_cublaslt PROPERTIES CXX_VISIBILITY_PRESET default)
target_compile_definitions(trefoil_tests PRIVATE ${TREFOIL_ISA_DEFINITIONS}
  TREFOIL_TEST_FOLDER="${CMAKE_CURRENT_BINARY_DIR}"
  TREFOIL_TEST_STRANGER="$<TARGET_FILE:trefoil_test_stranger>"
  TREFOIL_TEST_FAKE_CUBLASLT="$<TARGET_FILE:trefoil_test_fake_cublaslt>"
  TREFOIL_TEST_OLD_BACKEND="$<TARGET_FILE:trefoil_test_old_backend>"
  TREFOIL_TEST_CUDA_EMULATED="$<TARGET_FILE:trefoil_cuda_emulated>")
add_dependencies(trefoil_tests trefoil_cuda_emulated)
add_test(NAME engine COMMAND trefoil_tests)
add_test(NAME cuda_emulated COMMAND trefoil_tests --backend=emulated)
if(CMAKE_NM AND NOT APPLE AND NOT TREFOIL_SANITIZE)
  add_test(NAME symbols COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DOBJECTS=$<JOIN:$<TARGET_PROPERTY:trefoil_engine,SOURCES>,|>
    -P ${CMAKE_CURRENT_SOURCE_DIR}/test/symbols.cmake)
endif()
