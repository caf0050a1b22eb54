// The life of one replica: the loop that feeds its Connection and does what that decides.
//
// Owned by the sidecar, outlives nothing that it is given. One thread runs the loop, one the jobs
// that block (draining the gate, flushing mappings), one joins; the links have threads of their
// own. Public methods may be called from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/sidecar/replica/replica.h"
#include "services/sidecar/session/conflict_resolver.h"
#include "services/sidecar/session/connection.h"
#include "services/sidecar/session/job_thread.h"
#include "services/sidecar/session/links.h"

namespace intermezzo::sidecar {

class ReplicaMetrics;

// What joining a collection needs of the session. Blocking calls end with CANCELLED when the
// session stops.
class JoinContext {
 public:
  virtual ~JoinContext() = default;
  // The token without an open gate; what the local journal has and gets is appended under it. The
  // journal's head at the grant.
  virtual absl::StatusOr<Seq> AcquireToken() = 0;
  // From now on a recall is followed: what was not appended by then is appended after joining.
  virtual void AllowRecall() = 0;
  virtual void ReleaseToken() = 0;
  // Waits until the journal has everything up to this local record.
  virtual absl::Status WaitConfirmed(uint64_t origin_seq) = 0;
  virtual void Progress(uint64_t objects, uint64_t total) = 0;
  // Why joining waits; OK where it does not.
  virtual void Hindered(const absl::Status& status) = 0;
  // Waits before a retry. CANCELLED at once when the session stops.
  virtual absl::Status Pause(absl::Duration duration) = 0;
  virtual bool cancelled() const = 0;
};

class ReplicaSession final : public AppendStream::Handler,
                             public ForwardStream::Handler,
                             private JoinContext {
 public:
  struct Options {
    bool offline_writes = true;
    absl::Duration token_wait = absl::Seconds(30);
    absl::Duration disconnect_after = absl::Seconds(3);
    // Bound on flushing shared mappings when the token is recalled.
    absl::Duration flush_timeout = absl::Seconds(2);
  };
  struct Links {
    std::unique_ptr<TokenClient> token;
    std::unique_ptr<AppendStream> append;
    std::unique_ptr<ForwardStream> forward;
  };
  // What stands around the session; all but `replica` may be left out.
  struct Hooks {
    // Brings the replica to joined (import, adoption, snapshot). Runs on a thread of its own.
    std::function<absl::Status(JoinContext&)> join;
    // Joined: mounts.
    std::function<absl::Status()> joined;
    std::function<absl::Status(absl::Duration)> flush_mappings;
    // The forwarder orders this replica to serve a snapshot.
    std::function<void(const std::string&)> serve;
  };
  struct Status {
    Connection::Phase phase = Connection::Phase::kJoining;
    Connection::Token token = Connection::Token::kNone;
    Epoch epoch;
    Seq head;
    uint64_t joined_objects = 0;
    uint64_t total_objects = 0;
    uint64_t conflicts = 0;
    absl::Status error;
  };

  // `replica`, `resolver`, `metrics` outlive the session; `metrics` may be null.
  ReplicaSession(Options options, Replica& replica, ConflictResolver& resolver,
                 ReplicaMetrics* metrics, Hooks hooks);
  // Stop(0) where it was not stopped.
  ~ReplicaSession() override;

  // Makes the links and starts. Called once.
  void Start(const std::function<Links(ReplicaSession&)>& make_links);
  // Closes the gate (parked writers get EAGAIN), sends everything, gives the token back, ends the
  // streams. DEADLINE_EXCEEDED: not all of it within `timeout`; what is pending stays on disk.
  absl::Status Stop(absl::Duration timeout);

  // The token-service wants a token back.
  void Recalled(Epoch epoch);
  void SetOfflineWrites(bool allow);
  // For the resolver. Waits; CANCELLED when the session stops.
  absl::Status WaitOrStop(absl::Duration duration) { return Pause(duration); }
  // Why resolving cannot go on now; OK when it can.
  void ResolvingHindered(const absl::Status& reason);
  void CountConflict(const std::string& kind);
  Status status() const;
  // Waits until `predicate` holds for the status; for tests and for those who wait for a state.
  bool WaitFor(const std::function<bool(const Status&)>& predicate, absl::Duration timeout) const;

  // Where the own record `origin_seq` came back, for a snapshot whose view has it. Waits for it.
  // CANCELLED when the session stops.
  struct OwnPosition {
    // False: a later own record came back by now, and seq and chain are of that one.
    bool exact = false;
    Seq seq;
    std::string chain;
    // Last seq of another origin applied before it.
    Seq last_foreign;
  };
  absl::StatusOr<OwnPosition> WaitOwnApplied(uint64_t origin_seq, absl::Duration timeout);

  // AppendStream::Handler
  void Confirmed(uint64_t origin_seq) override;
  void Refused(Epoch epoch, absl::Status status) override;
  // ForwardStream::Handler
  void FillHello(forwarder::v1::Hello* hello) override;
  absl::Status OnEntries(const forwarder::v1::Entries& entries,
                         const std::function<void(Seq)>& ack) override;
  void OnNeedsSnapshot(Seq first_seq) override;
  void OnServe(const std::string& snapshot_session) override;
  bool OnEnd(const absl::Status& status) override;

 private:
  // JoinContext
  absl::StatusOr<Seq> AcquireToken() override;
  void AllowRecall() override;
  void ReleaseToken() override;
  absl::Status WaitConfirmed(uint64_t origin_seq) override;
  void Progress(uint64_t objects, uint64_t total) override;
  void Hindered(const absl::Status& status) override;
  absl::Status Pause(absl::Duration duration) override;
  bool cancelled() const override { return cancelled_.load(); }

  void Post(Input input);
  void Wake();
  void Loop();
  void Refresh();
  void Step(const Input& input);
  void Publish();
  void RunJoin();
  // Local records that wait cannot go to the journal as they are: see ConflictResolver. By the
  // forward thread. An error ends the stream.
  absl::Status Reconcile(Seq at_least, const absl::Status& why);
  absl::Status ApplyOne(const record::v1::Entry& entry, const std::function<void(Seq)>& ack);

  void Do(const action::Acquire&);
  void Do(const action::CancelAcquire&);
  void Do(const action::Renew&);
  void Do(const action::Release&);
  void Do(const action::OpenGate&);
  void Do(const action::CloseGate&);
  void Do(const action::Quiesce&);
  void Do(const action::FlushMappings&);
  void Do(const action::StartAppend&);
  void Do(const action::StopAppend&);
  void Do(const action::FailParked&);
  void Do(const action::RestartForward&);
  void Do(const action::JoinGranted&);
  void Do(const action::Reconcile&);
  void Do(const action::Stopped&);

  // Constant after construction or Start.
  const Options options_;
  Replica& replica_;
  ConflictResolver& resolver_;
  ReplicaMetrics* const metrics_;
  const Hooks hooks_;
  Links links_;

  // Facts that change often: the latest value counts, so they are not queued.
  std::atomic<uint64_t> confirmed_{0};
  std::atomic<uint64_t> heard_head_{0};
  std::atomic<int64_t> heard_at_ns_{0};
  // In WaitConfirmed.
  std::atomic<int> confirmation_waiters_{0};
  std::atomic<bool> stream_up_{false};
  // The loop waits for a change of these facts.
  std::atomic<bool> attentive_{true};
  std::atomic<bool> cancelled_{false};
  std::atomic<uint64_t> gate_generation_{0};
  std::atomic<uint64_t> conflicts_{0};
  std::atomic<bool> resolving_{false};

  // The loop's own.
  Connection connection_;
  bool fed_stream_up_ = false;
  int64_t fed_heard_at_ns_ = 0;
  bool fed_failure_ = false;
  Connection::Phase logged_phase_ = Connection::Phase::kJoining;

  // The forward thread's own.
  int data_losses_ = 0;

  mutable absl::Mutex mu_;
  std::deque<Input> inbox_ ABSL_GUARDED_BY(mu_);
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool shutdown_ ABSL_GUARDED_BY(mu_) = false;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  bool offline_writes_ ABSL_GUARDED_BY(mu_);
  Status status_ ABSL_GUARDED_BY(mu_);
  absl::Status hindrance_ ABSL_GUARDED_BY(mu_);  // why joining or resolving waits
  std::optional<Seq> join_granted_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> refusal_ ABSL_GUARDED_BY(mu_);  // of a record, to be reconciled
  bool append_stopped_ ABSL_GUARDED_BY(mu_) = false;          // since Diverged was posted
  // How it stood after the last reconciliation: cursor and what the journal had confirmed.
  std::optional<std::pair<Seq, uint64_t>> reconciled_ ABSL_GUARDED_BY(mu_);
  uint64_t own_applied_ ABSL_GUARDED_BY(mu_) = 0;  // last own origin seq that came back
  OwnPosition own_position_ ABSL_GUARDED_BY(mu_);  // of that one
  std::map<uint64_t, std::vector<OwnPosition*>> own_waiters_ ABSL_GUARDED_BY(mu_);
  Seq last_foreign_ ABSL_GUARDED_BY(mu_);

  std::unique_ptr<JobThread> jobs_;
  std::thread loop_;
  std::thread join_;
};

}  // namespace intermezzo::sidecar
