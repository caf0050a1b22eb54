// A line of progress on a terminal.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>

#include "absl/time/time.h"

namespace intermezzo::mezzo {

// Draws "title [#####     ] 42%  note" over itself; draws nothing where `enabled` is false. Not
// thread-safe. The destructor ends the line.
class Progress {
 public:
  Progress(std::ostream& out, bool enabled, std::string title);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // At most ten drawings a second; the last state is drawn when it ends. With total 0: no bar.
  void Update(uint64_t done, uint64_t total, std::string_view note = "");
  // Removes the line (for a message that takes its place).
  void Clear();

 private:
  void Draw();

  std::ostream& out_;
  const bool enabled_;
  const std::string title_;
  absl::Time drawn_ = absl::InfinitePast();
  std::string line_;
  bool on_screen_ = false;
};

// True where standard error is a terminal.
bool StderrIsTerminal();

}  // namespace intermezzo::mezzo
