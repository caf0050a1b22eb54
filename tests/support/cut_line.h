// A TCP connection's way through cut_proxy, which the test can cut: from then on nothing passes in
// either direction and nothing is closed, as where a cable was pulled.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "tests/support/child_process.h"
#include "tests/support/eventually.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::tests {

class CutLine {
 public:
  // `proxy`: the program. `target`: host:port.
  CutLine(std::string proxy, const std::string& target) : program_(std::move(proxy)) {
    const std::string address_file = dir_.path() + "/address";
    proxy_ = std::make_unique<ChildProcess>(
        std::vector<std::string>{program_, "serve", "--control", control_, "--address-file",
                                 address_file, "--forward", "line=127.0.0.1:0=" + target},
        dir_.path() + "/log");
    const bool serves = Eventually([&] { return access(address_file.c_str(), F_OK) == 0; });
    if (!serves) std::abort();
    std::string name;
    std::ifstream(address_file) >> name >> address_;
  }

  // Of the near end.
  const std::string& address() const { return address_; }
  void Cut() {
    ChildProcess ctl({program_, "ctl", control_, "cut"}, dir_.path() + "/log");
    if (ctl.ExitCode() != 0) std::abort();
  }

 private:
  const TempDir dir_;
  const std::string program_;
  const std::string control_ = dir_.path() + "/ctl";
  std::string address_;
  std::unique_ptr<ChildProcess> proxy_;
};

}  // namespace intermezzo::tests
