#include "services/forwarder-service/grpc/timers.h"

namespace intermezzo::forwarder {

Timers::Timers() : thread_([this] { Run(); }) {}

void Timers::After(absl::Duration delay, std::function<void()> call) {
  std::lock_guard lock(mu_);
  if (stopped_) return;
  due_.emplace(std::make_pair(Clock::now() + absl::ToChronoNanoseconds(delay), added_++),
               std::move(call));
  changed_.notify_one();
}

void Timers::Stop() {
  {
    std::lock_guard lock(mu_);
    stopped_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  decltype(due_) dropped;
  std::lock_guard lock(mu_);
  dropped.swap(due_);
}

void Timers::Run() {
  while (true) {
    std::function<void()> call;
    {
      std::unique_lock lock(mu_);
      while (!stopped_ && (due_.empty() || due_.begin()->first.first > Clock::now())) {
        if (due_.empty()) {
          changed_.wait(lock);
        } else {
          const Clock::time_point first = due_.begin()->first.first;
          changed_.wait_until(lock, first);
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
