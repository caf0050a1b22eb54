// A token-service in this process with a fake journal, and nodes that speak to it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>
#include <utility>

#include "intermezzo/registry/v1/registry.grpc.pb.h"
#include "intermezzo/token/v1/token.grpc.pb.h"
#include "services/common/config/config.h"
#include "services/common/rpc/channel.h"
#include "services/common/types/numbers.h"
#include "services/token-service/application.h"
#include "tests/support/fake_journal.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::tests {

class TokenCluster {
 public:
  explicit TokenCluster(absl::Duration lease = absl::Seconds(30)) {
    config_.set_data_dir(dir_.path() + "/token");
    config_.set_journal_address(journal_.address());
    *config_.mutable_lease() = ToProto(lease);
    *config_.mutable_minimum_hold() = ToProto(absl::Milliseconds(1));
    *config_.mutable_recall_deadline() = ToProto(lease / 2);
    Start();
  }
  ~TokenCluster() { Stop(); }

  void Start() {
    context_.metrics = std::make_shared<prometheus::Registry>();
    auto built = token::BuildTokenService(config_, context_);
    ASSERT_TRUE(built.ok()) << built.status();
    application_ = *std::move(built);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    for (grpc::Service* service : application_->Services()) builder.RegisterService(service);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    channel_ = MakeChannel(absl::StrCat("127.0.0.1:", port));
    tokens_ = token::v1::TokenService::NewStub(channel_);
    registry_ = registry::v1::RegistryService::NewStub(channel_);
  }
  void Stop() {
    if (application_ == nullptr) return;
    application_->Drain(absl::Seconds(1));
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
    server_.reset();
    application_.reset();
  }
  void Restart() {
    Stop();
    Start();
  }

  token::v1::TokenService::Stub& tokens() { return *tokens_; }
  registry::v1::RegistryService::Stub& registry() { return *registry_; }
  FakeJournal& journal() { return journal_; }
  prometheus::Registry& metrics() { return *context_.metrics; }
  config::v1::TokenServiceConfig& config() { return config_; }

  static void Bound(grpc::ClientContext& context, int seconds = 60) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  }

  grpc::Status Register(const std::string& node, const std::string& instance,
                        uint32_t* ordinal = nullptr, uint32_t version = kProtocolVersion) {
    registry::v1::RegisterNodeRequest request;
    request.mutable_node()->set_name(node);
    request.mutable_node()->set_instance(instance);
    request.mutable_node()->set_address("127.0.0.1:1");
    request.set_protocol_version(version);
    registry::v1::RegisterNodeResponse response;
    grpc::ClientContext context;
    Bound(context);
    grpc::Status status = registry_->RegisterNode(&context, request, &response);
    if (ordinal != nullptr) *ordinal = response.ordinal();
    return status;
  }
  grpc::Status Create(const std::string& collection, const std::string& request_id = "",
                      registry::v1::Collection* created = nullptr) {
    registry::v1::CreateCollectionRequest request;
    request.mutable_collection()->set_name(collection);
    request.set_request_id(request_id);
    registry::v1::CreateCollectionResponse response;
    grpc::ClientContext context;
    Bound(context);
    grpc::Status status = registry_->CreateCollection(&context, request, &response);
    if (created != nullptr) *created = response.collection();
    return status;
  }
  grpc::Status Delete(const std::string& collection, bool force,
                      const std::string& request_id = "") {
    registry::v1::DeleteCollectionRequest request;
    request.set_name(collection);
    request.set_force(force);
    request.set_request_id(request_id);
    registry::v1::DeleteCollectionResponse response;
    grpc::ClientContext context;
    Bound(context);
    return registry_->DeleteCollection(&context, request, &response);
  }
  grpc::Status AddReplica(const std::string& collection, const std::string& node,
                          const std::string& lower = "", const std::string& mount = "") {
    registry::v1::AddReplicaRequest request;
    request.mutable_replica()->set_collection(collection);
    request.mutable_replica()->set_node(node);
    request.mutable_replica()->set_lower_dir(lower);
    request.mutable_replica()->set_mount_dir(mount);
    registry::v1::AddReplicaResponse response;
    grpc::ClientContext context;
    Bound(context);
    return registry_->AddReplica(&context, request, &response);
  }
  // A node with instance "<name>-1" and a replica.
  void Join(const std::string& collection, const std::string& node) {
    const grpc::Status registered = Register(node, node + "-1");
    ASSERT_TRUE(registered.ok()) << registered.error_message();
    const grpc::Status added = AddReplica(collection, node);
    ASSERT_TRUE(added.ok()) << added.error_message();
  }

  grpc::Status Acquire(const std::string& collection, const std::string& node,
                       token::v1::AcquireResponse* response, grpc::ClientContext* context) {
    token::v1::AcquireRequest request;
    request.set_collection(collection);
    request.mutable_holder()->set_node(node);
    request.mutable_holder()->set_instance(node + "-1");
    return tokens_->Acquire(context, request, response);
  }
  grpc::Status Acquire(const std::string& collection, const std::string& node,
                       token::v1::AcquireResponse* response) {
    grpc::ClientContext context;
    Bound(context);
    return Acquire(collection, node, response, &context);
  }
  grpc::Status Release(const std::string& collection, const std::string& node, uint64_t epoch) {
    token::v1::ReleaseRequest request;
    request.set_collection(collection);
    request.mutable_holder()->set_node(node);
    request.mutable_holder()->set_instance(node + "-1");
    request.set_epoch(epoch);
    token::v1::ReleaseResponse response;
    grpc::ClientContext context;
    Bound(context);
    return tokens_->Release(&context, request, &response);
  }
  grpc::Status Renew(const std::string& collection, const std::string& node, uint64_t epoch,
                     token::v1::RenewResponse* response) {
    token::v1::RenewRequest request;
    request.set_collection(collection);
    request.mutable_holder()->set_node(node);
    request.mutable_holder()->set_instance(node + "-1");
    request.set_epoch(epoch);
    grpc::ClientContext context;
    Bound(context);
    return tokens_->Renew(&context, request, response);
  }
  grpc::Status Recall(const std::string& collection, bool force, const std::string& request_id = "",
                      uint64_t epoch = 0) {
    token::v1::RecallTokenRequest request;
    request.set_collection(collection);
    request.set_force(force);
    request.set_request_id(request_id);
    request.set_epoch(epoch);
    token::v1::RecallTokenResponse response;
    grpc::ClientContext context;
    Bound(context);
    return tokens_->RecallToken(&context, request, &response);
  }
  token::v1::Token Token(const std::string& collection) {
    token::v1::GetTokenRequest request;
    request.set_collection(collection);
    token::v1::GetTokenResponse response;
    grpc::ClientContext context;
    Bound(context);
    const grpc::Status status = tokens_->GetToken(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.token();
  }

 private:
  TempDir dir_;
  FakeJournal journal_;
  config::v1::TokenServiceConfig config_;
  RunnerContext context_;
  std::unique_ptr<Application> application_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<token::v1::TokenService::Stub> tokens_;
  std::unique_ptr<registry::v1::RegistryService::Stub> registry_;
};

}  // namespace intermezzo::tests
