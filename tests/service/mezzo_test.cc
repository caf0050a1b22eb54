// mezzo against services in this process: what it prints, the JSON it writes, its exit codes.
#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/forwarder/v1/forwarder.grpc.pb.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "intermezzo/node/v1/node.grpc.pb.h"
#include "intermezzo/registry/v1/registry.grpc.pb.h"
#include "intermezzo/token/v1/token.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "services/common/record/codec.h"
#include "services/mezzo/app.h"

namespace intermezzo::mezzo {
namespace {

using grpc::ServerContext;
using testing::HasSubstr;
using testing::Not;

grpc::Status NotFound(const std::string& what) { return {grpc::StatusCode::NOT_FOUND, what}; }

// One collection's world, kept by all the fake services together.
class FakeServices final : public registry::v1::RegistryService::Service,
                           public token::v1::TokenService::Service,
                           public journal::v1::JournalService::Service,
                           public forwarder::v1::ForwarderService::Service,
                           public node::v1::NodeService::Service {
 public:
  std::map<std::string, registry::v1::Collection> collections;
  std::vector<registry::v1::Node> nodes;
  std::vector<registry::v1::Replica> replicas;
  token::v1::Token token;
  std::vector<record::v1::Entry> entries;
  uint64_t slowest_seq = 0;  // of all replicas
  node::v1::GetNodeStatusResponse node_status;
  std::vector<node::v1::ListDigestsResponse> digests;
  // So many comparisons find a replica that moves, so many node states are not told in time.
  int moving_digests = 0;
  int late_node_status = 0;
  // Called before a node's state is told.
  std::function<void(bool cut)> before_node_status;
  absl::Mutex mu;  // of what changes while a command runs

  grpc::Status ListNodes(ServerContext*, const registry::v1::ListNodesRequest* request,
                         registry::v1::ListNodesResponse* response) override {
    // A page holds one node, so that paging is needed.
    const size_t at = request->page_token().empty() ? 0 : std::stoul(request->page_token());
    if (at < nodes.size()) *response->add_nodes() = nodes[at];
    if (at + 1 < nodes.size()) response->set_next_page_token(absl::StrCat(at + 1));
    return grpc::Status::OK;
  }
  grpc::Status ListCollections(ServerContext*, const registry::v1::ListCollectionsRequest*,
                               registry::v1::ListCollectionsResponse* response) override {
    for (const auto& [name, collection] : collections) *response->add_collections() = collection;
    return grpc::Status::OK;
  }
  grpc::Status GetCollection(ServerContext*, const registry::v1::GetCollectionRequest* request,
                             registry::v1::GetCollectionResponse* response) override {
    const auto found = collections.find(request->name());
    if (found == collections.end()) return NotFound("no collection " + request->name());
    *response->mutable_collection() = found->second;
    return grpc::Status::OK;
  }
  grpc::Status CreateCollection(ServerContext*,
                                const registry::v1::CreateCollectionRequest* request,
                                registry::v1::CreateCollectionResponse* response) override {
    if (request->request_id().empty()) return {grpc::StatusCode::INVALID_ARGUMENT, "request_id"};
    registry::v1::Collection collection = request->collection();
    if (collections.count(collection.name()) > 0) {
      return {grpc::StatusCode::ALREADY_EXISTS, "it exists"};
    }
    collection.set_uid(42);
    collections[collection.name()] = collection;
    *response->mutable_collection() = collection;
    return grpc::Status::OK;
  }
  grpc::Status DeleteCollection(ServerContext*,
                                const registry::v1::DeleteCollectionRequest* request,
                                registry::v1::DeleteCollectionResponse*) override {
    if (collections.erase(request->name()) == 0) return NotFound("no such collection");
    return grpc::Status::OK;
  }
  grpc::Status AddReplica(ServerContext*, const registry::v1::AddReplicaRequest* request,
                          registry::v1::AddReplicaResponse* response) override {
    replicas.push_back(request->replica());
    *response->mutable_replica() = request->replica();
    return grpc::Status::OK;
  }
  grpc::Status RemoveReplica(ServerContext*, const registry::v1::RemoveReplicaRequest* request,
                             registry::v1::RemoveReplicaResponse*) override {
    const size_t before = replicas.size();
    std::erase_if(replicas, [&](const auto& r) {
      return r.collection() == request->collection() && r.node() == request->node();
    });
    return before == replicas.size() ? NotFound("no such replica") : grpc::Status::OK;
  }
  grpc::Status ListReplicas(ServerContext*, const registry::v1::ListReplicasRequest* request,
                            registry::v1::ListReplicasResponse* response) override {
    for (const auto& replica : replicas) {
      if (request->collection().empty() || replica.collection() == request->collection()) {
        *response->add_replicas() = replica;
      }
    }
    return grpc::Status::OK;
  }
  grpc::Status GetToken(ServerContext*, const token::v1::GetTokenRequest* request,
                        token::v1::GetTokenResponse* response) override {
    if (collections.count(request->collection()) == 0) return NotFound("no such collection");
    *response->mutable_token() = token;
    return grpc::Status::OK;
  }
  grpc::Status RecallToken(ServerContext*, const token::v1::RecallTokenRequest* request,
                           token::v1::RecallTokenResponse*) override {
    if (request->epoch() != token.epoch()) return {grpc::StatusCode::INVALID_ARGUMENT, "epoch"};
    if (request->force()) token.clear_holder();
    token.set_recalling(true);
    return grpc::Status::OK;
  }
  grpc::Status GetJournal(ServerContext*, const journal::v1::GetJournalRequest* request,
                          journal::v1::GetJournalResponse* response) override {
    if (collections.count(request->collection()) == 0) return NotFound("no such journal");
    response->mutable_journal()->set_collection(request->collection());
    response->mutable_journal()->set_head_seq(entries.size());
    response->mutable_journal()->set_first_seq(1);
    return grpc::Status::OK;
  }
  grpc::Status ListEntries(ServerContext*, const journal::v1::ListEntriesRequest* request,
                           journal::v1::ListEntriesResponse* response) override {
    for (const auto& entry : entries) {
      if (entry.seq() >= request->from_seq() && response->entries_size() < request->page_size()) {
        *response->add_entries() = entry;
      }
    }
    return grpc::Status::OK;
  }
  grpc::Status Subscribe(ServerContext* context, const journal::v1::SubscribeRequest* request,
                         grpc::ServerWriter<journal::v1::SubscribeResponse>* writer) override {
    for (const auto& entry : entries) {
      if (entry.seq() < request->from_seq()) continue;
      journal::v1::SubscribeResponse response;
      *response.add_entries() = entry;
      if (!writer->Write(response)) break;
    }
    while (!context->IsCancelled() && writer->Write({})) {
    }
    return grpc::Status::CANCELLED;
  }
  grpc::Status ListReplicaProgress(ServerContext*, const forwarder::v1::ListReplicaProgressRequest*,
                                   forwarder::v1::ListReplicaProgressResponse* response) override {
    for (const auto& replica : replicas) {
      auto* progress = response->add_replicas();
      progress->set_collection(replica.collection());
      progress->set_node(replica.node());
      progress->set_state(forwarder::v1::REPLICA_STATE_LIVE);
      progress->set_applied_seq(slowest_seq);
      progress->set_head_seq(entries.size());
      progress->set_lag_records(entries.size() - slowest_seq);
      progress->set_lag_bytes(2048);
      progress->mutable_lag()->set_nanos(1500000);
    }
    return grpc::Status::OK;
  }
  grpc::Status WaitReplicas(ServerContext* context,
                            const forwarder::v1::WaitReplicasRequest* request,
                            forwarder::v1::WaitReplicasResponse* response) override {
    if (slowest_seq < request->seq()) {
      return {grpc::StatusCode::DEADLINE_EXCEEDED, "not yet"};
    }
    response->set_seq(request->seq());
    return grpc::Status::OK;
  }
  grpc::Status GetNodeStatus(ServerContext*, const node::v1::GetNodeStatusRequest* request,
                             node::v1::GetNodeStatusResponse* response) override {
    absl::MutexLock lock(&mu);
    if (late_node_status > 0) {
      --late_node_status;
      return {grpc::StatusCode::DEADLINE_EXCEEDED, "not in time"};
    }
    if (before_node_status) before_node_status(request->cut());
    *response = node_status;
    return grpc::Status::OK;
  }
  grpc::Status ListDigests(ServerContext*, const node::v1::ListDigestsRequest*,
                           grpc::ServerWriter<node::v1::ListDigestsResponse>* writer) override {
    absl::MutexLock lock(&mu);
    const bool moves = moving_digests > 0;
    if (moves) --moving_digests;
    for (size_t i = 0; i < digests.size(); ++i) {
      node::v1::ListDigestsResponse message = digests[i];
      if (moves && i + 1 == digests.size()) message.set_cursor(message.cursor() + 1);
      writer->Write(message);
    }
    return grpc::Status::OK;
  }
};

record::v1::Entry EntryOf(uint64_t seq) {
  record::v1::Record record;
  record.set_version((uint64_t{1} << 40) | seq);
  record.set_epoch(3);
  auto* write = record.mutable_write();
  write->set_object((uint64_t{1} << 40) | 7);
  write->add_extents()->set_offset(8192);
  write->mutable_extents(0)->set_length(5);
  write->set_size(8197);
  write->mutable_mtime()->set_seconds(1700000000);
  auto* touch = record.add_touches();
  touch->set_object(write->object());
  touch->set_aspect(record::v1::ASPECT_DATA);
  touch->set_against(1);
  record::v1::Entry entry = SealEntry(record, "hello");
  entry.set_seq(seq);
  entry.set_payload_length(5);
  return entry;
}

class MezzoTest : public testing::Test {
 protected:
  MezzoTest() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(static_cast<registry::v1::RegistryService::Service*>(&fake_));
    builder.RegisterService(static_cast<token::v1::TokenService::Service*>(&fake_));
    builder.RegisterService(static_cast<journal::v1::JournalService::Service*>(&fake_));
    builder.RegisterService(static_cast<forwarder::v1::ForwarderService::Service*>(&fake_));
    builder.RegisterService(static_cast<node::v1::NodeService::Service*>(&fake_));
    server_ = builder.BuildAndStart();

    for (const char* name : {"node-1", "node-2"}) {
      registry::v1::Node node;
      node.set_name(name);
      node.set_ordinal(name[5] - '0');
      node.set_address(Address());
      node.set_connected(true);
      fake_.nodes.push_back(node);
    }
  }
  ~MezzoTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string Address() const { return absl::StrCat("127.0.0.1:", port_); }

  // A collection www with replicas on both nodes and two records that all have.
  void AddWww() {
    fake_.collections["www"].set_name("www");
    fake_.collections["www"].set_uid(9);
    for (const auto& node : fake_.nodes) {
      registry::v1::Replica replica;
      replica.set_collection("www");
      replica.set_node(node.name());
      replica.set_mount_dir("/srv/" + node.name());
      fake_.replicas.push_back(replica);
    }
    fake_.token.set_collection("www");
    fake_.token.set_holder("node-1");
    fake_.token.set_epoch(3);
    fake_.entries = {EntryOf(1), EntryOf(2)};
    fake_.slowest_seq = 2;
    auto* status = fake_.node_status.add_replicas();
    status->set_collection("www");
    status->set_connection(node::v1::CONNECTION_CONNECTED);
    fake_.digests.resize(3);
    fake_.digests[0].set_cursor(2);
    fake_.digests[1].add_digests()->set_kind(record::v1::OBJECT_KIND_DIRECTORY);
    fake_.digests[2].set_cursor(2);
  }

  ExitCode Mezzo(std::vector<std::string> arguments) {
    for (const char* flag : {"--token-address", "--journal-address", "--forwarder-address"}) {
      arguments.insert(arguments.end(), {flag, Address()});
    }
    out_.str("");
    err_.str("");
    return RunMezzo(
        arguments, [](const char*) { return std::nullopt; }, out_, err_, false);
  }

  int port_ = 0;
  FakeServices fake_;
  std::unique_ptr<grpc::Server> server_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(MezzoTest, CollectionIsCreatedShownListedAndDeleted) {
  ASSERT_EQ(Mezzo({"collection", "create", "www", "--offline-writes", "deny", "--retention", "1h"}),
            ExitCode::kOk)
      << err_.str();
  EXPECT_EQ(fake_.collections["www"].offline_writes(), registry::v1::OFFLINE_WRITES_DENY);
  EXPECT_EQ(fake_.collections["www"].retention().seconds(), 3600);
  EXPECT_EQ(Mezzo({"collection", "create", "www"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("it exists"));
  EXPECT_EQ(Mezzo({"collection", "show", "www"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("deny"));
  EXPECT_EQ(Mezzo({"collection", "list", "-o", "json"}), ExitCode::kOk);
  EXPECT_EQ(nlohmann::json::parse(out_.str())["collections"][0]["uid"], "42");
  EXPECT_EQ(Mezzo({"collection", "delete", "www"}), ExitCode::kOk);
  EXPECT_EQ(Mezzo({"collection", "show", "www"}), ExitCode::kNotFound);
}

TEST_F(MezzoTest, AnErrorSaysWhatWhereAndWhatToDo) {
  EXPECT_EQ(Mezzo({"collection", "show", "nope"}), ExitCode::kNotFound);
  EXPECT_EQ(out_.str(), "");
  EXPECT_THAT(err_.str(), HasSubstr("no collection nope"));
  EXPECT_THAT(err_.str(), HasSubstr("token-service at " + Address()));
  EXPECT_THAT(err_.str(), HasSubstr("hint: "));
}

TEST_F(MezzoTest, AServiceThatIsNotThereIsExitCodeFour) {
  server_->Shutdown();
  EXPECT_EQ(Mezzo({"status"}), ExitCode::kUnreachable);
}

TEST_F(MezzoTest, BadArgumentsAreExitCodeTwo) {
  EXPECT_EQ(Mezzo({"collection", "create", "Not A Name"}), ExitCode::kUsage);
  EXPECT_EQ(Mezzo({"wait", "www", "--timeout", "soon"}), ExitCode::kUsage);
  EXPECT_EQ(Mezzo({"frobnicate"}), ExitCode::kUsage);
  EXPECT_EQ(Mezzo({"status", "-o", "xml"}), ExitCode::kUsage);
}

TEST_F(MezzoTest, NodesOfAllPagesAreListed) {
  EXPECT_EQ(Mezzo({"node", "list"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("node-1"));
  EXPECT_THAT(out_.str(), HasSubstr("node-2"));
}

TEST_F(MezzoTest, StatusShowsTokenAndLag) {
  AddWww();
  fake_.slowest_seq = 1;
  EXPECT_EQ(Mezzo({"status"}), ExitCode::kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("TOKEN HOLDER"));
  EXPECT_THAT(out_.str(), HasSubstr("2.0 KiB"));
  EXPECT_THAT(out_.str(), HasSubstr("1.5 ms"));
  EXPECT_EQ(Mezzo({"status", "www", "--check"}), ExitCode::kDifferences);
  EXPECT_THAT(err_.str(), HasSubstr("1 records behind"));
  fake_.slowest_seq = 2;
  EXPECT_EQ(Mezzo({"status", "www", "--check"}), ExitCode::kOk) << err_.str();
  EXPECT_EQ(Mezzo({"status", "-o", "json"}), ExitCode::kOk);
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["tokens"][0]["epoch"], "3");
  EXPECT_EQ(json["progress"][1]["state"], "REPLICA_STATE_LIVE");
}

TEST_F(MezzoTest, ReplicaIsAddedAwaitedListedAndRemoved) {
  AddWww();
  fake_.replicas.clear();
  EXPECT_EQ(Mezzo({"replica", "add", "www", "node-1", "--lower", "/l", "--mount", "/m", "--wait"}),
            ExitCode::kOk)
      << err_.str();
  ASSERT_EQ(fake_.replicas.size(), 1u);
  EXPECT_EQ(fake_.replicas[0].lower_dir(), "/l");
  EXPECT_EQ(Mezzo({"replica", "list"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("/m"));
  EXPECT_EQ(Mezzo({"replica", "remove", "www", "node-1"}), ExitCode::kOk);
  EXPECT_EQ(Mezzo({"replica", "remove", "www", "node-1"}), ExitCode::kNotFound);
}

TEST_F(MezzoTest, AReplicaThatFailsWhileItIsAddedIsAnErrorWithItsReason) {
  AddWww();
  auto* status = fake_.node_status.mutable_replicas(0);
  status->set_connection(node::v1::CONNECTION_FAILED);
  status->set_error("the disk is read-only");
  EXPECT_EQ(Mezzo({"replica", "add", "www", "node-1", "--lower", "/l", "--mount", "/m", "--wait"}),
            ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("the disk is read-only"));
}

TEST_F(MezzoTest, TokenReleaseWaitsForTheHolder) {
  AddWww();
  EXPECT_EQ(Mezzo({"token", "release", "www", "--timeout", "50ms"}), ExitCode::kDeadlineExceeded);
  EXPECT_THAT(err_.str(), HasSubstr("'node-1' was asked"));
  EXPECT_EQ(Mezzo({"token", "release", "www", "--force"}), ExitCode::kOk) << err_.str();
  EXPECT_EQ(Mezzo({"token", "show", "www", "-o", "json"}), ExitCode::kOk);
  EXPECT_EQ(nlohmann::json::parse(out_.str())["holder"], "");
}

TEST_F(MezzoTest, JournalTailPrintsRecordsAsPeopleReadThem) {
  AddWww();
  EXPECT_EQ(Mezzo({"journal", "tail", "www", "--count", "2"}), ExitCode::kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("node-1"));
  EXPECT_THAT(out_.str(), HasSubstr("write"));
  EXPECT_EQ(Mezzo({"journal", "tail", "www", "-n", "1", "--count", "1", "-o", "json"}),
            ExitCode::kOk);
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["entry"]["seq"], "2");
  EXPECT_EQ(json["record"]["write"]["size"], "8197");
}

TEST_F(MezzoTest, JournalShowKnowsTheStateAndSingleRecords) {
  AddWww();
  EXPECT_EQ(Mezzo({"journal", "show", "www"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("HEAD"));
  EXPECT_EQ(Mezzo({"journal", "show", "www", "--seq", "2"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("size: 8197"));
  EXPECT_EQ(Mezzo({"journal", "show", "www", "--seq", "3"}), ExitCode::kNotFound);
}

TEST_F(MezzoTest, WaitEndsWithTheSeqOrSaysWhoIsBehind) {
  AddWww();
  EXPECT_EQ(Mezzo({"wait", "www", "--settled", "-o", "json"}), ExitCode::kOk) << err_.str();
  EXPECT_EQ(nlohmann::json::parse(out_.str())["seq"], "2");
  fake_.slowest_seq = 1;
  EXPECT_EQ(Mezzo({"wait", "www", "--timeout", "100ms"}), ExitCode::kDeadlineExceeded);
  EXPECT_THAT(err_.str(), HasSubstr("node-2 at seq 1"));
  EXPECT_EQ(Mezzo({"wait", "nope", "--timeout", "100ms"}), ExitCode::kNotFound);
}

TEST_F(MezzoTest, WaitCountsWhatNodesHaveWrittenAndNotSent) {
  AddWww();
  // Three records are at the node (the last is made of what is written when it is asked); each time
  // it is looked at, one more is in the journal.
  auto* status = fake_.node_status.mutable_replicas(0);
  status->set_last_origin_seq(2);
  status->set_settled_origin_seq(0);
  int cuts = 0;
  fake_.before_node_status = [&](bool cut) {
    if (cut && cuts++ == 0) {
      status->set_last_origin_seq(3);
    } else if (status->settled_origin_seq() < 10) {
      status->set_settled_origin_seq(status->settled_origin_seq() + 1);
      // The writer goes on: what it adds later is not waited for.
      status->set_last_origin_seq(status->last_origin_seq() + 1);
      fake_.entries.push_back(EntryOf(fake_.entries.size() + 1));
      ++fake_.slowest_seq;
    }
    status->set_pending_records(status->last_origin_seq() - status->settled_origin_seq());
  };
  fake_.nodes.pop_back();
  fake_.replicas.pop_back();
  EXPECT_EQ(Mezzo({"wait", "www", "-o", "json"}), ExitCode::kOk) << err_.str();
  EXPECT_EQ(cuts, 1);
  EXPECT_EQ(status->settled_origin_seq(), 3u);
  EXPECT_EQ(nlohmann::json::parse(out_.str())["seq"], "5");
  // A given seq is waited for as it is.
  fake_.before_node_status = [](bool) { FAIL() << "no node is asked"; };
  EXPECT_EQ(Mezzo({"wait", "www", "--seq", "2"}), ExitCode::kOk) << err_.str();
}

TEST_F(MezzoTest, WaitSaysWhoHasRecordsThatAreNotSent) {
  AddWww();
  auto* status = fake_.node_status.mutable_replicas(0);
  status->set_last_origin_seq(7);
  status->set_settled_origin_seq(3);
  status->set_pending_records(4);
  EXPECT_EQ(Mezzo({"wait", "www", "--timeout", "100ms"}), ExitCode::kDeadlineExceeded);
  EXPECT_THAT(err_.str(), HasSubstr("node-1 has 4 records"));
  // Coming back with records to replay is the same wait.
  status->set_settled_origin_seq(7);
  status->set_connection(node::v1::CONNECTION_RECONNECTING);
  EXPECT_EQ(Mezzo({"wait", "www", "--timeout", "100ms"}), ExitCode::kUnreachable);
  EXPECT_THAT(err_.str(), HasSubstr("node-1 is reconnecting with 4 records"));
  status->set_connection(node::v1::CONNECTION_FAILED);
  status->set_error("the disk is read-only");
  EXPECT_EQ(Mezzo({"wait", "www", "--timeout", "10s"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("the disk is read-only"));
  // A node that is not connected is named, and not waited for.
  status->set_connection(node::v1::CONNECTION_DISCONNECTED);
  for (auto& node : fake_.nodes) node.set_connected(false);
  EXPECT_EQ(Mezzo({"wait", "www"}), ExitCode::kOk);
  EXPECT_THAT(err_.str(), HasSubstr("not connected: node-1, node-2"));
}

TEST_F(MezzoTest, StatusShowsPendingRecordsAlsoOfNodesThatAreCutOff) {
  AddWww();
  auto* status = fake_.node_status.mutable_replicas(0);
  status->set_connection(node::v1::CONNECTION_RECONNECTING);
  status->set_pending_records(1234);
  EXPECT_EQ(Mezzo({"status"}), ExitCode::kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("1,234"));
  EXPECT_THAT(out_.str(), HasSubstr("reconnecting"));
  for (auto& node : fake_.nodes) node.set_connected(false);
  EXPECT_EQ(Mezzo({"status"}), ExitCode::kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("1,234"));
}

TEST_F(MezzoTest, VerifyTriesAgainWhereReplicasMovedOrWereLate) {
  AddWww();
  fake_.moving_digests = 5;  // two replicas: three comparisons
  fake_.late_node_status = 1;
  EXPECT_EQ(Mezzo({"verify", "www"}), ExitCode::kOk) << err_.str();
  EXPECT_EQ(fake_.moving_digests, 0);
  EXPECT_EQ(fake_.late_node_status, 0);
  EXPECT_THAT(out_.str(), HasSubstr("the same"));
}

TEST_F(MezzoTest, VerifyComparesReplicasThatStandStill) {
  AddWww();
  EXPECT_EQ(Mezzo({"verify", "www"}), ExitCode::kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("the same"));
  EXPECT_EQ(Mezzo({"verify", "www", "-o", "json"}), ExitCode::kOk);
  EXPECT_EQ(nlohmann::json::parse(out_.str())["inSync"], true);
}

TEST_F(MezzoTest, VerifyGivesUpOnReplicasThatKeepMoving) {
  AddWww();
  fake_.digests[2].set_cursor(3);
  EXPECT_EQ(Mezzo({"verify", "www", "--timeout", "200ms"}), ExitCode::kDeadlineExceeded);
  EXPECT_THAT(err_.str(), HasSubstr("moved from seq 2 to 3"));
  EXPECT_THAT(err_.str(), HasSubstr(" tries within 200.0 ms"));
}

TEST_F(MezzoTest, HelpAndCompletionNeedNoServer) {
  server_->Shutdown();
  EXPECT_EQ(Mezzo({"--help"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("Exit codes:"));
  for (const char* shell : {"bash", "zsh"}) {
    EXPECT_EQ(Mezzo({"completion", shell}), ExitCode::kOk);
    EXPECT_THAT(out_.str(), HasSubstr("'collection create'"));
    EXPECT_THAT(out_.str(), Not(HasSubstr("'__complete nodes'")));
  }
  EXPECT_EQ(Mezzo({"version"}), ExitCode::kOk);
}

}  // namespace
}  // namespace intermezzo::mezzo
