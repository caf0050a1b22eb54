// SIGTERM and SIGINT as a notification.
#pragma once

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace intermezzo {

// Blocks both signals in the calling thread, and so in all that it starts, and takes them in one
// thread of its own. Construct it before any other thread exists. The first signal ends Wait();
// after that a second one, or `limit` without the object being destroyed, ends the process with
// exit code 1, so that a drain that hangs cannot keep a process for ever.
class Signals {
 public:
  explicit Signals(absl::Duration limit);
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // Returns the signal's number.
  int Wait();

 private:
  void Run();

  const absl::Duration limit_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> signal_{0};
  absl::Notification received_;
  std::thread thread_;
};

}  // namespace intermezzo
