#include "services/token-service/registry/worker.h"

#include <utility>

namespace intermezzo::token {

Worker::Worker(size_t limit) : limit_(limit) {
  thread_ = std::thread([this] { Loop(); });
}

Worker::~Worker() {
  {
    absl::MutexLock lock(&mu_);
    closing_ = true;
  }
  thread_.join();
}

bool Worker::Post(std::function<void()> closure) {
  absl::MutexLock lock(&mu_);
  if (closures_.size() >= limit_) return false;
  closures_.push_back(std::move(closure));
  return true;
}

void Worker::PostAlways(std::function<void()> closure) {
  absl::MutexLock lock(&mu_);
  closures_.push_back(std::move(closure));
}

void Worker::Loop() {
  while (true) {
    std::function<void()> closure;
    {
      absl::MutexLock lock(&mu_);
      auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return closing_ || !closures_.empty();
      };
      mu_.Await(absl::Condition(&something));
      if (closures_.empty()) return;
      closure = std::move(closures_.front());
      closures_.pop_front();
    }
    closure();
  }
}

}  // namespace intermezzo::token
