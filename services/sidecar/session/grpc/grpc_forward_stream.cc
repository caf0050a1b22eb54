#include "services/sidecar/session/grpc/grpc_forward_stream.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/forwarder/v1/forwarder.grpc.pb.h"
#include "services/common/status/status.h"

namespace intermezzo::sidecar {
namespace {

using forwarder::v1::ForwarderService;
using forwarder::v1::ForwardRequest;
using forwarder::v1::ForwardResponse;

constexpr absl::Duration kMinBackoff = absl::Milliseconds(50);
constexpr absl::Duration kMaxBackoff = absl::Seconds(1);
// An ack waits so long for those of the records that follow, and for these to be applied first.
constexpr absl::Duration kAckDelay = absl::Milliseconds(2);

// Acknowledges on a thread of its own, the last seq for all that came in the meantime.
class Acks {
 public:
  // `write` is called by one thread, and not any more once the destructor has returned.
  explicit Acks(std::function<void(Seq)> write)
      : write_(std::move(write)), thread_([this] { Run(); }) {}
  ~Acks() {
    {
      absl::MutexLock lock(&mu_);
      stopped_ = true;
    }
    thread_.join();
  }

  void Owe(Seq seq) {
    absl::MutexLock lock(&mu_);
    owed_ = seq;
  }

 private:
  void Run() {
    auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopped_ || owed_; };
    for (;;) {
      Seq seq;
      {
        absl::MutexLock lock(&mu_);
        mu_.Await(absl::Condition(&due));
        mu_.AwaitWithTimeout(absl::Condition(&stopped_), kAckDelay);
        if (stopped_) return;
        seq = *std::exchange(owed_, std::nullopt);
      }
      write_(seq);
    }
  }

  const std::function<void(Seq)> write_;
  absl::Mutex mu_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<Seq> owed_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

class GrpcForwardStream final : public ForwardStream {
 public:
  GrpcForwardStream(std::shared_ptr<grpc::Channel> channel, Handler& handler)
      : stub_(ForwarderService::NewStub(channel)), handler_(handler) {}
  ~GrpcForwardStream() override { Shutdown(); }

  void Start() override {
    absl::MutexLock lock(&mu_);
    if (!shutdown_ && !thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }

  void Restart() override {
    absl::MutexLock lock(&mu_);
    if (context_ != nullptr) context_->TryCancel();
  }

  void Shutdown() override {
    std::thread thread;
    {
      absl::MutexLock lock(&mu_);
      shutdown_ = true;
      if (context_ != nullptr) context_->TryCancel();
      thread = std::move(thread_);
    }
    if (thread.joinable()) thread.join();
  }

 private:
  void Run() {
    absl::Duration backoff = kMinBackoff;
    for (;;) {
      grpc::ClientContext context;
      {
        absl::MutexLock lock(&mu_);
        if (shutdown_) return;
        context_ = &context;
      }
      bool heard = false;
      const absl::Status status = RunStream(&context, &heard);
      {
        absl::MutexLock lock(&mu_);
        context_ = nullptr;
        if (shutdown_) return;
      }
      if (!handler_.OnEnd(status)) return;
      if (heard) backoff = kMinBackoff;
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithTimeout(absl::Condition(&shutdown_), backoff);
      backoff = std::min(backoff * 2, kMaxBackoff);
    }
  }

  absl::Status RunStream(grpc::ClientContext* context, bool* heard) {
    auto stream = stub_->Forward(context);
    ForwardRequest request;
    handler_.FillHello(request.mutable_hello());
    absl::Status own;
    if (stream->Write(request)) {
      // Acks are small and the forwarder always reads: writing them does not block for long.
      Acks acks([&stream](Seq seq) {
        ForwardRequest message;
        message.mutable_ack()->set_seq(seq.value());
        stream->Write(message);
      });
      const auto ack = [&acks](Seq seq) { acks.Owe(seq); };
      ForwardResponse response;
      while (own.ok() && stream->Read(&response)) {
        *heard = true;
        switch (response.message_case()) {
          case ForwardResponse::kEntries:
            own = handler_.OnEntries(response.entries(), ack);
            break;
          case ForwardResponse::kNeedsSnapshot:
            handler_.OnNeedsSnapshot(Seq(response.needs_snapshot().first_seq()));
            break;
          case ForwardResponse::kServe:
            handler_.OnServe(response.serve().session());
            break;
          case ForwardResponse::MESSAGE_NOT_SET:
            break;
        }
      }
      if (!own.ok()) context->TryCancel();
    }
    absl::Status status = FromGrpc(stream->Finish());
    return own.ok() ? status : own;
  }

  const std::unique_ptr<ForwarderService::Stub> stub_;
  Handler& handler_;

  absl::Mutex mu_;
  bool shutdown_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::thread thread_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

std::unique_ptr<ForwardStream> MakeGrpcForwardStream(std::shared_ptr<grpc::Channel> channel,
                                                     ForwardStream::Handler& handler) {
  return std::make_unique<GrpcForwardStream>(std::move(channel), handler);
}

}  // namespace intermezzo::sidecar
