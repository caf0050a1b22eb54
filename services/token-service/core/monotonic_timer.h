// One deadline by the monotonic clock (a timerfd): no polling, not disturbed by steps of the wall
// clock. Owned by whoever has deadlines; Arm may be called from any thread.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "absl/time/time.h"

namespace intermezzo::token {

// CLOCK_MONOTONIC as an absl::Time; its zero means nothing.
absl::Time MonotonicNow();

class MonotonicTimer {
 public:
  // `fire` is called by the timer's thread each time that the deadline passes.
  explicit MonotonicTimer(std::function<void()> fire);
  // Waits for a running `fire`.
  ~MonotonicTimer();
  MonotonicTimer(const MonotonicTimer&) = delete;
  MonotonicTimer& operator=(const MonotonicTimer&) = delete;

  // Replaces the deadline (a time of MonotonicNow); infinite future for none.
  void Arm(absl::Time deadline);

 private:
  void Loop();

  const std::function<void()> fire_;
  const int fd_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace intermezzo::token
