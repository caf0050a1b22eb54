#include "services/token-service/core/monotonic_timer.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "services/common/log/log.h"

namespace intermezzo::token {

absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

MonotonicTimer::MonotonicTimer(std::function<void()> fire)
    : fire_(std::move(fire)), fd_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)) {
  if (fd_ < 0) log::Fatal("timerfd_create failed: no timer for the leases");
  thread_ = std::thread([this] { Loop(); });
}

MonotonicTimer::~MonotonicTimer() {
  stop_ = true;
  Arm(absl::UnixEpoch());
  thread_.join();
  close(fd_);
}

void MonotonicTimer::Arm(absl::Time deadline) {
  // A race with the destructor's own Arm would lose its wake-up.
  if (stop_) deadline = absl::UnixEpoch();
  itimerspec spec{};
  if (deadline != absl::InfiniteFuture()) {
    // All zero would disarm.
    spec.it_value = absl::ToTimespec(std::max(deadline, absl::FromUnixNanos(1)));
  }
  timerfd_settime(fd_, TFD_TIMER_ABSTIME, &spec, nullptr);
}

void MonotonicTimer::Loop() {
  while (!stop_) {
    uint64_t fired = 0;
    if (read(fd_, &fired, sizeof(fired)) < 0) {
      if (errno == EINTR || errno == EAGAIN || errno == ECANCELED) continue;
      log::Fatal("cannot read the timer of the leases");
    }
    if (!stop_) fire_();
  }
}

}  // namespace intermezzo::token
