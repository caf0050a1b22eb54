// One thread that runs closures in order, so that changes may wait for the disk without holding
// up a gRPC thread. Owned by the registry; Post from any thread.
#pragma once

#include <deque>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace intermezzo::token {

class Worker {
 public:
  explicit Worker(size_t limit);
  // Runs what was posted, then ends.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // False where `limit` closures are waiting: nothing was posted.
  bool Post(std::function<void()> closure);
  // For the second half of something that was let in: not refused.
  void PostAlways(std::function<void()> closure);

 private:
  void Loop();

  const size_t limit_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> closures_ ABSL_GUARDED_BY(mu_);
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace intermezzo::token
