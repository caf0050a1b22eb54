// A few seeds of the generator; `build/bin/generator --seeds N` runs many.
#include <gtest/gtest.h>

#include "tests/mount/generator/generator.h"

namespace intermezzo::tests {
namespace {

class MountGeneratorTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(MountGeneratorTest, MountAndBareDirectoryAreTheSame) {
  GeneratorOptions options;
  options.seed = GetParam();
  options.operations = 2000;
  options.answer_opens = GetParam() % 4 == 0;
  EXPECT_EQ(RunGenerator(options), std::vector<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Seeds, MountGeneratorTest, ::testing::Range<uint64_t>(1, 9));

}  // namespace
}  // namespace intermezzo::tests
