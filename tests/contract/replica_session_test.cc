// Sessions of two nodes and a server that is plain memory: the loop, its threads and the replica
// together, without gRPC (so that ThreadSanitizer sees everything).
#include "services/sidecar/session/replica_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/common/record/codec.h"
#include "services/sidecar/session/job_thread.h"
#include "tests/support/eventually.h"
#include "tests/support/scripted_writer.h"
#include "tests/support/test_node.h"

namespace intermezzo::sidecar {
namespace {

using tests::Eventually;
using tests::TestNode;

// Token, journal and forwarder. Links call it; it calls sessions from threads of its own.
class Server {
 public:
  ~Server() { answers_.reset(); }

  void Add(int node, ReplicaSession* session) {
    absl::MutexLock lock(&mu_);
    sessions_[node] = session;
  }
  void Remove(int node) {
    absl::MutexLock lock(&mu_);
    sessions_.erase(node);
  }
  void SetReachable(bool reachable) {
    absl::MutexLock lock(&mu_);
    reachable_ = reachable;
  }
  bool reachable() const {
    absl::MutexLock lock(&mu_);
    return reachable_;
  }
  uint64_t head() const {
    absl::MutexLock lock(&mu_);
    return entries_.size();
  }
  int holder() const {
    absl::MutexLock lock(&mu_);
    return holder_;
  }

  using GrantDone = std::function<void(absl::StatusOr<TokenClient::Grant>)>;
  void Acquire(int node, GrantDone done) {
    absl::MutexLock lock(&mu_);
    if (!reachable_) return Answer([done] { done(absl::UnavailableError("cut off")); });
    // The holder's own grant again comes at once, whoever waits.
    waiting_.emplace(holder_ == node ? waiting_.begin() : waiting_.end(), node, std::move(done));
    GrantOrRecall();
  }
  void CancelAcquire(int node) {
    absl::MutexLock lock(&mu_);
    for (auto& [waiter, done] : waiting_) {
      if (waiter == node) Answer([done = done] { done(absl::CancelledError("cancelled")); });
    }
    std::erase_if(waiting_, [&](const auto& w) { return w.first == node; });
  }
  absl::StatusOr<TokenClient::Renewal> Renew(int node, Epoch epoch) {
    absl::MutexLock lock(&mu_);
    if (!reachable_) return absl::UnavailableError("cut off");
    if (holder_ != node || epoch_ != epoch.value()) return absl::FailedPreconditionError("lost");
    return TokenClient::Renewal{kLease, !waiting_.empty()};
  }
  absl::Status Release(int node, Epoch epoch) {
    absl::MutexLock lock(&mu_);
    if (!reachable_) return absl::UnavailableError("cut off");
    if (holder_ != node || epoch_ != epoch.value()) return absl::FailedPreconditionError("lost");
    holder_ = 0;
    GrantOrRecall();
    return absl::OkStatus();
  }
  // As if the lease had run out here.
  void Expire() {
    absl::MutexLock lock(&mu_);
    holder_ = 0;
    GrantOrRecall();
  }
  absl::Status Append(Epoch epoch, std::vector<record::v1::Entry> entries) {
    absl::MutexLock lock(&mu_);
    if (!reachable_) return absl::UnavailableError("cut off");
    if (epoch.value() < epoch_) return absl::FailedPreconditionError("stale epoch");
    for (record::v1::Entry& entry : entries) {
      entry.set_seq(entries_.size() + 1);
      entry.set_chain(ChainHash(entries_.empty() ? "" : entries_.back().chain(), Seq(entry.seq()),
                                entry.record()));
      entries_.push_back(std::move(entry));
    }
    return absl::OkStatus();
  }
  // Waits a little for entries after the cursor. UNAVAILABLE while cut off.
  absl::StatusOr<forwarder::v1::Entries> Read(uint64_t cursor) {
    absl::MutexLock lock(&mu_);
    auto more = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return entries_.size() > cursor; };
    mu_.AwaitWithTimeout(absl::Condition(&more), absl::Milliseconds(20));
    if (!reachable_) return absl::UnavailableError("cut off");
    forwarder::v1::Entries out;
    for (uint64_t seq = cursor + 1; seq <= entries_.size() && out.entries_size() < 100; ++seq) {
      *out.add_entries() = entries_[seq - 1];
    }
    out.set_head_seq(entries_.size());
    return out;
  }

 private:
  static constexpr absl::Duration kLease = absl::Seconds(2);

  void Answer(std::function<void()> answer) { answers_->Add(std::move(answer)); }
  void GrantOrRecall() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (waiting_.empty()) return;
    auto& [node, done] = waiting_.front();
    if (holder_ != 0 && holder_ != node) {
      const auto session = sessions_.find(holder_);
      if (session != sessions_.end()) session->second->Recalled(Epoch(epoch_));
      return;
    }
    if (holder_ == 0) ++epoch_;
    holder_ = node;
    TokenClient::Grant grant{Epoch(epoch_), Seq(entries_.size()), kLease};
    Answer([done = std::move(done), grant] { done(grant); });
    waiting_.erase(waiting_.begin());
    GrantOrRecall();
  }

  mutable absl::Mutex mu_;
  bool reachable_ ABSL_GUARDED_BY(mu_) = true;
  uint64_t epoch_ ABSL_GUARDED_BY(mu_) = 1;  // TestNode has used epoch 1
  int holder_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::pair<int, GrantDone>> waiting_ ABSL_GUARDED_BY(mu_);
  std::vector<record::v1::Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::map<int, ReplicaSession*> sessions_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<JobThread> answers_ = std::make_unique<JobThread>();
};

class MemoryToken final : public TokenClient {
 public:
  MemoryToken(Server& server, int node) : server_(server), node_(node) {}
  ~MemoryToken() override {
    server_.CancelAcquire(node_);
    // What was answered before has arrived when this comes through.
    absl::Notification drained;
    jobs_.Add([&] { drained.Notify(); });
    drained.WaitForNotification();
    mu_.Lock();
    mu_.Await(absl::Condition(
        +[](int* calls) { return *calls == 0; }, &calls_));
    mu_.Unlock();
  }
  void Acquire(absl::Duration, std::function<void(absl::StatusOr<Grant>)> done) override {
    Begin();
    server_.Acquire(node_, [this, done = std::move(done)](absl::StatusOr<Grant> grant) {
      done(std::move(grant));
      End();
    });
  }
  void CancelAcquire() override { server_.CancelAcquire(node_); }
  void Renew(Epoch epoch, std::function<void(absl::StatusOr<Renewal>)> done) override {
    jobs_.Add([this, epoch, done = std::move(done)] { done(server_.Renew(node_, epoch)); });
  }
  void Release(Epoch epoch, std::function<void(absl::Status)> done) override {
    jobs_.Add([this, epoch, done = std::move(done)] { done(server_.Release(node_, epoch)); });
  }

 private:
  void Begin() {
    absl::MutexLock lock(&mu_);
    ++calls_;
  }
  void End() {
    absl::MutexLock lock(&mu_);
    --calls_;
  }
  Server& server_;
  const int node_;
  absl::Mutex mu_;
  int calls_ ABSL_GUARDED_BY(mu_) = 0;
  JobThread jobs_;
};

class MemoryAppend final : public AppendStream {
 public:
  MemoryAppend(Server& server, Replica& replica, Handler& handler)
      : server_(server), replica_(replica), handler_(handler), thread_([this] { Run(); }) {}
  ~MemoryAppend() override {
    {
      absl::MutexLock lock(&mu_);
      shutdown_ = true;
    }
    thread_.join();
  }
  void Start(Epoch epoch) override {
    absl::MutexLock lock(&mu_);
    epoch_ = epoch;
    woken_ = true;
  }
  void Stop() override {
    absl::MutexLock lock(&mu_);
    epoch_ = Epoch();
  }
  void Wake() override {
    absl::MutexLock lock(&mu_);
    woken_ = true;
  }

 private:
  void Run() {
    uint64_t sent = replica_.confirmed_origin_seq();
    for (;;) {
      Epoch epoch;
      {
        auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
          return shutdown_ || (epoch_ && woken_);
        };
        absl::MutexLock lock(&mu_);
        mu_.Await(absl::Condition(&ready));
        if (shutdown_) return;
        woken_ = false;
        epoch = epoch_;
      }
      std::vector<record::v1::Entry> entries;
      uint64_t last = sent;
      for (auto& [origin_seq, entry] : replica_.db().ReadLocal(sent, 100, 1 << 20)) {
        last = origin_seq;
        entries.push_back(std::move(entry));
      }
      if (entries.empty()) continue;
      const absl::Status status = server_.Append(epoch, std::move(entries));
      absl::MutexLock lock(&mu_);
      woken_ = true;
      if (status.ok()) {
        sent = last;
        handler_.Confirmed(sent);
      } else if (!absl::IsUnavailable(status) && epoch == epoch_) {
        epoch_ = Epoch();
        handler_.Refused(epoch, status);
      } else {
        mu_.AwaitWithTimeout(absl::Condition(&shutdown_), absl::Milliseconds(10));
      }
    }
  }
  Server& server_;
  Replica& replica_;
  Handler& handler_;
  absl::Mutex mu_;
  bool shutdown_ ABSL_GUARDED_BY(mu_) = false;
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  Epoch epoch_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

class MemoryForward final : public ForwardStream {
 public:
  MemoryForward(Server& server, Replica& replica, Handler& handler)
      : server_(server), replica_(replica), handler_(handler) {}
  ~MemoryForward() override { Shutdown(); }
  void Start() override {
    absl::MutexLock lock(&mu_);
    if (!shutdown_ && !thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }
  void Restart() override {}
  void Shutdown() override {
    std::thread thread;
    {
      absl::MutexLock lock(&mu_);
      shutdown_ = true;
      thread = std::move(thread_);
    }
    if (thread.joinable()) thread.join();
  }

 private:
  void Run() {
    for (bool up = false;;) {
      {
        absl::MutexLock lock(&mu_);
        if (shutdown_) return;
      }
      auto entries = server_.Read(replica_.cursor().value());
      const absl::Status status =
          entries.ok() ? handler_.OnEntries(*entries, [](Seq) {}) : entries.status();
      if (!status.ok() && (up || entries.ok()) && !handler_.OnEnd(status)) return;
      up = status.ok();
    }
  }
  Server& server_;
  Replica& replica_;
  Handler& handler_;
  absl::Mutex mu_;
  bool shutdown_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mu_);
};

// A node with its session.
class Node {
 public:
  Node(Server& server, int number) : server_(server), number_(number), node_(number) {
    node_.replica().gate().Close();
    Start();
  }
  ~Node() { EXPECT_TRUE(Stop().ok() || failed_); }

  void Start() {
    session_ = std::make_unique<ReplicaSession>(
        ReplicaSession::Options{.token_wait = absl::Seconds(30),
                                .disconnect_after = absl::Milliseconds(300)},
        node_.replica(), resolver_, nullptr, ReplicaSession::Hooks());
    server_.Add(number_, session_.get());
    session_->Start([this](ReplicaSession& session) {
      return ReplicaSession::Links{
          std::make_unique<MemoryToken>(server_, number_),
          std::make_unique<MemoryAppend>(server_, node_.replica(), session),
          std::make_unique<MemoryForward>(server_, node_.replica(), session)};
    });
  }
  // It will not hand anything back.
  void ExpectFailed() { failed_ = true; }
  absl::Status Stop() {
    if (session_ == nullptr) return absl::OkStatus();
    const absl::Status status = session_->Stop(absl::Seconds(10));
    server_.Remove(number_);
    session_.reset();
    return status;
  }

  int Append(const std::string& name, const std::string& line) {
    return Writer().Append(name, line);
  }
  std::string Read(const std::string& name) { return Writer().Read(name); }
  bool Await(Connection::Phase phase) {
    return Eventually([&] { return session_->status().phase == phase; });
  }
  ReplicaSession& session() { return *session_; }
  Replica& replica() { return node_.replica(); }

 private:
  tests::ScriptedWriter Writer() {
    return tests::ScriptedWriter({std::shared_ptr<void>(), &node_.replica()});
  }

  Server& server_;
  const int number_;
  TestNode node_;
  bool failed_ = false;
  RefuseConflicts resolver_;
  std::unique_ptr<ReplicaSession> session_;
};

bool Settled(Server& server, Node& node) {
  return Eventually([&] {
    return node.session().status().phase == Connection::Phase::kConnected &&
           node.replica().pending_records() == 0 && node.replica().cursor() == Seq(server.head());
  });
}

TEST(ReplicaSessionTest, TokenMovesWithTheData) {
  Server server;
  Node a(server, 1), b(server, 2);
  std::string expected;
  for (int i = 0; i < 40; ++i) {
    Node& node = i % 2 == 0 ? a : b;
    const std::string line = absl::StrCat(i, "\n");
    ASSERT_EQ(node.Append("log", line), 0);
    expected += line;
    ASSERT_EQ(node.Read("log"), expected);
  }
  EXPECT_TRUE(Settled(server, a));
  EXPECT_TRUE(Settled(server, b));
  EXPECT_EQ(a.Read("log"), b.Read("log"));
}

TEST(ReplicaSessionTest, ManyWritersOnBothNodes) {
  Server server;
  Node a(server, 1), b(server, 2);
  std::vector<std::thread> threads;
  std::atomic<int> failed = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 25; ++k) {
        if ((i % 2 == 0 ? a : b).Append(absl::StrCat("file", i), "x") != 0) ++failed;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_TRUE(Settled(server, a));
  EXPECT_TRUE(Settled(server, b));
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(a.Read(absl::StrCat("file", i)), std::string(25, 'x'));
    EXPECT_EQ(b.Read(absl::StrCat("file", i)), std::string(25, 'x'));
  }
}

TEST(ReplicaSessionTest, StopGivesTheTokenBack) {
  Server server;
  Node a(server, 1), b(server, 2);
  ASSERT_EQ(a.Append("file", "1"), 0);
  EXPECT_EQ(server.holder(), 1);
  EXPECT_TRUE(a.Stop().ok());
  EXPECT_EQ(server.holder(), 0);
  ASSERT_EQ(b.Append("file", "2"), 0);
  EXPECT_EQ(b.Read("file"), "12");
  a.Start();
  EXPECT_TRUE(Settled(server, a));
  EXPECT_EQ(a.Read("file"), "12");
}

TEST(ReplicaSessionTest, WorksAloneAndComesBack) {
  Server server;
  Node a(server, 1);
  ASSERT_EQ(a.Append("file", "1"), 0);
  ASSERT_TRUE(Settled(server, a));
  server.SetReachable(false);
  ASSERT_EQ(a.Append("file", "2"), 0);
  ASSERT_TRUE(a.Await(Connection::Phase::kDisconnected));  // when the lease is over
  const uint64_t head = server.head();
  ASSERT_EQ(a.Append("file", "3"), 0);
  EXPECT_EQ(server.head(), head);
  server.SetReachable(true);
  EXPECT_TRUE(Settled(server, a));
  EXPECT_GT(server.head(), head);
  Node b(server, 2);
  EXPECT_TRUE(Settled(server, b));
  EXPECT_EQ(b.Read("file"), "123");
}

TEST(ReplicaSessionTest, TokenTakenAwayIsNoticed) {
  Server server;
  Node a(server, 1), b(server, 2);
  ASSERT_EQ(a.Append("a", "1"), 0);
  ASSERT_TRUE(Settled(server, a));
  server.Expire();
  ASSERT_EQ(b.Append("b", "1"), 0);
  // Its gate may still be open: what it writes is refused, kept, and appended under a new grant.
  ASSERT_EQ(a.Append("a", "2"), 0);
  EXPECT_TRUE(Settled(server, a));
  EXPECT_TRUE(Settled(server, b));
  EXPECT_EQ(b.Read("a"), "12");
}

TEST(ReplicaSessionTest, ConflictThatNobodyResolvesStopsTheReplica) {
  Server server;
  Node a(server, 1), b(server, 2);
  ASSERT_EQ(a.Append("file", "1"), 0);
  ASSERT_TRUE(Settled(server, a));
  ASSERT_TRUE(Settled(server, b));
  // Both alone, one after the other comes back.
  server.SetReachable(false);
  ASSERT_TRUE(a.Await(Connection::Phase::kDisconnected));
  ASSERT_TRUE(b.Await(Connection::Phase::kDisconnected));
  ASSERT_EQ(a.Append("file", "a"), 0);
  ASSERT_EQ(b.Append("file", "b"), 0);
  server.SetReachable(true);
  EXPECT_TRUE(Eventually([&] {
    return a.session().status().phase == Connection::Phase::kFailed ||
           b.session().status().phase == Connection::Phase::kFailed;
  }));
  Node& failed = a.session().status().phase == Connection::Phase::kFailed ? a : b;
  a.ExpectFailed();
  b.ExpectFailed();
  EXPECT_EQ(failed.Append("file", "x"), EIO);
  EXPECT_EQ(failed.Read("file").substr(0, 1), "1");
  EXPECT_FALSE(failed.session().status().error.ok());
}

}  // namespace
}  // namespace intermezzo::sidecar
