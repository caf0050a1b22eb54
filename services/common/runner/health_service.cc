#include "services/common/runner/health_service.h"

#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/impl/server_initializer.h>

#include <vector>

#include "absl/strings/str_cat.h"

namespace intermezzo {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// Reads the server's service names when it is built; gRPC gives them to plugins only.
class HealthService::NamesPlugin : public grpc::ServerBuilderPlugin {
 public:
  explicit NamesPlugin(HealthService* health) : health_(health) {}
  std::string name() override { return "intermezzo.health_names"; }
  void InitServer(grpc::ServerInitializer* initializer) override {}
  void Finish(grpc::ServerInitializer* initializer) override {
    absl::MutexLock lock(&health_->mu_);
    health_->names_.insert(initializer->GetServiceList()->begin(),
                           initializer->GetServiceList()->end());
  }
  void ChangeArguments(const std::string& name, void* value) override {}

 private:
  HealthService* const health_;
};

namespace {

class PluginOption : public grpc::ServerBuilderOption {
 public:
  explicit PluginOption(std::unique_ptr<grpc::ServerBuilderPlugin> plugin)
      : plugin_(std::move(plugin)) {}
  void UpdateArguments(grpc::ChannelArguments* arguments) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->push_back(std::move(plugin_));
  }

 private:
  std::unique_ptr<grpc::ServerBuilderPlugin> plugin_;
};

}  // namespace

// One Watch call. At most one write is under way; a state that changes meanwhile is sent after it,
// states in between are skipped.
class HealthService::Watcher : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService* health, std::string service)
      : health_(health), service_(std::move(service)) {}

  // Under health_->mu_.
  void Update() {
    health_->mu_.AssertHeld();
    if (finished_ || writing_) return;
    if (cancelled_ || health_->stopped_) {
      finished_ = true;
      Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the process stops"));
      return;
    }
    const HealthCheckResponse::ServingStatus status =
        !health_->IsKnown(service_) ? HealthCheckResponse::SERVICE_UNKNOWN
        : health_->serving_         ? HealthCheckResponse::SERVING
                                    : HealthCheckResponse::NOT_SERVING;
    if (response_.status() == status) return;
    response_.set_status(status);
    writing_ = true;
    StartWrite(&response_);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&health_->mu_);
    writing_ = false;
    if (!ok) cancelled_ = true;
    Update();
  }

  void OnCancel() override {
    absl::MutexLock lock(&health_->mu_);
    cancelled_ = true;
    Update();
  }

  void OnDone() override {
    {
      absl::MutexLock lock(&health_->mu_);
      health_->watchers_.erase(this);
    }
    delete this;
  }

 private:
  HealthService* const health_;
  const std::string service_;
  HealthCheckResponse response_;  // UNKNOWN until the first write
  bool writing_ ABSL_GUARDED_BY(health_->mu_) = false;
  bool cancelled_ ABSL_GUARDED_BY(health_->mu_) = false;
  bool finished_ ABSL_GUARDED_BY(health_->mu_) = false;
};

HealthService::HealthService() = default;
HealthService::~HealthService() = default;

void HealthService::AddTo(grpc::ServerBuilder& builder) {
  builder.SetOption(std::make_unique<PluginOption>(std::make_unique<NamesPlugin>(this)));
  builder.RegisterService(this);
}

void HealthService::SetServing(bool serving) {
  absl::MutexLock lock(&mu_);
  serving_ = serving && !stopped_;
  for (Watcher* watcher : watchers_) watcher->Update();
}

void HealthService::Stop() {
  absl::MutexLock lock(&mu_);
  serving_ = false;
  stopped_ = true;
  for (Watcher* watcher : watchers_) watcher->Update();
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::MutexLock lock(&mu_);
  if (!IsKnown(request->service())) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND,
                                 absl::StrCat("no service \"", request->service(), "\" here")));
    return reactor;
  }
  response->set_status(serving_ ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext* context, const HealthCheckRequest* request) {
  auto* watcher = new Watcher(this, request->service());
  absl::MutexLock lock(&mu_);
  watchers_.insert(watcher);
  watcher->Update();
  return watcher;
}

bool HealthService::IsKnown(const std::string& service) const {
  return service.empty() || names_.contains(service);
}

}  // namespace intermezzo
