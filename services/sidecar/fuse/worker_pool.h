// A few threads for what may take a disk's time (fsync, large copies), so that the threads that
// read requests go on. The queue is bounded by the number of requests that callers can wait for.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace intermezzo::sidecar {

class WorkerPool {
 public:
  explicit WorkerPool(int threads);
  // Runs what is queued, then ends the threads.
  ~WorkerPool();
  void Run(std::function<void()> work);

 private:
  void Work();

  absl::Mutex mu_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace intermezzo::sidecar
