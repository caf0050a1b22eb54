// Calls that are due later, on one thread of their own. Off the way of entries: for heartbeats,
// retries and deadlines. By the monotonic clock: absl's waits go by the time of day, and a clock
// that is put back would stop the heartbeats for as long. Safe from any thread. A call must not
// block, and must hold what it needs itself (a weak pointer as a rule): there is no cancelling,
// only Stop().
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

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

  using Clock = std::chrono::steady_clock;

  std::mutex mu_;
  std::condition_variable changed_;
  // All under mu_.
  bool stopped_ = false;
  uint64_t added_ = 0;
  // By time, then in order of adding.
  std::map<std::pair<Clock::time_point, uint64_t>, std::function<void()>> due_;
  std::thread thread_;
};

}  // namespace intermezzo::forwarder
