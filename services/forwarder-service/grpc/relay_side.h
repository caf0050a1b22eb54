// One end of a snapshot relay: a bidirectional call of which its owner asks one read and one write
// at a time. Takes care of gRPC's rules: finishes once, stays alive until the call is over, cuts
// off a peer that does not take its status. Methods are safe from any thread; events come from
// gRPC's threads with no lock held, none after `ended` but perhaps one that was on its way.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/status/status.h"
#include "services/forwarder-service/grpc/environment.h"
#include "services/forwarder-service/grpc/open_calls.h"

namespace intermezzo::forwarder {

template <typename Request, typename Response>
class RelaySide final : public grpc::ServerBidiReactor<Request, Response>,
                        public OpenCall,
                        public std::enable_shared_from_this<RelaySide<Request, Response>> {
 public:
  struct Events {
    // What Read() asked for.
    std::function<void(Request&)> message;
    // What Write() was given is on its way; the next may come.
    std::function<void()> written;
    // The peer half-closed (OK) or is gone (CANCELLED), or the service closes. At most once, and
    // not after End().
    std::function<void(const absl::Status&)> ended;
  };

  RelaySide(std::shared_ptr<Environment> environment, grpc::CallbackServerContext* context)
      : environment_(std::move(environment)), context_(context) {}

  // Once, before the reactor is given to gRPC.
  void Start() {
    self_ = this->shared_from_this();
    environment_->timers.After(environment_->options.hello_within, [weak = this->weak_from_this()] {
      auto side = weak.lock();
      if (side && !side->heard_) {
        side->Close(absl::DeadlineExceededError("nothing was sent"));
      }
    });
    call_ = environment_->calls->Add(self_);
  }
  // Who is told from now on.
  void SetEvents(Events events) {
    absl::MutexLock lock(&mu_);
    if (!done_) events_ = std::make_shared<Events>(std::move(events));
  }

  void Read() {
    absl::MutexLock lock(&mu_);
    if (!finished_) this->StartRead(&request_);
  }
  // Not before the last one was written. False where the call has ended.
  bool Write(Response response) {
    absl::MutexLock lock(&mu_);
    if (finished_) return false;
    response_ = std::move(response);
    this->StartWrite(&response_);
    return true;
  }
  // Ends the call with `status`. Idempotent.
  void End(const absl::Status& status) {
    absl::MutexLock lock(&mu_);
    if (finished_) return;
    finished_ = true;
    this->Finish(ToGrpc(status));
    environment_->timers.After(environment_->options.cut_off, [weak = this->weak_from_this()] {
      if (auto side = weak.lock()) {
        absl::MutexLock lock(&side->mu_);
        if (!side->done_) side->context_->TryCancel();
      }
    });
  }

  // OpenCall.
  void Close(const absl::Status& status) override {
    if (auto events = CurrentEvents(); events && events->ended) events->ended(status);
    End(status);
  }

  // The reactor.
  void OnReadDone(bool ok) override {
    std::shared_ptr<Events> events = CurrentEvents();
    if (!events) return;
    if (ok) {
      heard_ = true;
      events->message(request_);
    } else {
      events->ended(absl::OkStatus());
    }
  }
  void OnWriteDone(bool ok) override {
    std::shared_ptr<Events> events = CurrentEvents();
    if (events && ok && events->written) events->written();
  }
  void OnCancel() override { Close(absl::CancelledError("the peer went away")); }
  void OnDone() override {
    std::shared_ptr<OpenCalls> calls = environment_->calls;
    uint64_t call = call_;
    std::shared_ptr<Events> events;
    {
      absl::MutexLock lock(&mu_);
      done_ = true;
      events.swap(events_);
    }
    events.reset();
    self_.reset();  // Perhaps the last.
    calls->Remove(call);
  }

 private:
  // Null once the call has ended from our side.
  std::shared_ptr<Events> CurrentEvents() {
    absl::MutexLock lock(&mu_);
    return finished_ ? nullptr : events_;
  }

  const std::shared_ptr<Environment> environment_;
  grpc::CallbackServerContext* const context_;  // valid until OnDone
  uint64_t call_ = 0;
  std::shared_ptr<RelaySide> self_;

  std::atomic<bool> heard_{false};

  // Owned by the pending read and write.
  Request request_;
  Response response_;

  absl::Mutex mu_;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  std::shared_ptr<Events> events_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::forwarder
