// Random operations on a test node, from a seed: creates, links, renames of all kinds, writes with
// holes, attributes. What cannot be done on the tree there is fails with its errno.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "tests/support/test_node.h"

namespace intermezzo::tests {

class RandomOperations {
 public:
  explicit RandomOperations(uint64_t seed) : random_(seed) {}

  uint64_t Below(uint64_t limit) { return random_() % limit; }

  // Mostly something that is there or would be new in a directory that is; few names, so that
  // operations meet.
  std::string Path(const TestNode& node);
  // Does something; returns 0 or an errno, in words in `what`.
  int Step(TestNode& node, std::string& what);

 private:
  std::mt19937_64 random_;
};

// The number in an environment variable.
uint64_t FromEnvironment(const char* name, uint64_t otherwise);

}  // namespace intermezzo::tests
