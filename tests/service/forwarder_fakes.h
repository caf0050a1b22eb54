// A journal and a registry with behaviour, a forwarder between them over gRPC, and replicas as its
// clients. All in one process. Waits are for conditions, with a limit that only a failure reaches.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <prometheus/registry.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "intermezzo/forwarder/v1/forwarder.grpc.pb.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "intermezzo/registry/v1/registry.grpc.pb.h"
#include "services/common/rpc/keepalive.h"
#include "services/forwarder-service/grpc/forwarder_service.h"

namespace intermezzo::forwarder {

inline constexpr absl::Duration kLimit = absl::Seconds(30);

// A journal in memory. Chain values are its own; the forwarder does not look into them.
class FakeJournal final : public journal::v1::JournalService::Service {
 public:
  void Create(const std::string& collection, uint64_t uid);
  // Appends `count` records of `bytes` bytes with a payload of `payload` bytes; returns the head.
  uint64_t AppendRecords(const std::string& collection, int count, size_t bytes = 20,
                         size_t payload = 0, uint32_t ordinal = 1);
  void Trim(const std::string& collection, uint64_t first_seq);
  // Entries per message from now on.
  void SetBatch(int batch);
  std::string ChainAt(const std::string& collection, uint64_t seq);
  std::string RecordAt(const std::string& collection, uint64_t seq);
  // Subscribe requests so far.
  std::vector<journal::v1::SubscribeRequest> subscriptions();
  bool AwaitSubscriptions(size_t count);
  // Waits until so many Subscribe calls are open.
  bool AwaitOpen(int count);
  // Until SetCursors has given exactly these.
  bool AwaitCursors(const std::string& collection, const std::map<std::string, uint64_t>& cursors);
  // Lists of cursors that were given, in order.
  std::vector<std::map<std::string, uint64_t>> cursor_lists(const std::string& collection);
  // Its clock stands at this time from now on.
  void SetNow(absl::Time now);
  // Ends the running Subscribe calls with UNAVAILABLE (before a restart).
  void BreakStreams();

  grpc::Status Subscribe(grpc::ServerContext* context, const journal::v1::SubscribeRequest* request,
                         grpc::ServerWriter<journal::v1::SubscribeResponse>* writer) override;
  grpc::Status GetJournal(grpc::ServerContext* context,
                          const journal::v1::GetJournalRequest* request,
                          journal::v1::GetJournalResponse* response) override;
  grpc::Status ListEntries(grpc::ServerContext* context,
                           const journal::v1::ListEntriesRequest* request,
                           journal::v1::ListEntriesResponse* response) override;
  grpc::Status SetCursors(grpc::ServerContext* context,
                          const journal::v1::SetCursorsRequest* request,
                          journal::v1::SetCursorsResponse* response) override;

 private:
  int64_t NowNs() const ABSL_SHARED_LOCKS_REQUIRED(mu_);

  struct State {
    uint64_t uid = 0;
    uint64_t first_seq = 1;
    uint64_t bytes = 0;
    std::vector<record::v1::Entry> entries;  // by seq - 1, also the trimmed ones
    std::vector<uint32_t> ordinals;
    std::vector<std::map<std::string, uint64_t>> cursors;
  };

  absl::Mutex mu_;
  std::map<std::string, State> journals_ ABSL_GUARDED_BY(mu_);
  std::vector<journal::v1::SubscribeRequest> subscriptions_ ABSL_GUARDED_BY(mu_);
  int batch_ ABSL_GUARDED_BY(mu_) = 1000;
  int breaks_ ABSL_GUARDED_BY(mu_) = 0;
  int open_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<absl::Time> now_ ABSL_GUARDED_BY(mu_);
};

class FakeRegistry final : public registry::v1::RegistryService::Service {
 public:
  void AddCollection(const std::string& name, uint64_t uid);
  void RemoveCollection(const std::string& name);
  void Register(const std::string& collection, const std::string& node);
  void Unregister(const std::string& collection, const std::string& node);
  // Who has the name; before, an incarnation as ForwarderTest::HelloOf says it.
  void SetIncarnation(const std::string& node, const std::string& instance, uint32_t ordinal);

  grpc::Status ListNodes(grpc::ServerContext* context,
                         const registry::v1::ListNodesRequest* request,
                         registry::v1::ListNodesResponse* response) override;

  grpc::Status ListCollections(grpc::ServerContext* context,
                               const registry::v1::ListCollectionsRequest* request,
                               registry::v1::ListCollectionsResponse* response) override;
  grpc::Status ListReplicas(grpc::ServerContext* context,
                            const registry::v1::ListReplicasRequest* request,
                            registry::v1::ListReplicasResponse* response) override;

 private:
  absl::Mutex mu_;
  std::map<std::string, uint64_t> collections_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::vector<std::string>> replicas_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, registry::v1::Node> nodes_ ABSL_GUARDED_BY(mu_);
};

// A replica's end of a Forward stream. A thread reads all that comes.
class TestReplica {
 public:
  // `ack`: acknowledges what it gets at once.
  TestReplica(v1::ForwarderService::Stub& stub, const v1::Hello& hello, bool ack);
  ~TestReplica();

  void Ack(uint64_t seq);
  void Send(const v1::ForwardRequest& request);
  // Cuts the stream off.
  void Cancel();
  // Half-closes it.
  void Leave();

  // Waits: false where the limit passed.
  bool AwaitSeq(uint64_t seq);
  bool AwaitHeartbeat(uint64_t head_seq);
  bool AwaitNeedsSnapshot(uint64_t first_seq);
  // Session of the n-th order, empty where it did not come.
  std::string AwaitServe(size_t n = 1);
  grpc::Status AwaitEnd();
  std::vector<record::v1::Entry> entries();
  uint64_t last_seq();

 private:
  void Run(bool ack);
  bool Await(const std::function<bool()>& condition);

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ForwardRequest, v1::ForwardResponse>> stream_;
  absl::Mutex write_mu_;
  absl::Mutex mu_;
  std::vector<record::v1::Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> sessions_ ABSL_GUARDED_BY(mu_);
  uint64_t heartbeat_ ABSL_GUARDED_BY(mu_) = 0;
  int heartbeats_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t needs_snapshot_ ABSL_GUARDED_BY(mu_) = 0;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

// Everything together: collection www (uid 7) with replicas a, b and c.
class ForwarderTest : public ::testing::Test {
 protected:
  ForwarderTest();
  ~ForwarderTest() override;

  // Before Start(): what differs from the defaults.
  Options options_;
  Keepalive keepalive_;
  void Start();
  void StopJournal();
  void StartJournal();
  void StopForwarder();

  v1::Hello HelloOf(const std::string& node, uint64_t cursor = 0);
  std::unique_ptr<TestReplica> Connect(const std::string& node, uint64_t cursor = 0,
                                       bool ack = true);
  // Waits until ListReplicaProgress says so of the node.
  bool AwaitProgress(const std::string& node,
                     const std::function<bool(const v1::ReplicaProgress&)>& condition);
  std::string Scrape() const;

  FakeJournal journal_;
  FakeRegistry registry_;
  int journal_port_ = 0;
  std::string address_;  // of the forwarder
  std::unique_ptr<grpc::Server> journal_server_;
  std::unique_ptr<grpc::Server> registry_server_;
  std::shared_ptr<prometheus::Registry> metrics_ = std::make_shared<prometheus::Registry>();
  std::unique_ptr<ForwarderServiceImpl> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::ForwarderService::Stub> stub_;
};

}  // namespace intermezzo::forwarder
