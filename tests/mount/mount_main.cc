// Runs a program of mount tests, with INTERMEZZO_TEST_LOWER=ext4|xfs|btrfs|tmpfs over a file system
// of that kind; else over the one of the temporary directory.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/support/scratch_lower.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const char* kind = getenv("INTERMEZZO_TEST_LOWER");
  if (kind != nullptr && *kind != 0) intermezzo::tests::UseScratchLower(kind);
  return RUN_ALL_TESTS();
}
