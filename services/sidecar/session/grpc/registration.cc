#include "services/sidecar/session/grpc/registration.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "intermezzo/registry/v1/registry.grpc.pb.h"
#include "intermezzo/token/v1/token.grpc.pb.h"
#include "services/common/log/log.h"
#include "services/common/status/status.h"

namespace intermezzo::sidecar {
namespace {

constexpr absl::Duration kMinBackoff = absl::Milliseconds(50);
constexpr absl::Duration kMaxBackoff = absl::Seconds(1);
constexpr std::chrono::seconds kRegisterTimeout{5};

}  // namespace

Registration::Registration(std::shared_ptr<grpc::Channel> channel, std::string node,
                           std::string instance, std::string address, Handler& handler)
    : channel_(std::move(channel)),
      node_(std::move(node)),
      instance_(std::move(instance)),
      address_(std::move(address)),
      handler_(handler) {}

Registration::~Registration() { Shutdown(); }

void Registration::Start() {
  registry_thread_ = std::thread([this] { RunRegistry(); });
  recalls_thread_ = std::thread([this] { RunRecalls(); });
}

void Registration::Shutdown() {
  {
    absl::MutexLock lock(&mu_);
    shutdown_ = true;
    if (registry_context_ != nullptr) registry_context_->TryCancel();
    if (recalls_context_ != nullptr) recalls_context_->TryCancel();
  }
  if (registry_thread_.joinable()) registry_thread_.join();
  if (recalls_thread_.joinable()) recalls_thread_.join();
}

class Registration::Call {
 public:
  Call(Registration& owner, grpc::ClientContext** slot) : owner_(owner), slot_(slot) {
    absl::MutexLock lock(&owner_.mu_);
    *slot_ = &context_;
    if (owner_.shutdown_) context_.TryCancel();
  }
  ~Call() {
    absl::MutexLock lock(&owner_.mu_);
    *slot_ = nullptr;
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  grpc::ClientContext* context() { return &context_; }

 private:
  Registration& owner_;
  grpc::ClientContext** const slot_;
  grpc::ClientContext context_;
};

bool Registration::Wait(absl::Duration* backoff, bool heard) {
  absl::MutexLock lock(&mu_);
  if (heard) *backoff = kMinBackoff;
  mu_.AwaitWithTimeout(absl::Condition(&shutdown_), *backoff);
  *backoff = std::min(*backoff * 2, kMaxBackoff);
  return !shutdown_;
}

void Registration::RunRegistry() {
  absl::Duration backoff = kMinBackoff;
  std::string told;
  for (;;) {
    bool heard = false;
    absl::Status status = Register(Call(*this, &registry_context_).context());
    if (status.ok()) {
      status = WatchReplicas(Call(*this, &registry_context_).context(), &heard);
    }
    if (heard) told.clear();
    if (!Wait(&backoff, heard)) return;
    const std::string message(status.message());
    if (message == told) continue;  // once for each reason, not for each try
    told = message;
    if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) {
      log::Warning("the registry cannot be reached", {{"node", node_}, {"error", message}});
    } else {
      handler_.Refused(status);
    }
  }
}

absl::Status Registration::Register(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + kRegisterTimeout);
  registry::v1::RegisterNodeRequest request;
  request.mutable_node()->set_name(node_);
  request.mutable_node()->set_instance(instance_);
  request.mutable_node()->set_address(address_);
  request.set_protocol_version(kProtocolVersion);
  registry::v1::RegisterNodeResponse response;
  const auto stub = registry::v1::RegistryService::NewStub(channel_);
  if (const grpc::Status status = stub->RegisterNode(context, request, &response); !status.ok()) {
    return FromGrpc(status);
  }
  handler_.Registered(Ordinal(response.ordinal()));
  absl::MutexLock lock(&mu_);
  registered_ = true;
  return absl::OkStatus();
}

absl::Status Registration::WatchReplicas(grpc::ClientContext* context, bool* heard) {
  registry::v1::WatchReplicasRequest request;
  request.set_node(node_);
  request.set_instance(instance_);
  const auto stub = registry::v1::RegistryService::NewStub(channel_);
  auto stream = stub->WatchReplicas(context, request);
  registry::v1::WatchReplicasResponse response;
  while (stream->Read(&response)) {
    *heard = true;
    handler_.Assigned({response.replicas().begin(), response.replicas().end()});
  }
  return FromGrpc(stream->Finish());
}

void Registration::RunRecalls() {
  absl::Duration backoff = kMinBackoff;
  {
    auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return shutdown_ || registered_; };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&ready));
  }
  bool heard = false;
  do {
    heard = false;
    (void)WatchRecalls(Call(*this, &recalls_context_).context(), &heard);
  } while (Wait(&backoff, heard));
}

absl::Status Registration::WatchRecalls(grpc::ClientContext* context, bool* heard) {
  token::v1::WatchRecallsRequest request;
  request.mutable_holder()->set_node(node_);
  request.mutable_holder()->set_instance(instance_);
  const auto stub = token::v1::TokenService::NewStub(channel_);
  auto stream = stub->WatchRecalls(context, request);
  token::v1::WatchRecallsResponse response;
  while (stream->Read(&response)) {
    *heard = true;
    handler_.Recalled(response.collection(), Epoch(response.epoch()));
  }
  return FromGrpc(stream->Finish());
}

}  // namespace intermezzo::sidecar
