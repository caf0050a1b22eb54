#include "services/forwarder-service/grpc/timers.h"

#include "absl/time/clock.h"

namespace intermezzo::forwarder {

Timers::Timers() : thread_([this] { Run(); }) {}

void Timers::After(absl::Duration delay, std::function<void()> call) {
  absl::MutexLock lock(&mu_);
  if (stopped_) return;
  due_.emplace(std::make_pair(absl::Now() + delay, added_++), std::move(call));
  changed_.Signal();
}

void Timers::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    changed_.Signal();
  }
  if (thread_.joinable()) thread_.join();
  std::map<std::pair<absl::Time, uint64_t>, std::function<void()>> dropped;
  absl::MutexLock lock(&mu_);
  dropped.swap(due_);
}

void Timers::Run() {
  while (true) {
    std::function<void()> call;
    {
      absl::MutexLock lock(&mu_);
      while (!stopped_ && (due_.empty() || due_.begin()->first.first > absl::Now())) {
        if (due_.empty()) {
          changed_.Wait(&mu_);
        } else {
          changed_.WaitWithTimeout(&mu_, due_.begin()->first.first - absl::Now());
        }
      }
      if (stopped_) return;
      call = std::move(due_.begin()->second);
      due_.erase(due_.begin());
    }
    call();
  }
}

}  // namespace intermezzo::forwarder
