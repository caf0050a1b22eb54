#include "tests/service/forwarder_fakes.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <sstream>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/rpc/channel.h"

namespace intermezzo::forwarder {
namespace {

std::string Chain(const std::string& collection, uint64_t seq) {
  return seq == 0 ? "" : absl::StrCat("chain-", collection, "-", seq);
}

}  // namespace

// ---- FakeJournal -------------------------------------------------------------------------------

void FakeJournal::Create(const std::string& collection, uint64_t uid) {
  absl::MutexLock lock(&mu_);
  journals_[collection].uid = uid;
}

uint64_t FakeJournal::AppendRecords(const std::string& collection, int count, size_t bytes,
                                    size_t payload, uint32_t ordinal) {
  absl::MutexLock lock(&mu_);
  State& state = journals_[collection];
  for (int i = 0; i < count; ++i) {
    record::v1::Entry entry;
    uint64_t seq = state.entries.size() + 1;
    entry.set_seq(seq);
    record::v1::Record record;
    record.set_version(Version(Ordinal(ordinal), seq).value());
    std::string& padding = *record.mutable_create()->mutable_symlink_target();
    padding.resize(1);
    padding.resize(bytes - (record.ByteSizeLong() - 1));
    entry.set_record(record.SerializeAsString());
    entry.set_payload(std::string(payload, 'p'));
    entry.set_payload_length(payload);
    entry.set_chain(Chain(collection, seq));
    entry.set_committed_ns(NowNs());
    state.bytes += entry.record().size() + payload;
    state.entries.push_back(std::move(entry));
    state.ordinals.push_back(ordinal);
  }
  return state.entries.size();
}

void FakeJournal::Trim(const std::string& collection, uint64_t first_seq) {
  absl::MutexLock lock(&mu_);
  journals_[collection].first_seq = first_seq;
}

void FakeJournal::SetBatch(int batch) {
  absl::MutexLock lock(&mu_);
  batch_ = batch;
}

std::string FakeJournal::ChainAt(const std::string& collection, uint64_t seq) {
  return Chain(collection, seq);
}

std::string FakeJournal::RecordAt(const std::string& collection, uint64_t seq) {
  absl::MutexLock lock(&mu_);
  return journals_[collection].entries[seq - 1].record();
}

std::vector<journal::v1::SubscribeRequest> FakeJournal::subscriptions() {
  absl::MutexLock lock(&mu_);
  return subscriptions_;
}

bool FakeJournal::AwaitSubscriptions(size_t count) {
  absl::MutexLock lock(&mu_);
  auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return subscriptions_.size() >= count; };
  return mu_.AwaitWithTimeout(absl::Condition(&enough), kLimit);
}

bool FakeJournal::AwaitOpen(int count) {
  absl::MutexLock lock(&mu_);
  auto so_many = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return open_ == count; };
  return mu_.AwaitWithTimeout(absl::Condition(&so_many), kLimit);
}

bool FakeJournal::AwaitCursors(const std::string& collection,
                               const std::map<std::string, uint64_t>& cursors) {
  absl::MutexLock lock(&mu_);
  auto given = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const auto& lists = journals_[collection].cursors;
    return !lists.empty() && lists.back() == cursors;
  };
  return mu_.AwaitWithTimeout(absl::Condition(&given), kLimit);
}

std::vector<std::map<std::string, uint64_t>> FakeJournal::cursor_lists(
    const std::string& collection) {
  absl::MutexLock lock(&mu_);
  return journals_[collection].cursors;
}

void FakeJournal::SetNow(absl::Time now) {
  absl::MutexLock lock(&mu_);
  now_ = now;
}

int64_t FakeJournal::NowNs() const { return absl::ToUnixNanos(now_.value_or(absl::Now())); }

void FakeJournal::BreakStreams() {
  absl::MutexLock lock(&mu_);
  ++breaks_;
}

grpc::Status FakeJournal::Subscribe(grpc::ServerContext* context,
                                    const journal::v1::SubscribeRequest* request,
                                    grpc::ServerWriter<journal::v1::SubscribeResponse>* writer) {
  int breaks;
  uint64_t next = request->from_seq();
  {
    absl::MutexLock lock(&mu_);
    breaks = breaks_;
    subscriptions_.push_back(*request);
    auto it = journals_.find(request->collection());
    if (it == journals_.end()) return {grpc::StatusCode::NOT_FOUND, "no such journal"};
    State& state = it->second;
    if (next < state.first_seq || next > state.entries.size() + 1) {
      return {grpc::StatusCode::OUT_OF_RANGE, "not there"};
    }
    if (request->previous_chain() != Chain(request->collection(), next - 1)) {
      return {grpc::StatusCode::DATA_LOSS, "another chain"};
    }
    ++open_;
  }
  const auto closed = absl::MakeCleanup([this] {
    absl::MutexLock lock(&mu_);
    --open_;
  });
  // The first message says the head, with or without entries; so does a heartbeat.
  bool first = true;
  while (!context->IsCancelled()) {
    journal::v1::SubscribeResponse response;
    {
      absl::MutexLock lock(&mu_);
      State& state = journals_[request->collection()];
      auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return first || breaks_ != breaks || state.entries.size() >= next;
      };
      // Only so long that a cancelled call is noticed.
      if (!mu_.AwaitWithTimeout(absl::Condition(&ready), absl::Milliseconds(100))) continue;
      if (breaks_ != breaks) return {grpc::StatusCode::UNAVAILABLE, "the journal goes down"};
      first = false;
      // As the real one: messages of at most 4 MiB, or of one entry.
      size_t bytes = 0;
      for (int n = 0; n < batch_ && next <= state.entries.size(); ++n, ++next) {
        bytes += state.entries[next - 1].ByteSizeLong();
        if (n > 0 && bytes > 4 << 20) break;
        record::v1::Entry& entry = *response.add_entries();
        entry = state.entries[next - 1];
        if (state.ordinals[next - 1] == request->skip_payloads_of()) entry.clear_payload();
      }
      response.set_head_seq(state.entries.size());
      response.set_head_bytes(state.bytes);
      response.set_now_ns(NowNs());
    }
    if (!writer->Write(response)) break;
  }
  return grpc::Status::CANCELLED;
}

grpc::Status FakeJournal::GetJournal(grpc::ServerContext* context,
                                     const journal::v1::GetJournalRequest* request,
                                     journal::v1::GetJournalResponse* response) {
  absl::MutexLock lock(&mu_);
  auto it = journals_.find(request->collection());
  if (it == journals_.end()) return {grpc::StatusCode::NOT_FOUND, "no such journal"};
  journal::v1::Journal& journal = *response->mutable_journal();
  journal.set_collection(request->collection());
  journal.set_uid(it->second.uid);
  journal.set_head_seq(it->second.entries.size());
  journal.set_first_seq(it->second.first_seq);
  journal.set_head_bytes(it->second.bytes);
  return grpc::Status::OK;
}

grpc::Status FakeJournal::ListEntries(grpc::ServerContext* context,
                                      const journal::v1::ListEntriesRequest* request,
                                      journal::v1::ListEntriesResponse* response) {
  absl::MutexLock lock(&mu_);
  const State& state = journals_[request->collection()];
  uint64_t from = request->from_seq() == 0 ? state.first_seq : request->from_seq();
  if (from < state.first_seq) return {grpc::StatusCode::OUT_OF_RANGE, "trimmed"};
  for (uint64_t seq = from;
       seq <= state.entries.size() && response->entries_size() < request->page_size(); ++seq) {
    *response->add_entries() = state.entries[seq - 1];
    response->mutable_entries()->rbegin()->clear_payload();
  }
  response->set_now_ns(NowNs());
  return grpc::Status::OK;
}

grpc::Status FakeJournal::SetCursors(grpc::ServerContext* context,
                                     const journal::v1::SetCursorsRequest* request,
                                     journal::v1::SetCursorsResponse* response) {
  std::map<std::string, uint64_t> cursors;
  for (const journal::v1::Cursor& cursor : request->cursors()) {
    cursors[cursor.node()] = cursor.seq();
  }
  absl::MutexLock lock(&mu_);
  journals_[request->collection()].cursors.push_back(std::move(cursors));
  return grpc::Status::OK;
}

// ---- FakeRegistry ------------------------------------------------------------------------------

void FakeRegistry::AddCollection(const std::string& name, uint64_t uid) {
  absl::MutexLock lock(&mu_);
  collections_[name] = uid;
}

void FakeRegistry::RemoveCollection(const std::string& name) {
  absl::MutexLock lock(&mu_);
  collections_.erase(name);
  replicas_.erase(name);
}

void FakeRegistry::Register(const std::string& collection, const std::string& node) {
  absl::MutexLock lock(&mu_);
  replicas_[collection].push_back(node);
  auto [it, added] = nodes_.try_emplace(node);
  if (!added) return;
  it->second.set_name(node);
  it->second.set_instance("instance-" + node);
  it->second.set_ordinal(100 + node[0]);
}

void FakeRegistry::Unregister(const std::string& collection, const std::string& node) {
  absl::MutexLock lock(&mu_);
  std::erase(replicas_[collection], node);
}

void FakeRegistry::SetIncarnation(const std::string& node, const std::string& instance,
                                  uint32_t ordinal) {
  absl::MutexLock lock(&mu_);
  nodes_[node].set_name(node);
  nodes_[node].set_instance(instance);
  nodes_[node].set_ordinal(ordinal);
}

// Pages of one node.
grpc::Status FakeRegistry::ListNodes(grpc::ServerContext* context,
                                     const registry::v1::ListNodesRequest* request,
                                     registry::v1::ListNodesResponse* response) {
  absl::MutexLock lock(&mu_);
  auto it = nodes_.upper_bound(request->page_token());
  if (it == nodes_.end()) return grpc::Status::OK;
  *response->add_nodes() = it->second;
  if (std::next(it) != nodes_.end()) response->set_next_page_token(it->first);
  return grpc::Status::OK;
}

grpc::Status FakeRegistry::ListCollections(grpc::ServerContext* context,
                                           const registry::v1::ListCollectionsRequest* request,
                                           registry::v1::ListCollectionsResponse* response) {
  absl::MutexLock lock(&mu_);
  for (const auto& [name, uid] : collections_) {
    registry::v1::Collection& collection = *response->add_collections();
    collection.set_name(name);
    collection.set_uid(uid);
  }
  return grpc::Status::OK;
}

// Pages of one replica, so that paging is used.
grpc::Status FakeRegistry::ListReplicas(grpc::ServerContext* context,
                                        const registry::v1::ListReplicasRequest* request,
                                        registry::v1::ListReplicasResponse* response) {
  absl::MutexLock lock(&mu_);
  size_t skip = request->page_token().empty() ? 0 : std::stoul(request->page_token());
  size_t n = 0;
  for (const auto& [name, nodes] : replicas_) {
    for (const std::string& node : nodes) {
      if (n++ < skip) continue;
      if (response->replicas_size() == 1) {
        response->set_next_page_token(absl::StrCat(skip + 1));
        return grpc::Status::OK;
      }
      registry::v1::Replica& replica = *response->add_replicas();
      replica.set_collection(name);
      replica.set_node(node);
      replica.set_collection_uid(collections_[name]);
    }
  }
  return grpc::Status::OK;
}

// ---- TestReplica -------------------------------------------------------------------------------

TestReplica::TestReplica(v1::ForwarderService::Stub& stub, const v1::Hello& hello, bool ack)
    : stream_(stub.Forward(&context_)) {
  v1::ForwardRequest request;
  *request.mutable_hello() = hello;
  Send(request);
  thread_ = std::thread([this, ack] { Run(ack); });
}

TestReplica::~TestReplica() {
  Cancel();
  thread_.join();
}

void TestReplica::Run(bool ack) {
  v1::ForwardResponse response;
  while (stream_->Read(&response)) {
    uint64_t last = 0;
    {
      absl::MutexLock lock(&mu_);
      switch (response.message_case()) {
        case v1::ForwardResponse::kServe:
          sessions_.push_back(response.serve().session());
          break;
        case v1::ForwardResponse::kNeedsSnapshot:
          needs_snapshot_ = response.needs_snapshot().first_seq();
          break;
        default:
          for (const record::v1::Entry& entry : response.entries().entries()) {
            last = entry.seq();
            entries_.push_back(entry);
          }
          if (last != 0) break;
          heartbeat_ = response.entries().head_seq();
          ++heartbeats_;
      }
    }
    if (ack && last != 0) Ack(last);
  }
  grpc::Status status = stream_->Finish();
  absl::MutexLock lock(&mu_);
  ended_ = true;
  status_ = status;
}

void TestReplica::Ack(uint64_t seq) {
  v1::ForwardRequest request;
  request.mutable_ack()->set_seq(seq);
  Send(request);
}

void TestReplica::Send(const v1::ForwardRequest& request) {
  absl::MutexLock lock(&write_mu_);
  stream_->Write(request);
}

void TestReplica::Cancel() { context_.TryCancel(); }

void TestReplica::Leave() {
  absl::MutexLock lock(&write_mu_);
  stream_->WritesDone();
}

bool TestReplica::Await(const std::function<bool()>& condition) {
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(&condition), kLimit);
}

bool TestReplica::AwaitSeq(uint64_t seq) {
  return Await([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return !entries_.empty() && entries_.back().seq() >= seq;
  });
}

bool TestReplica::AwaitHeartbeat(uint64_t head_seq) {
  return Await(
      [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return heartbeats_ > 0 && heartbeat_ >= head_seq; });
}

bool TestReplica::AwaitNeedsSnapshot(uint64_t first_seq) {
  return Await([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return needs_snapshot_ == first_seq; });
}

std::string TestReplica::AwaitServe(size_t n) {
  Await([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return sessions_.size() >= n; });
  absl::MutexLock lock(&mu_);
  return sessions_.size() >= n ? sessions_[n - 1] : "";
}

grpc::Status TestReplica::AwaitEnd() {
  if (!Await([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return ended_; })) {
    return {grpc::StatusCode::UNKNOWN, "it did not end"};
  }
  absl::MutexLock lock(&mu_);
  return status_;
}

std::vector<record::v1::Entry> TestReplica::entries() {
  absl::MutexLock lock(&mu_);
  return entries_;
}

uint64_t TestReplica::last_seq() {
  absl::MutexLock lock(&mu_);
  return entries_.empty() ? 0 : entries_.back().seq();
}

// ---- ForwarderTest -----------------------------------------------------------------------------

ForwarderTest::ForwarderTest() {
  // Short periods make the tests short; nothing is judged by them.
  options_.heartbeat = absl::Milliseconds(40);
  options_.poll = absl::Milliseconds(20);
  options_.silent_after = absl::Minutes(5);
  journal_.Create("www", 7);
  registry_.AddCollection("www", 7);
  for (const char* node : {"a", "b", "c"}) registry_.Register("www", node);
}

ForwarderTest::~ForwarderTest() {
  StopForwarder();
  StopJournal();
  if (registry_server_) registry_server_->Shutdown(std::chrono::system_clock::now());
}

void ForwarderTest::Start() {
  StartJournal();
  int registry_port = 0;
  grpc::ServerBuilder registry_builder;
  registry_builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                                    &registry_port);
  registry_builder.RegisterService(&registry_);
  registry_server_ = registry_builder.BuildAndStart();

  service_ = std::make_unique<ForwarderServiceImpl>(
      options_,
      journal::v1::JournalService::NewStub(MakeChannel(absl::StrCat("127.0.0.1:", journal_port_))),
      registry::v1::RegistryService::NewStub(
          MakeChannel(absl::StrCat("127.0.0.1:", registry_port))),
      *metrics_);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service_.get());
  builder.SetMaxReceiveMessageSize(16 << 20);
  SetKeepalive(builder, keepalive_);
  server_ = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
  stub_ = v1::ForwarderService::NewStub(MakeChannel(address_));
}

void ForwarderTest::StartJournal() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", journal_port_),
                           grpc::InsecureServerCredentials(), &journal_port_);
  builder.RegisterService(&journal_);
  journal_server_ = builder.BuildAndStart();
  ASSERT_NE(journal_server_, nullptr);
}

void ForwarderTest::StopJournal() {
  if (!journal_server_) return;
  journal_.BreakStreams();
  journal_server_->Shutdown(std::chrono::system_clock::now());
  journal_server_->Wait();
  journal_server_.reset();
}

void ForwarderTest::StopForwarder() {
  if (server_) {
    service_->Drain(absl::Seconds(5));
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
    server_->Wait();
  }
  server_.reset();
  service_.reset();
}

v1::Hello ForwarderTest::HelloOf(const std::string& node, uint64_t cursor) {
  v1::Hello hello;
  hello.set_collection("www");
  hello.set_collection_uid(7);
  hello.set_node(node);
  hello.set_instance("instance-" + node);
  hello.set_ordinal(100 + node[0]);
  hello.set_cursor(cursor);
  hello.set_chain(journal_.ChainAt("www", cursor));
  return hello;
}

std::unique_ptr<TestReplica> ForwarderTest::Connect(const std::string& node, uint64_t cursor,
                                                    bool ack) {
  return std::make_unique<TestReplica>(*stub_, HelloOf(node, cursor), ack);
}

bool ForwarderTest::AwaitProgress(
    const std::string& node, const std::function<bool(const v1::ReplicaProgress&)>& condition) {
  absl::Time limit = absl::Now() + kLimit;
  while (absl::Now() < limit) {
    grpc::ClientContext context;
    v1::ListReplicaProgressRequest request;
    request.set_collection("www");
    v1::ListReplicaProgressResponse response;
    if (stub_->ListReplicaProgress(&context, request, &response).ok()) {
      for (const v1::ReplicaProgress& replica : response.replicas()) {
        if (replica.node() == node && condition(replica)) return true;
      }
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
  return false;
}

std::string ForwarderTest::Scrape() const {
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, metrics_->Collect());
  return out.str();
}

}  // namespace intermezzo::forwarder
