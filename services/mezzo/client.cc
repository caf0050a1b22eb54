#include "services/mezzo/client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "intermezzo/forwarder/v1/forwarder.grpc.pb.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "intermezzo/node/v1/node.grpc.pb.h"
#include "intermezzo/registry/v1/registry.grpc.pb.h"
#include "intermezzo/token/v1/token.grpc.pb.h"
#include "services/common/rpc/channel.h"
#include "services/common/status/status.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

constexpr int kPageSize = 1000;

// 128 random bits: names a request, so that a retry of it is not done twice.
std::string NewRequestId() {
  std::random_device random;
  return absl::StrFormat("%08x%08x%08x%08x", random(), random(), random(), random());
}

void SetDeadline(grpc::ClientContext& context, absl::Duration timeout) {
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
}

// The service's answer as an error of ours: who, where, what.
absl::Status Explain(const std::string& who, const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const absl::Status plain = FromGrpc(status);
  return absl::Status(plain.code(), absl::StrCat(who, ": ", plain.message()));
}

template <typename Stub, typename Request, typename Response>
absl::Status Call(const std::string& who, Stub& stub,
                  grpc::Status (Stub::*rpc)(grpc::ClientContext*, const Request&, Response*),
                  const Request& request, Response& response, absl::Duration timeout) {
  grpc::ClientContext context;
  SetDeadline(context, timeout);
  const grpc::Status status = (stub.*rpc)(&context, request, &response);
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return absl::DeadlineExceededError(
        absl::StrCat(who, ": no answer within ", HumanDuration(timeout)));
  }
  return Explain(who, status);
}

// All pages of a list as one response.
template <typename Stub, typename Request, typename Response>
absl::StatusOr<Response> CallPaged(const std::string& who, Stub& stub,
                                   grpc::Status (Stub::*rpc)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                   Request request, absl::Duration timeout) {
  Response all;
  request.set_page_size(kPageSize);
  do {
    Response page;
    if (absl::Status status = Call(who, stub, rpc, request, page, timeout); !status.ok()) {
      return status;
    }
    request.set_page_token(page.next_page_token());
    all.MergeFrom(page);
  } while (!request.page_token().empty());
  all.clear_next_page_token();
  return all;
}

}  // namespace

struct Client::Stubs {
  explicit Stubs(const Addresses& addresses)
      : registry(registry::v1::RegistryService::NewStub(MakeChannel(addresses.token))),
        token(token::v1::TokenService::NewStub(MakeChannel(addresses.token))),
        journal(journal::v1::JournalService::NewStub(MakeChannel(addresses.journal))),
        forwarder(forwarder::v1::ForwarderService::NewStub(MakeChannel(addresses.forwarder))),
        token_name(absl::StrCat("token-service at ", addresses.token)),
        journal_name(absl::StrCat("journal-service at ", addresses.journal)),
        forwarder_name(absl::StrCat("forwarder-service at ", addresses.forwarder)) {}

  const std::unique_ptr<registry::v1::RegistryService::Stub> registry;
  const std::unique_ptr<token::v1::TokenService::Stub> token;
  const std::unique_ptr<journal::v1::JournalService::Stub> journal;
  const std::unique_ptr<forwarder::v1::ForwarderService::Stub> forwarder;
  const std::string token_name;
  const std::string journal_name;
  const std::string forwarder_name;
};

struct Client::NodeStub {
  explicit NodeStub(const registry::v1::Node& node)
      : stub(node::v1::NodeService::NewStub(MakeChannel(node.address()))),
        name(absl::StrCat("sidecar of ", node.name(), " at ", node.address())) {}

  const std::unique_ptr<node::v1::NodeService::Stub> stub;
  const std::string name;
};

Client::Client(Addresses addresses, absl::Duration rpc_timeout)
    : addresses_(std::move(addresses)),
      rpc_timeout_(rpc_timeout),
      stubs_(std::make_unique<Stubs>(addresses_)) {}

Client::~Client() = default;

absl::StatusOr<registry::v1::ListNodesResponse> Client::ListNodes() {
  return CallPaged(stubs_->token_name, *stubs_->registry,
                   &registry::v1::RegistryService::Stub::ListNodes,
                   registry::v1::ListNodesRequest(), rpc_timeout_);
}

absl::StatusOr<registry::v1::ListCollectionsResponse> Client::ListCollections() {
  return CallPaged(stubs_->token_name, *stubs_->registry,
                   &registry::v1::RegistryService::Stub::ListCollections,
                   registry::v1::ListCollectionsRequest(), rpc_timeout_);
}

absl::StatusOr<registry::v1::ListReplicasResponse> Client::ListReplicas(
    const std::string& collection) {
  registry::v1::ListReplicasRequest request;
  request.set_collection(collection);
  return CallPaged(stubs_->token_name, *stubs_->registry,
                   &registry::v1::RegistryService::Stub::ListReplicas, request, rpc_timeout_);
}

absl::StatusOr<registry::v1::Collection> Client::GetCollection(const std::string& name) {
  registry::v1::GetCollectionRequest request;
  request.set_name(name);
  registry::v1::GetCollectionResponse response;
  absl::Status status =
      Call(stubs_->token_name, *stubs_->registry,
           &registry::v1::RegistryService::Stub::GetCollection, request, response, rpc_timeout_);
  if (!status.ok()) return status;
  return std::move(*response.mutable_collection());
}

absl::StatusOr<registry::v1::Collection> Client::CreateCollection(
    registry::v1::Collection collection) {
  registry::v1::CreateCollectionRequest request;
  *request.mutable_collection() = std::move(collection);
  request.set_request_id(NewRequestId());
  registry::v1::CreateCollectionResponse response;
  absl::Status status =
      Call(stubs_->token_name, *stubs_->registry,
           &registry::v1::RegistryService::Stub::CreateCollection, request, response, rpc_timeout_);
  if (!status.ok()) return status;
  return std::move(*response.mutable_collection());
}

absl::Status Client::DeleteCollection(const std::string& name, bool force) {
  registry::v1::DeleteCollectionRequest request;
  request.set_name(name);
  request.set_force(force);
  request.set_request_id(NewRequestId());
  registry::v1::DeleteCollectionResponse response;
  return Call(stubs_->token_name, *stubs_->registry,
              &registry::v1::RegistryService::Stub::DeleteCollection, request, response,
              rpc_timeout_);
}

absl::StatusOr<registry::v1::Replica> Client::AddReplica(registry::v1::Replica replica) {
  registry::v1::AddReplicaRequest request;
  *request.mutable_replica() = std::move(replica);
  request.set_request_id(NewRequestId());
  registry::v1::AddReplicaResponse response;
  absl::Status status =
      Call(stubs_->token_name, *stubs_->registry, &registry::v1::RegistryService::Stub::AddReplica,
           request, response, rpc_timeout_);
  if (!status.ok()) return status;
  return std::move(*response.mutable_replica());
}

absl::Status Client::RemoveReplica(const std::string& collection, const std::string& node) {
  registry::v1::RemoveReplicaRequest request;
  request.set_collection(collection);
  request.set_node(node);
  request.set_request_id(NewRequestId());
  registry::v1::RemoveReplicaResponse response;
  return Call(stubs_->token_name, *stubs_->registry,
              &registry::v1::RegistryService::Stub::RemoveReplica, request, response, rpc_timeout_);
}

absl::StatusOr<token::v1::Token> Client::GetToken(const std::string& collection) {
  token::v1::GetTokenRequest request;
  request.set_collection(collection);
  token::v1::GetTokenResponse response;
  absl::Status status =
      Call(stubs_->token_name, *stubs_->token, &token::v1::TokenService::Stub::GetToken, request,
           response, rpc_timeout_);
  if (!status.ok()) return status;
  return std::move(*response.mutable_token());
}

absl::Status Client::RecallToken(const std::string& collection, bool force, uint64_t epoch) {
  token::v1::RecallTokenRequest request;
  request.set_collection(collection);
  request.set_force(force);
  request.set_request_id(NewRequestId());
  request.set_epoch(epoch);
  token::v1::RecallTokenResponse response;
  return Call(stubs_->token_name, *stubs_->token, &token::v1::TokenService::Stub::RecallToken,
              request, response, rpc_timeout_);
}

absl::StatusOr<journal::v1::Journal> Client::GetJournal(const std::string& collection) {
  journal::v1::GetJournalRequest request;
  request.set_collection(collection);
  journal::v1::GetJournalResponse response;
  absl::Status status =
      Call(stubs_->journal_name, *stubs_->journal, &journal::v1::JournalService::Stub::GetJournal,
           request, response, rpc_timeout_);
  if (!status.ok()) return status;
  return std::move(*response.mutable_journal());
}

absl::StatusOr<journal::v1::ListEntriesResponse> Client::ListEntries(const std::string& collection,
                                                                     uint64_t from_seq, int count) {
  journal::v1::ListEntriesRequest request;
  request.set_collection(collection);
  request.set_from_seq(from_seq);
  journal::v1::ListEntriesResponse all;
  while (all.entries_size() < count) {
    request.set_page_size(std::min(count - all.entries_size(), kPageSize));
    journal::v1::ListEntriesResponse page;
    absl::Status status =
        Call(stubs_->journal_name, *stubs_->journal,
             &journal::v1::JournalService::Stub::ListEntries, request, page, rpc_timeout_);
    if (!status.ok()) return status;
    request.set_page_token(page.next_page_token());
    all.MergeFrom(page);
    if (request.page_token().empty()) break;
  }
  all.clear_next_page_token();
  return all;
}

absl::Status Client::Subscribe(
    const journal::v1::SubscribeRequest& request,
    const std::function<bool(const journal::v1::SubscribeResponse&)>& receive) {
  grpc::ClientContext context;
  const auto reader = stubs_->journal->Subscribe(&context, request);
  journal::v1::SubscribeResponse response;
  while (reader->Read(&response)) {
    if (receive(response)) continue;
    context.TryCancel();
    while (reader->Read(&response)) {
    }
    reader->Finish();
    return absl::OkStatus();
  }
  return Explain(stubs_->journal_name, reader->Finish());
}

absl::StatusOr<forwarder::v1::ListReplicaProgressResponse> Client::ListReplicaProgress(
    const std::string& collection) {
  forwarder::v1::ListReplicaProgressRequest request;
  request.set_collection(collection);
  forwarder::v1::ListReplicaProgressResponse response;
  absl::Status status = Call(stubs_->forwarder_name, *stubs_->forwarder,
                             &forwarder::v1::ForwarderService::Stub::ListReplicaProgress, request,
                             response, rpc_timeout_);
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<uint64_t> Client::WaitReplicas(const std::string& collection, uint64_t seq,
                                              absl::Duration timeout) {
  forwarder::v1::WaitReplicasRequest request;
  request.set_collection(collection);
  request.set_seq(seq);
  forwarder::v1::WaitReplicasResponse response;
  absl::Status status =
      Call(stubs_->forwarder_name, *stubs_->forwarder,
           &forwarder::v1::ForwarderService::Stub::WaitReplicas, request, response, timeout);
  if (!status.ok()) return status;
  return response.seq();
}

std::shared_ptr<Client::NodeStub> Client::NodeAt(const registry::v1::Node& node) {
  absl::MutexLock lock(&mu_);
  std::shared_ptr<NodeStub>& stub = nodes_[node.address()];
  if (stub == nullptr) stub = std::make_shared<NodeStub>(node);
  return stub;
}

absl::StatusOr<node::v1::GetNodeStatusResponse> Client::GetNodeStatus(
    const registry::v1::Node& node, bool cut) {
  const std::shared_ptr<NodeStub> at = NodeAt(node);
  node::v1::GetNodeStatusRequest request;
  request.set_cut(cut);
  node::v1::GetNodeStatusResponse response;
  absl::Status status = Call(at->name, *at->stub, &node::v1::NodeService::Stub::GetNodeStatus,
                             request, response, rpc_timeout_);
  if (!status.ok()) return status;
  return response;
}

namespace {

class GrpcDigestStream : public DigestStream {
 public:
  GrpcDigestStream(std::string who, node::v1::NodeService::Stub& stub,
                   const std::string& collection, absl::Duration timeout)
      : who_(std::move(who)) {
    SetDeadline(context_, timeout);
    node::v1::ListDigestsRequest request;
    request.set_collection(collection);
    reader_ = stub.ListDigests(&context_, request);
  }

  ~GrpcDigestStream() override {
    if (finished_) return;
    context_.TryCancel();
    node::v1::ListDigestsResponse ignored;
    while (reader_->Read(&ignored)) {
    }
    reader_->Finish();
  }

  bool Next(node::v1::ListDigestsResponse& response) override {
    if (finished_) return false;
    response.Clear();
    if (reader_->Read(&response)) return true;
    finished_ = true;
    status_ = Explain(who_, reader_->Finish());
    return false;
  }

  absl::Status status() override { return status_; }

 private:
  const std::string who_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<node::v1::ListDigestsResponse>> reader_;
  bool finished_ = false;
  absl::Status status_;
};

}  // namespace

std::unique_ptr<DigestStream> Client::ListDigests(const registry::v1::Node& node,
                                                  const std::string& collection,
                                                  absl::Duration timeout) {
  const std::shared_ptr<NodeStub> at = NodeAt(node);
  return std::make_unique<GrpcDigestStream>(at->name, *at->stub, collection, timeout);
}

}  // namespace intermezzo::mezzo
