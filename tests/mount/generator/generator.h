// Random file operations, made side by side on a mount and on a bare directory of the same file
// system: results and errnos must be the same after each, the trees at the end, and so must a
// replica that is fed with the records that the mount's driver captured.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace intermezzo::tests {

struct GeneratorOptions {
  uint64_t seed = 1;
  int operations = 1000;
  bool answer_opens = false;
  // Prints every operation.
  bool trace = false;
};

// What differed, with the seed; empty: nothing.
std::vector<std::string> RunGenerator(const GeneratorOptions& options);

}  // namespace intermezzo::tests
