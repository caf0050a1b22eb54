#include "services/sidecar/session/grpc/grpc_token_client.h"

#include <grpcpp/client_context.h>

#include <chrono>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/token/v1/token.grpc.pb.h"
#include "services/common/config/config.h"
#include "services/common/status/status.h"

namespace intermezzo::sidecar {
namespace {

using token::v1::TokenService;

// Renew and Release are answered from memory and one synced write.
constexpr absl::Duration kShortCall = absl::Seconds(2);

class GrpcTokenClient final : public TokenClient {
 public:
  GrpcTokenClient(std::shared_ptr<grpc::Channel> channel, std::string collection, std::string node,
                  std::string instance)
      : stub_(TokenService::NewStub(channel)), collection_(std::move(collection)) {
    holder_.set_node(std::move(node));
    holder_.set_instance(std::move(instance));
  }

  ~GrpcTokenClient() override {
    absl::MutexLock lock(&mu_);
    for (grpc::ClientContext* context : contexts_) context->TryCancel();
    mu_.Await(absl::Condition(
        +[](std::set<grpc::ClientContext*>* contexts) { return contexts->empty(); }, &contexts_));
  }

  void Acquire(absl::Duration timeout, std::function<void(absl::StatusOr<Grant>)> done) override {
    auto call = NewCall<token::v1::AcquireRequest, token::v1::AcquireResponse>(timeout);
    {
      absl::MutexLock lock(&mu_);
      acquire_ = &call->context;
    }
    stub_->async()->Acquire(
        &call->context, &call->request, &call->response,
        [this, call, done = std::move(done)](grpc::Status status) {
          {
            absl::MutexLock lock(&mu_);
            if (acquire_ == &call->context) acquire_ = nullptr;
          }
          if (status.ok()) {
            done(Grant{Epoch(call->response.epoch()), Seq(call->response.head_seq()),
                       FromProto(call->response.lease())});
          } else {
            done(FromGrpc(status));
          }
          Ended(&call->context);
        });
  }

  void CancelAcquire() override {
    absl::MutexLock lock(&mu_);
    if (acquire_ != nullptr) acquire_->TryCancel();
  }

  void Renew(Epoch epoch, std::function<void(absl::StatusOr<Renewal>)> done) override {
    auto call = NewCall<token::v1::RenewRequest, token::v1::RenewResponse>(kShortCall);
    call->request.set_epoch(epoch.value());
    stub_->async()->Renew(
        &call->context, &call->request, &call->response,
        [this, call, done = std::move(done)](grpc::Status status) {
          if (status.ok()) {
            done(Renewal{FromProto(call->response.lease()), call->response.recalled()});
          } else {
            done(FromGrpc(status));
          }
          Ended(&call->context);
        });
  }

  void Release(Epoch epoch, std::function<void(absl::Status)> done) override {
    auto call = NewCall<token::v1::ReleaseRequest, token::v1::ReleaseResponse>(kShortCall);
    call->request.set_epoch(epoch.value());
    stub_->async()->Release(&call->context, &call->request, &call->response,
                            [this, call, done = std::move(done)](grpc::Status status) {
                              done(FromGrpc(status));
                              Ended(&call->context);
                            });
  }

 private:
  template <typename Request, typename Response>
  struct Call {
    grpc::ClientContext context;
    Request request;
    Response response;
  };

  template <typename Request, typename Response>
  std::shared_ptr<Call<Request, Response>> NewCall(absl::Duration timeout) {
    auto call = std::make_shared<Call<Request, Response>>();
    call->context.set_deadline(std::chrono::system_clock::now() +
                               absl::ToChronoMicroseconds(timeout));
    call->request.set_collection(collection_);
    *call->request.mutable_holder() = holder_;
    absl::MutexLock lock(&mu_);
    contexts_.insert(&call->context);
    return call;
  }

  void Ended(grpc::ClientContext* context) {
    absl::MutexLock lock(&mu_);
    contexts_.erase(context);
  }

  const std::unique_ptr<TokenService::Stub> stub_;
  const std::string collection_;
  token::v1::Holder holder_;

  absl::Mutex mu_;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mu_);
  grpc::ClientContext* acquire_ ABSL_GUARDED_BY(mu_) = nullptr;
};

}  // namespace

std::unique_ptr<TokenClient> MakeGrpcTokenClient(std::shared_ptr<grpc::Channel> channel,
                                                 std::string collection, std::string node,
                                                 std::string instance) {
  return std::make_unique<GrpcTokenClient>(std::move(channel), std::move(collection),
                                           std::move(node), std::move(instance));
}

}  // namespace intermezzo::sidecar
