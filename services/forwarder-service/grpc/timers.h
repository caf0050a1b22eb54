// Calls that are due later, on one thread of their own. Off the way of entries: for heartbeats,
// retries and deadlines. Safe from any thread. A call must not block, and must hold what it needs
// itself (a weak pointer as a rule): there is no cancelling, only Stop().
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace intermezzo::forwarder {

class Timers {
 public:
  Timers();
  ~Timers() { Stop(); }
  Timers(const Timers&) = delete;
  Timers& operator=(const Timers&) = delete;

  void After(absl::Duration delay, std::function<void()> call);
  // Ends the thread; calls that are not due yet never come, and later ones are dropped. Idempotent;
  // not from a timer's call.
  void Stop();

 private:
  void Run();

  absl::Mutex mu_;
  absl::CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t added_ ABSL_GUARDED_BY(mu_) = 0;
  // By time, then in order of adding.
  std::map<std::pair<absl::Time, uint64_t>, std::function<void()>> due_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace intermezzo::forwarder
