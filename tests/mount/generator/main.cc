// generator --seed N --operations N --seeds N [--lower KIND] [--answer-opens] [--trace]: random
// operations on a mount and a bare directory side by side, for seeds N, N + 1, ... Exit code 1
// where they differ.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "tests/mount/generator/generator.h"
#include "tests/support/scratch_lower.h"

int main(int argc, char** argv) {
  intermezzo::tests::GeneratorOptions options;
  uint64_t seeds = 1;
  CLI::App app("Random file operations on a mount and on a bare directory, side by side");
  app.add_option("--seed", options.seed, "First seed");
  app.add_option("--operations", options.operations, "Operations for each seed");
  app.add_option("--seeds", seeds, "How many seeds");
  std::string lower;
  app.add_option("--lower", lower, "Over a new file system: ext4, xfs, btrfs or tmpfs");
  app.add_flag("--answer-opens", options.answer_opens, "With messages for open and close");
  app.add_flag("--trace", options.trace, "Print every operation");
  CLI11_PARSE(app, argc, argv);
  if (!lower.empty()) intermezzo::tests::UseScratchLower(lower);
  uint64_t failed = 0;
  for (uint64_t end = options.seed + seeds; options.seed < end; ++options.seed) {
    const auto problems = intermezzo::tests::RunGenerator(options);
    for (const std::string& line : problems) fprintf(stderr, "%s\n", line.c_str());
    failed += !problems.empty();
  }
  printf("%lu seeds of %d operations, %lu failed\n", seeds, options.operations, failed);
  return failed != 0;
}
