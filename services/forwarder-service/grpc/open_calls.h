// The calls that are open now, those that we serve and those that we make, so that a drain can end
// them all and a destructor can wait for them. Safe from any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace intermezzo::forwarder {

// A call that can be ended from outside.
class OpenCall {
 public:
  virtual ~OpenCall() = default;
  // Idempotent; never blocks. The call ends some time after.
  virtual void Close(const absl::Status& status) = 0;
};

class OpenCalls {
 public:
  // Returns a number for Remove(). After CloseAll() the call is closed at once.
  uint64_t Add(std::weak_ptr<OpenCall> call);
  // The call is wholly over; nothing of it touches anything any more.
  void Remove(uint64_t number);
  void CloseAll(const absl::Status& status);
  // False where some are still open after `timeout`.
  bool AwaitNone(absl::Duration timeout);

 private:
  absl::Mutex mu_;
  uint64_t last_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status closed_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, std::weak_ptr<OpenCall>> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::forwarder
