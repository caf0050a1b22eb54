// How one replica stands to the server: the decisions, without any IO.
//
// A pure state machine of (state, input, now). The session (replica_session.h) feeds it what
// happened and does what it answers. Owned and called by one thread.
//
// The rules, in short:
// - A lease counts from before the request was sent, less a margin, so the holder always stops
//   before the server takes the token away.
// - The gate opens under an epoch only when everything up to the grant's head was applied.
// - A recalled holder flushes mappings with the gate open, closes it, cuts everything, waits until
//   the journal has confirmed its last record, and only then releases.
// - A server that is silent for `disconnect_after` (no heartbeat, or the token cannot be asked for)
//   leaves the node on its own: writers go on without a token, or get EROFS, by the collection's
//   policy.
// - Coming back: first everything missed is applied while local writes go on; then the token is
//   asked for, the gate closes for the moment between grant and head, and what is pending is
//   appended under the grant.
// - While local records are reconciled with the server's state nothing is appended, and the token
// is
//   neither asked for nor kept: others need not wait for this node. What the journal lacks of a
//   grant's records would not come under it, so it is left to its lease.
// - A writer waits for the token at most `token_wait` and then gets EIO (as a soft NFS mount does:
//   its update was not done; EAGAIN would make programs spin on a file that poll(2) calls ready).
//   EAGAIN is for a sidecar that stops: another one takes over soon.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "services/common/types/numbers.h"

namespace intermezzo::sidecar {

// Time since an arbitrary moment of this boot; time spent suspended counts.
using Monotonic = absl::Duration;

namespace input {
// Time passed; also every other input looks at the time.
struct Tick {};
// Import, adoption or snapshot is complete (or was before this start).
struct Joined {};
// Import wants the token without opening the gate, or no longer wants it.
struct JoinWantsToken {
  bool wants = false;
};
// The import has made and confirmed what tells the other nodes that it has begun.
struct JoinAllowsRecall {};
// Updates are parked at the closed gate.
struct WritersWaiting {};
struct Granted {
  Epoch epoch;
  Seq head;
  absl::Duration lease;
  Monotonic asked_at;
};
struct AcquireFailed {
  absl::Status status;
};
struct Recalled {
  Epoch epoch;
};
struct RenewOk {
  Epoch epoch;
  absl::Duration lease;
  bool recalled = false;
  Monotonic asked_at;
};
struct RenewFailed {
  Epoch epoch;
  absl::Status status;
};
// Release was answered, OK or not.
struct ReleaseDone {
  Epoch epoch;
  absl::Status status;
};
// The journal refused the epoch: another one holds the token.
struct StaleEpoch {
  Epoch epoch;
};
// The forward stream ended.
struct StreamDown {};
// A message of the forward stream (a heartbeat too); the first one means that the stream is up.
struct HeadSeen {
  Seq head;
  Monotonic at;  // when it came
};
struct CursorMoved {
  Seq cursor;
};
// The journal has everything up to this origin seq.
struct JournalConfirmed {
  uint64_t origin_seq = 0;
};
// The last origin seq given to a local record.
struct LocalRecords {
  uint64_t last_origin_seq = 0;
};
// FlushMappings is done, or gave up.
struct Flushed {};
// Quiesce is done: nobody is inside the gate, nothing is dirty.
struct Quiet {
  uint64_t generation = 0;
  uint64_t last_origin_seq = 0;
};
// Local records that wait cannot go to the journal as they are. Answered by Reconcile.
struct Diverged {};
// What waits now was made on the server's state.
struct Reconciled {};
// Something broke for good: a conflict that nothing resolves, a database that fails.
struct Broken {
  absl::Status status;
};
// Hand everything back and stop.
struct Stop {};
}  // namespace input

using Input =
    std::variant<input::Tick, input::Joined, input::JoinWantsToken, input::JoinAllowsRecall,
                 input::WritersWaiting, input::Granted, input::AcquireFailed, input::Recalled,
                 input::RenewOk, input::RenewFailed, input::ReleaseDone, input::StaleEpoch,
                 input::StreamDown, input::HeadSeen, input::CursorMoved, input::JournalConfirmed,
                 input::LocalRecords, input::Flushed, input::Quiet, input::Diverged,
                 input::Reconciled, input::Broken, input::Stop>;

namespace action {
// Answered by Granted or AcquireFailed.
struct Acquire {
  absl::Duration timeout;
  friend bool operator==(const Acquire&, const Acquire&) = default;
};
struct CancelAcquire {
  friend bool operator==(const CancelAcquire&, const CancelAcquire&) = default;
};
// Answered by RenewOk or RenewFailed.
struct Renew {
  Epoch epoch;
  friend bool operator==(const Renew&, const Renew&) = default;
};
// Answered by ReleaseDone.
struct Release {
  Epoch epoch;
  friend bool operator==(const Release&, const Release&) = default;
};
// Epoch 0: without a token.
struct OpenGate {
  Epoch epoch;
  friend bool operator==(const OpenGate&, const OpenGate&) = default;
};
struct CloseGate {
  friend bool operator==(const CloseGate&, const CloseGate&) = default;
};
// Wait until nobody is inside the closed gate, then cut everything. Answered by Quiet.
struct Quiesce {
  uint64_t generation = 0;
  friend bool operator==(const Quiesce&, const Quiesce&) = default;
};
// Answered by Flushed.
struct FlushMappings {
  friend bool operator==(const FlushMappings&, const FlushMappings&) = default;
};
struct StartAppend {
  Epoch epoch;
  friend bool operator==(const StartAppend&, const StartAppend&) = default;
};
struct StopAppend {
  friend bool operator==(const StopAppend&, const StopAppend&) = default;
};
struct FailParked {
  absl::Status status;
  friend bool operator==(const FailParked&, const FailParked&) = default;
};
// The forward stream is silent: end it and connect anew.
struct RestartForward {
  friend bool operator==(const RestartForward&, const RestartForward&) = default;
};
// The token that the import wanted is there.
struct JoinGranted {
  Epoch epoch;
  Seq head;
  friend bool operator==(const JoinGranted&, const JoinGranted&) = default;
};
// Nothing is appended from now until Reconciled.
struct Reconcile {
  friend bool operator==(const Reconcile&, const Reconcile&) = default;
};
// Stop is complete.
struct Stopped {
  friend bool operator==(const Stopped&, const Stopped&) = default;
};
}  // namespace action

using Action =
    std::variant<action::Acquire, action::CancelAcquire, action::Renew, action::Release,
                 action::OpenGate, action::CloseGate, action::Quiesce, action::FlushMappings,
                 action::StartAppend, action::StopAppend, action::FailParked,
                 action::RestartForward, action::JoinGranted, action::Reconcile, action::Stopped>;

class Connection {
 public:
  struct Options {
    // offline_writes: allow.
    bool offline_writes = true;
    absl::Duration token_wait = absl::Seconds(30);
    absl::Duration disconnect_after = absl::Seconds(3);
  };
  enum class Phase { kJoining, kReconnecting, kConnected, kDisconnected, kFailed, kStopped };
  enum class Token {
    kNone,
    kAcquiring,
    kGranted,     // waits until the head is applied and the gate's old users are gone
    kHeld,        // the gate is open (closed while joining)
    kFlushing,    // recalled, mappings are flushed, gate open
    kConfirming,  // gate closed, waits for the journal
    kReleasing,
  };

  // Starts joining, gate closed, at `now`.
  Connection(Options options, Seq cursor, uint64_t last_origin_seq, uint64_t confirmed_origin_seq,
             Monotonic now);

  // What to do, in order.
  std::vector<Action> Step(const Input& input, Monotonic now);
  // When the next Tick is due at the latest.
  Monotonic NextTick() const;
  // The collection's policy changed.
  void SetOfflineWrites(bool allow) { options_.offline_writes = allow; }

  Phase phase() const { return phase_; }
  Token token() const { return token_; }
  // Epoch of the token held (from the grant to the release), or none.
  Epoch epoch() const { return epoch_; }
  bool gate_open() const { return gate_open_; }
  bool pending() const { return last_origin_ > confirmed_; }
  uint64_t confirmed() const { return confirmed_; }
  Seq head() const { return head_; }
  Monotonic lease_end() const { return lease_end_; }
  // What stopped it, or the last refusal of a token.
  const absl::Status& error() const { return error_; }

 private:
  void On(const input::Tick&);
  void On(const input::Joined&);
  void On(const input::JoinWantsToken&);
  void On(const input::JoinAllowsRecall&);
  void On(const input::WritersWaiting&);
  void On(const input::Granted&);
  void On(const input::AcquireFailed&);
  void On(const input::Recalled&);
  void On(const input::RenewOk&);
  void On(const input::RenewFailed&);
  void On(const input::ReleaseDone&);
  void On(const input::StaleEpoch&);
  void On(const input::StreamDown&);
  void On(const input::HeadSeen&);
  void On(const input::CursorMoved&);
  void On(const input::JournalConfirmed&);
  void On(const input::LocalRecords&);
  void On(const input::Flushed&);
  void On(const input::Quiet&);
  void On(const input::Diverged&);
  void On(const input::Reconciled&);
  void On(const input::Broken&);
  void On(const input::Stop&);

  // The rules that look at the state as a whole, after each input, until nothing changes.
  void Advance();
  void AdvanceLease();
  void AdvanceReach();
  void AdvanceReconciling();
  void AdvanceJoining();
  void AdvanceReconnecting();
  void AdvanceConnected();
  void AdvanceDisconnected();
  void AdvanceStopping();
  void AdvanceRecall();

  void Do(Action action);
  void TryAcquire();
  void HoldIfReady();
  void Open(Epoch epoch);
  void Close();
  void StopAppend();
  void StartRelease();
  void LoseToken();
  void Disconnect(bool token_unreachable);
  void Fail(absl::Status status);
  void FailParked(absl::Status status);
  void TokenServiceAnswered();
  void TokenServiceSilent();

  bool lease_valid() const { return now_ < lease_end_; }
  bool in_contact() const;
  bool caught_up() const { return in_contact() && head_known_ && cursor_ >= head_; }
  bool holds() const {
    return token_ == Token::kHeld || token_ == Token::kFlushing || token_ == Token::kConfirming;
  }

  Options options_;
  Monotonic now_;
  std::vector<Action> out_;
  bool changed_ = false;

  Phase phase_ = Phase::kJoining;
  bool stopping_ = false;
  bool reconciling_ = false;
  bool join_wants_token_ = false;
  bool join_allows_recall_ = false;
  absl::Status error_;

  Token token_ = Token::kNone;
  Epoch epoch_;
  Seq grant_head_;
  Monotonic granted_at_;
  Monotonic lease_end_;
  Monotonic renew_at_;
  bool renewing_ = false;
  bool recalled_ = false;
  Epoch recalled_epoch_;        // of a recall that overtook its grant
  Epoch unknown_recall_;        // of a grant that this side does not hold
  uint64_t release_after_ = 0;  // joining: confirmed up to here is enough
  uint64_t reintegrate_until_ = 0;
  Monotonic retry_at_;  // Acquire and Release: not before
  std::optional<Monotonic> token_silent_since_;
  bool token_unreachable_ = false;  // why it is disconnected: the token cannot be asked for
  bool release_sent_ = false;

  bool gate_open_ = false;
  Epoch gate_epoch_;
  bool quiet_ = true;
  uint64_t generation_ = 0;
  Epoch append_epoch_;

  bool wanted_ = false;
  Monotonic wanted_since_;

  bool stream_up_ = false;
  bool head_known_ = false;
  Monotonic last_contact_;
  Seq head_;
  Seq cursor_;
  uint64_t last_origin_;
  uint64_t confirmed_;
};

// "connected" and so on, for logs and metrics.
std::string PhaseName(Connection::Phase phase);
std::string TokenName(Connection::Token token);

}  // namespace intermezzo::sidecar
