// A server stream that sends what there is to send when it is woken: at most one message is being
// written, the next is asked for when the peer took the one before, so a slow peer costs nothing.
// Wake and End from any thread. Kept alive by gRPC until the stream is over and by whoever may
// still wake it; waking one that is over does nothing.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/status/status.h"

namespace intermezzo::token {

template <typename Response>
class WatchStream final : public grpc::ServerWriteReactor<Response>,
                          public std::enable_shared_from_this<WatchStream<Response>> {
 public:
  // Fills in the next message; false where there is none. Called by one thread at a time.
  using Next = std::function<bool(Response&)>;

  static std::shared_ptr<WatchStream> Make(Next next) {
    std::shared_ptr<WatchStream> stream(new WatchStream(std::move(next)));
    stream->self_ = stream;
    return stream;
  }

  // Called when the stream is over; set before the handler returns.
  void SetOver(std::function<void()> over) { over_ = std::move(over); }

  // There may be something to send.
  void Wake() {
    {
      absl::MutexLock lock(&mu_);
      dirty_ = true;
      if (active_) return;
      active_ = true;
    }
    Pump();
  }

  // Ends the stream after the message that is being written.
  void End(const absl::Status& status) {
    {
      absl::MutexLock lock(&mu_);
      if (!end_.has_value()) end_ = status;
      if (active_) return;
      active_ = true;
    }
    Pump();
  }

 private:
  explicit WatchStream(Next next) : next_(std::move(next)) {}

  void OnWriteDone(bool ok) override {
    if (!ok) {
      absl::MutexLock lock(&mu_);
      if (!end_.has_value()) end_ = absl::CancelledError("the peer has gone");
    }
    Pump();
  }
  void OnCancel() override { End(absl::CancelledError("the peer has gone")); }
  void OnDone() override {
    if (over_) over_();
    over_ = nullptr;
    std::shared_ptr<WatchStream> last = std::move(self_);
  }

  // For the one that has set active_: writes, or finishes, or clears it.
  void Pump() {
    while (true) {
      std::optional<absl::Status> end;
      {
        absl::MutexLock lock(&mu_);
        end = end_;
        if (!end.has_value() && !dirty_) {
          active_ = false;
          return;
        }
        dirty_ = false;
      }
      if (end.has_value()) {
        this->Finish(ToGrpc(*end));  // active_ stays set: nothing follows
        return;
      }
      response_.Clear();
      if (next_(response_)) {
        {
          absl::MutexLock lock(&mu_);
          dirty_ = true;  // perhaps there is more
        }
        this->StartWrite(&response_);
        return;
      }
    }
  }

  const Next next_;
  std::function<void()> over_;
  std::shared_ptr<WatchStream> self_;
  // Of the active one.
  Response response_;

  absl::Mutex mu_;
  bool active_ ABSL_GUARDED_BY(mu_) = false;
  bool dirty_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::token
