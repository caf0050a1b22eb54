// Nodes with their sessions and a server that is plain memory, without gRPC: for tests of the
// session's loop, threads and replica together. The journal checks versions as the server's does.
#pragma once

#include <gtest/gtest.h>
#include <prometheus/registry.h>

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/journal-service/memory/memory_journal.h"
#include "services/sidecar/reconcile/keep_both.h"
#include "services/sidecar/session/job_thread.h"
#include "services/sidecar/session/metrics.h"
#include "services/sidecar/session/replica_session.h"
#include "tests/support/eventually.h"
#include "tests/support/replica_state.h"
#include "tests/support/scripted_writer.h"
#include "tests/support/test_node.h"

namespace intermezzo::tests {

using sidecar::AppendStream;
using sidecar::Connection;
using sidecar::ForwardStream;
using sidecar::JobThread;
using sidecar::Replica;
using sidecar::ReplicaSession;
using sidecar::TokenClient;

// Token, journal and forwarder. Links call it; it calls sessions from threads of its own.
class SessionServer {
 public:
  ~SessionServer() { answers_.reset(); }

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
  // One node is cut off, or no longer.
  void SetReachable(int node, bool reachable) {
    absl::MutexLock lock(&mu_);
    if (reachable) {
      cut_.erase(node);
    } else {
      cut_.insert(node);
    }
  }
  // An error of the server: this node hears of nothing new, and gets grants with an old head.
  void SetHidden(int node, bool hidden) {
    absl::MutexLock lock(&mu_);
    if (hidden) {
      hidden_[node] = head();
    } else {
      hidden_.erase(node);
    }
  }
  // Whoever has not got so far needs a snapshot.
  void TrimAll() {
    absl::MutexLock lock(&mu_);
    first_ = head() + 1;
  }
  uint64_t head() const { return journal_.State().head.value(); }
  absl::StatusOr<sidecar::OwnRecords> Own(Ordinal ordinal) const {
    auto origin = journal_.Origin(ordinal);
    if (!origin.ok()) return origin.status();
    return sidecar::OwnRecords{origin->last_origin_seq, origin->last_seq, origin->last_hash};
  }
  int holder() const {
    absl::MutexLock lock(&mu_);
    return holder_;
  }

  using GrantDone = std::function<void(absl::StatusOr<TokenClient::Grant>)>;
  void Acquire(int node, GrantDone done) {
    absl::MutexLock lock(&mu_);
    if (!Reachable(node)) return Answer([done] { done(absl::UnavailableError("cut off")); });
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
    if (!Reachable(node)) return absl::UnavailableError("cut off");
    if (holder_ != node || epoch_ != epoch.value()) return absl::FailedPreconditionError("lost");
    return TokenClient::Renewal{kLease, !waiting_.empty()};
  }
  absl::Status Release(int node, Epoch epoch) {
    absl::MutexLock lock(&mu_);
    if (!Reachable(node)) return absl::UnavailableError("cut off");
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
  absl::Status Append(int node, Ordinal ordinal, Epoch epoch, uint64_t previous,
                      std::vector<record::v1::Entry> entries) {
    absl::MutexLock lock(&mu_);
    if (!Reachable(node)) return absl::UnavailableError("cut off");
    if (epoch.value() < epoch_) return absl::FailedPreconditionError("stale epoch");
    auto batch = journal::PrepareBatch(ordinal, epoch, previous, std::move(entries));
    if (!batch.ok()) return batch.status();
    absl::Status result;
    journal_.Append(*std::move(batch), [&](absl::StatusOr<journal::Confirmation> confirmed) {
      result = confirmed.status();
    });
    return result;
  }
  // Waits a little for entries after the cursor. UNAVAILABLE while cut off. OUT_OF_RANGE: trimmed.
  absl::StatusOr<forwarder::v1::Entries> Read(int node, uint64_t cursor) {
    absl::MutexLock lock(&mu_);
    auto visible = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      const auto hidden = hidden_.find(node);
      return hidden == hidden_.end() ? head() : hidden->second;
    };
    auto more = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return visible() > cursor; };
    mu_.AwaitWithTimeout(absl::Condition(&more), absl::Milliseconds(20));
    if (!Reachable(node)) return absl::UnavailableError("cut off");
    if (cursor + 1 < first_) return absl::OutOfRangeError("trimmed");
    forwarder::v1::Entries out;
    out.set_head_seq(visible());
    if (!more()) return out;
    auto entries = journal_.Read(
        Seq(cursor + 1), {.skip_payloads_of = Ordinal(), .max_bytes = 1 << 20, .max_records = 100});
    if (!entries.ok()) return entries.status();
    for (const auto& stored : *entries) {
      if (stored->entry.seq() > visible()) break;
      *out.add_entries() = stored->entry;
      out.mutable_entries()->rbegin()->set_payload(stored->payload);
    }
    return out;
  }
  uint64_t first() const {
    absl::MutexLock lock(&mu_);
    return first_;
  }

 private:
  static constexpr absl::Duration kLease = absl::Seconds(2);

  bool Reachable(int node) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return reachable_ && !cut_.contains(node);
  }
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
    const auto hidden = hidden_.find(node);
    TokenClient::Grant grant{Epoch(epoch_), Seq(hidden == hidden_.end() ? head() : hidden->second),
                             kLease};
    Answer([done = std::move(done), grant] { done(grant); });
    waiting_.erase(waiting_.begin());
    GrantOrRecall();
  }

  mutable absl::Mutex mu_;
  bool reachable_ ABSL_GUARDED_BY(mu_) = true;
  uint64_t epoch_ ABSL_GUARDED_BY(mu_) = 1;  // TestNode has used epoch 1
  int holder_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::pair<int, GrantDone>> waiting_ ABSL_GUARDED_BY(mu_);
  std::set<int> cut_ ABSL_GUARDED_BY(mu_);
  std::map<int, uint64_t> hidden_ ABSL_GUARDED_BY(mu_);  // the head that it sees
  uint64_t first_ ABSL_GUARDED_BY(mu_) = 1;
  journal::MemoryJournal journal_{*CollectionName::Parse("www"), 7, absl::ZeroDuration(),
                                  [] { return absl::Now(); }};
  std::map<int, ReplicaSession*> sessions_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<JobThread> answers_ = std::make_unique<JobThread>();
};

class MemoryToken final : public TokenClient {
 public:
  MemoryToken(SessionServer& server, int node) : server_(server), node_(node) {}
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
  SessionServer& server_;
  const int node_;
  absl::Mutex mu_;
  int calls_ ABSL_GUARDED_BY(mu_) = 0;
  JobThread jobs_;
};

class MemoryAppend final : public AppendStream {
 public:
  MemoryAppend(SessionServer& server, int node, Replica& replica, Handler& handler)
      : server_(server), node_(node), replica_(replica), handler_(handler), thread_([this] {
          Run();
        }) {}
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
      for (auto& [origin_seq, entry] :
           replica_.db().ReadLocal(std::max(sent, replica_.replay_through()), 100, 1 << 20)) {
        last = origin_seq;
        entries.push_back(std::move(entry));
      }
      if (entries.empty()) continue;
      const absl::Status status =
          server_.Append(node_, replica_.options().ordinal, epoch, sent, std::move(entries));
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
  SessionServer& server_;
  const int node_;
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
  MemoryForward(SessionServer& server, int node, Replica& replica, Handler& handler)
      : server_(server), node_(node), replica_(replica), handler_(handler) {}
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
      auto entries = server_.Read(node_, replica_.cursor().value());
      if (absl::IsOutOfRange(entries.status())) {
        handler_.OnNeedsSnapshot(Seq(server_.first()));
        if (!handler_.OnEnd(entries.status())) return;
        continue;
      }
      const absl::Status status =
          entries.ok() ? handler_.OnEntries(*entries, [](Seq) {}) : entries.status();
      if (!status.ok() && (up || entries.ok()) && !handler_.OnEnd(status)) return;
      up = status.ok();
    }
  }
  SessionServer& server_;
  const int node_;
  Replica& replica_;
  Handler& handler_;
  absl::Mutex mu_;
  bool shutdown_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mu_);
};

// A node with its session.
class SessionNode {
 public:
  struct Options {
    // Resolves conflicts by what this node has; null: by none, the replica stops.
    SessionNode* source = nullptr;
    std::function<absl::Status(sidecar::JoinContext&, Replica&)> join = nullptr;
  };
  SessionNode(SessionServer& server, int number, Options options)
      : server_(server), number_(number), options_(std::move(options)), node_(number) {
    node_.before_commit() = [this] {
      if (crash_in_.load() > 0 && --crash_in_ == 0) {
        node_.commit_failure() = absl::UnavailableError("crashed");
        crashed_ = true;
      }
    };
    node_.replica().gate().Close();
    Start();
  }
  SessionNode(SessionServer& server, int number) : SessionNode(server, number, Options()) {}
  ~SessionNode() { EXPECT_TRUE(Stop().ok() || failed_); }

  void Start() {
    resolver_ = MakeResolver();
    metrics_.reset();
    registry_ = std::make_unique<prometheus::Registry>();
    metrics_ =
        std::make_unique<sidecar::ReplicaMetrics>(*registry_, "www", absl::StrCat("node", number_));
    ReplicaSession::Hooks hooks;
    if (options_.join) {
      hooks.join = [this](sidecar::JoinContext& context) {
        return options_.join(context, node_.replica());
      };
    }
    session_ = std::make_unique<ReplicaSession>(
        ReplicaSession::Options{.token_wait = absl::Seconds(30),
                                .disconnect_after = absl::Milliseconds(300)},
        node_.replica(), *resolver_, metrics_.get(), std::move(hooks));
    server_.Add(number_, session_.get());
    session_->Start([this](ReplicaSession& session) {
      return ReplicaSession::Links{
          std::make_unique<MemoryToken>(server_, number_),
          std::make_unique<MemoryAppend>(server_, number_, node_.replica(), session),
          std::make_unique<MemoryForward>(server_, number_, node_.replica(), session)};
    });
  }
  // It will not hand anything back.
  void ExpectFailed() { failed_ = true; }
  absl::Status Stop() { return StopWithin(absl::Seconds(10)); }
  // Its commits fail from the n-th from now on, as if the process had died there.
  void CrashIn(int commits) { crash_in_ = commits; }
  bool crashed() const { return crashed_.load(); }
  // What is on its disk starts anew.
  void Restart() {
    (void)StopWithin(absl::ZeroDuration());
    crash_in_ = 0;
    crashed_ = false;
    node_.commit_failure() = absl::OkStatus();
    node_.Reopen();
    node_.replica().gate().Close();
    Start();
  }
  // Others get no state from this node.
  void SetServes(bool serves) { serves_ = serves; }

  int Append(const std::string& name, const std::string& line) {
    return Writer().Append(name, line);
  }
  std::string Read(const std::string& name) { return Writer().Read(name); }
  bool Await(Connection::Phase phase) {
    return Eventually([&] { return session_->status().phase == phase; });
  }
  ReplicaSession& session() { return *session_; }
  Replica& replica() { return node_.replica(); }
  prometheus::Registry& registry() { return *registry_; }
  const std::string& lower_path() const { return node_.lower_path(); }

 private:
  ScriptedWriter Writer() { return ScriptedWriter({std::shared_ptr<void>(), &node_.replica()}); }

  absl::Status StopWithin(absl::Duration timeout) {
    if (session_ == nullptr) return absl::OkStatus();
    const absl::Status status = session_->Stop(timeout);
    server_.Remove(number_);
    session_.reset();
    return status;
  }

  std::unique_ptr<sidecar::ConflictResolver> MakeResolver() {
    if (options_.source == nullptr) return std::make_unique<sidecar::RefuseConflicts>();
    return std::make_unique<sidecar::KeepBoth>(sidecar::KeepBoth::Options{
        .store_dir = store_.path(),
        .server = [this] { return MakeState(); },
        .presto = nullptr,
        .wait = [this](absl::Duration duration) { return session_->WaitOrStop(duration); },
        .hindered = [this](const absl::Status& why) { session_->ResolvingHindered(why); },
        .conflict = [this](const std::string& kind) { session_->CountConflict(kind); }});
  }
  std::unique_ptr<sidecar::ServerState> MakeState() {
    SessionNode& source = *options_.source;
    return std::make_unique<ReplicaState>(ReplicaState::Options{
        .source = &source.replica(),
        .before_table =
            [&source] {
              return source.serves_ && source.replica().pending_records() == 0
                         ? absl::OkStatus()
                         : absl::UnavailableError("no live replica");
            },
        .after_table = nullptr,
        .own = [this](Ordinal ordinal) { return server_.Own(ordinal); },
        .head = [this]() -> absl::StatusOr<Seq> { return Seq(server_.head()); }});
  }

  SessionServer& server_;
  const int number_;
  const Options options_;
  const TempDir store_;
  TestNode node_;
  bool failed_ = false;
  std::atomic<int> crash_in_ = 0;
  std::atomic<bool> crashed_ = false;
  std::atomic<bool> serves_ = true;
  std::unique_ptr<prometheus::Registry> registry_;
  std::unique_ptr<sidecar::ReplicaMetrics> metrics_;
  std::unique_ptr<sidecar::ConflictResolver> resolver_;
  std::unique_ptr<ReplicaSession> session_;
};

inline bool Settled(SessionServer& server, SessionNode& node) {
  return Eventually([&] {
    return node.session().status().phase == Connection::Phase::kConnected &&
           node.replica().pending_records() == 0 && node.replica().cursor() == Seq(server.head());
  });
}

}  // namespace intermezzo::tests
