// A path that reaches an open descriptor's object, for calls that O_PATH descriptors refuse.
#pragma once

#include <cstdio>

namespace intermezzo::sidecar {

class ProcPath {
 public:
  explicit ProcPath(int fd) { snprintf(path_, sizeof(path_), "/proc/self/fd/%d", fd); }
  const char* c_str() const { return path_; }

 private:
  char path_[32];
};

}  // namespace intermezzo::sidecar
