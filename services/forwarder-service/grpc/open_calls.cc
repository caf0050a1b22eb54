#include "services/forwarder-service/grpc/open_calls.h"

#include <utility>
#include <vector>

namespace intermezzo::forwarder {

uint64_t OpenCalls::Add(std::weak_ptr<OpenCall> call) {
  absl::Status closed;
  uint64_t number;
  {
    absl::MutexLock lock(&mu_);
    number = ++last_;
    calls_.emplace(number, call);
    closed = closed_;
  }
  if (!closed.ok()) {
    if (std::shared_ptr<OpenCall> open = call.lock()) open->Close(closed);
  }
  return number;
}

void OpenCalls::Remove(uint64_t number) {
  absl::MutexLock lock(&mu_);
  calls_.erase(number);
}

void OpenCalls::CloseAll(const absl::Status& status) {
  std::vector<std::shared_ptr<OpenCall>> open;
  {
    absl::MutexLock lock(&mu_);
    closed_ = status;
    for (auto& [number, call] : calls_) {
      if (std::shared_ptr<OpenCall> alive = call.lock()) open.push_back(std::move(alive));
    }
  }
  for (auto& call : open) call->Close(status);
}

bool OpenCalls::AwaitNone(absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return calls_.empty(); };
  return mu_.AwaitWithTimeout(absl::Condition(&none), timeout);
}

}  // namespace intermezzo::forwarder
