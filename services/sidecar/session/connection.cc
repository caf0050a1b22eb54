#include "services/sidecar/session/connection.h"

#include <errno.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/status/errno.h"
#include "services/common/types/view.h"

namespace intermezzo::sidecar {
namespace {

constexpr absl::Duration kRetryAcquire = absl::Milliseconds(100);
constexpr absl::Duration kRetryRenew = absl::Milliseconds(200);
// After a refusal, and for probes while disconnected.
constexpr absl::Duration kRetrySlow = absl::Seconds(1);

// The holder stops so long before the lease ends: for clock rates that differ and for the time
// between its last look at the clock and the writes that passed the gate by then.
absl::Duration Margin(absl::Duration lease) { return std::min(lease / 5, absl::Seconds(1)); }

bool IsUnreachable(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsCancelled(status) || absl::IsUnknown(status) ||
         absl::IsInternal(status);
}

}  // namespace

Connection::Connection(Options options, Seq cursor, uint64_t last_origin_seq,
                       uint64_t confirmed_origin_seq, Monotonic now)
    : options_(options),
      now_(now),
      lease_end_(now),
      retry_at_(now),
      last_contact_(now),
      cursor_(cursor),
      last_origin_(last_origin_seq),
      confirmed_(confirmed_origin_seq) {}

std::vector<Action> Connection::Step(const Input& input, Monotonic now) {
  now_ = std::max(now, now_);
  if (phase_ == Phase::kStopped) return {};
  std::visit([this](const auto& in) { On(in); }, input);
  do {
    changed_ = false;
    Advance();
  } while (changed_);
  return std::exchange(out_, {});
}

Monotonic Connection::NextTick() const {
  Monotonic next = absl::InfiniteDuration();
  auto at = [&](Monotonic when) { next = std::min(next, when); };
  if (phase_ == Phase::kStopped) return next;
  if (holds() || token_ == Token::kGranted) {
    if (!renewing_) at(renew_at_);
    if (lease_valid()) at(lease_end_);
    if (token_ == Token::kGranted) at(granted_at_ + options_.disconnect_after);
  }
  if (wanted_) at(wanted_since_ + options_.token_wait);
  if (token_ == Token::kReleasing && !release_sent_) at(retry_at_);
  if (token_ == Token::kNone && retry_at_ > now_) at(retry_at_);
  if (stream_up_ || phase_ == Phase::kConnected || phase_ == Phase::kReconnecting) {
    const Monotonic silent_at = last_contact_ + options_.disconnect_after;
    if (silent_at > now_) at(silent_at);
  }
  // A rule that waits for something else than time is looked at again with that input.
  return std::max(next, now_ + absl::Milliseconds(1));
}

bool Connection::in_contact() const {
  return stream_up_ && now_ - last_contact_ < options_.disconnect_after;
}

// ---- inputs ------------------------------------------------------------------------------------

void Connection::On(const input::Tick&) {}

void Connection::On(const input::Joined&) {
  if (phase_ != Phase::kJoining) return;
  phase_ = Phase::kReconnecting;
  join_wants_token_ = false;
  last_contact_ = now_;
  // The import's grant becomes an ordinary one; it opens the gate.
  if (token_ == Token::kHeld) token_ = Token::kGranted;
}

void Connection::On(const input::JoinWantsToken& in) {
  if (phase_ != Phase::kJoining) return;
  join_wants_token_ = in.wants;
  join_allows_recall_ = false;
}

void Connection::On(const input::JoinAllowsRecall&) { join_allows_recall_ = true; }

void Connection::On(const input::WritersWaiting&) {
  if (gate_open_ || wanted_) return;
  wanted_ = true;
  wanted_since_ = now_;
}

void Connection::On(const input::Granted& in) {
  TokenServiceAnswered();
  if (token_ != Token::kAcquiring && token_ != Token::kNone) return;
  token_ = Token::kGranted;
  unknown_recall_ = Epoch();
  epoch_ = in.epoch;
  grant_head_ = in.head;
  granted_at_ = now_;
  lease_end_ = in.asked_at + in.lease - Margin(in.lease);
  renew_at_ = in.asked_at + in.lease / 3;
  renewing_ = false;
  recalled_ = recalled_epoch_ == in.epoch;
  error_ = phase_ == Phase::kFailed ? error_ : absl::OkStatus();
  if (phase_ == Phase::kFailed || stopping_) StartRelease();
}

void Connection::On(const input::AcquireFailed& in) {
  if (token_ != Token::kAcquiring) return;
  token_ = Token::kNone;
  if (IsUnreachable(in.status)) {
    TokenServiceSilent();
    retry_at_ = now_ + (phase_ == Phase::kDisconnected ? kRetrySlow : kRetryAcquire);
    return;
  }
  TokenServiceAnswered();
  if (absl::IsDeadlineExceeded(in.status)) {
    retry_at_ = now_;
    return;
  }
  error_ = in.status;
  retry_at_ = now_ + kRetrySlow;
}

void Connection::On(const input::Recalled& in) {
  TokenServiceAnswered();
  if (holds() || token_ == Token::kGranted) {
    if (in.epoch == epoch_) recalled_ = true;
    return;
  }
  // It may have overtaken its grant.
  recalled_epoch_ = std::max(recalled_epoch_, in.epoch);
  if (token_ == Token::kNone) unknown_recall_ = in.epoch;
}

void Connection::On(const input::RenewOk& in) {
  TokenServiceAnswered();
  if (in.epoch != epoch_ || (!holds() && token_ != Token::kGranted)) return;
  renewing_ = false;
  lease_end_ = std::max(lease_end_, in.asked_at + in.lease - Margin(in.lease));
  renew_at_ = in.asked_at + in.lease / 3;
  if (in.recalled) recalled_ = true;
}

void Connection::On(const input::RenewFailed& in) {
  if (in.epoch != epoch_ || (!holds() && token_ != Token::kGranted)) return;
  renewing_ = false;
  if (IsUnreachable(in.status) || absl::IsDeadlineExceeded(in.status)) {
    TokenServiceSilent();
    renew_at_ = now_ + kRetryRenew;
    return;
  }
  TokenServiceAnswered();
  LoseToken();
}

void Connection::On(const input::ReleaseDone& in) {
  if (token_ != Token::kReleasing || in.epoch != epoch_) return;
  release_sent_ = false;
  // A sidecar that stops leaves the token to its lease where the server is away.
  if ((IsUnreachable(in.status) || absl::IsDeadlineExceeded(in.status)) && lease_valid() &&
      !stopping_) {
    TokenServiceSilent();
    retry_at_ = now_ + kRetryRenew;
    return;
  }
  if (!IsUnreachable(in.status)) TokenServiceAnswered();
  token_ = Token::kNone;
  epoch_ = Epoch();
  recalled_ = false;
  retry_at_ = now_;
}

void Connection::On(const input::StaleEpoch& in) {
  if (in.epoch == epoch_ && (holds() || token_ == Token::kGranted)) LoseToken();
}

void Connection::On(const input::StreamDown&) {
  stream_up_ = false;
  head_known_ = false;
}

void Connection::On(const input::HeadSeen& in) {
  last_contact_ = std::max(last_contact_, in.at);
  if (now_ - last_contact_ >= options_.disconnect_after) return;
  stream_up_ = true;
  head_known_ = true;
  head_ = std::max(head_, in.head);
}

void Connection::On(const input::CursorMoved& in) { cursor_ = std::max(cursor_, in.cursor); }

void Connection::On(const input::JournalConfirmed& in) {
  confirmed_ = std::max(confirmed_, in.origin_seq);
  last_origin_ = std::max(last_origin_, confirmed_);
}

void Connection::On(const input::LocalRecords& in) {
  last_origin_ = std::max(last_origin_, in.last_origin_seq);
}

void Connection::On(const input::Flushed&) {
  if (token_ != Token::kFlushing) return;
  token_ = Token::kConfirming;
  Close();
}

void Connection::On(const input::Quiet& in) {
  last_origin_ = std::max(last_origin_, in.last_origin_seq);
  if (!gate_open_ && in.generation == generation_) quiet_ = true;
}

void Connection::On(const input::Diverged&) {
  reconciling_ = true;
  if (phase_ == Phase::kConnected) phase_ = Phase::kReconnecting;
  StopAppend();
  Do(action::Reconcile{});
}

void Connection::On(const input::Reconciled&) {
  reconciling_ = false;
  retry_at_ = now_;
}

void Connection::On(const input::Broken& in) { Fail(in.status); }

void Connection::On(const input::Stop&) { stopping_ = true; }

// ---- rules -------------------------------------------------------------------------------------

void Connection::Advance() {
  if (phase_ == Phase::kStopped) return;
  if (wanted_ && now_ - wanted_since_ >= options_.token_wait) {
    FailParked(StatusFromErrno(
        EIO, absl::StrCat("the write token did not come within ",
                          absl::FormatDuration(options_.token_wait),
                          error_.ok() ? "" : absl::StrCat(" (", error_.message(), ")"))));
  }
  if (phase_ == Phase::kFailed) {
    if (wanted_) FailParked(StatusFromErrno(EIO, View(error_.message())));
    if (token_ == Token::kReleasing) AdvanceRecall();
    if (stopping_ && token_ == Token::kNone) {
      phase_ = Phase::kStopped;
      Do(action::Stopped{});
    }
    return;
  }
  AdvanceLease();
  AdvanceReconciling();
  if (stopping_) return AdvanceStopping();
  AdvanceReach();
  switch (phase_) {
    case Phase::kJoining:
      AdvanceJoining();
      break;
    case Phase::kReconnecting:
      AdvanceReconnecting();
      break;
    case Phase::kConnected:
      AdvanceConnected();
      break;
    case Phase::kDisconnected:
      AdvanceDisconnected();
      break;
    case Phase::kFailed:
    case Phase::kStopped:
      break;
  }
  AdvanceRecall();
}

void Connection::AdvanceLease() {
  if (!holds() && token_ != Token::kGranted) return;
  if (!lease_valid()) {
    // A grant that was queued for longer than its lease is renewed before it is used.
    const bool fresh = token_ == Token::kGranted && now_ - granted_at_ < options_.disconnect_after;
    if (!fresh) return LoseToken();
  }
  if (!renewing_ && now_ >= renew_at_) {
    renewing_ = true;
    Do(action::Renew{epoch_});
  }
}

void Connection::AdvanceReconciling() {
  if (!reconciling_) return;
  if (token_ == Token::kAcquiring) {
    token_ = Token::kNone;
    Do(action::CancelAcquire{});
  } else if (holds() || token_ == Token::kGranted) {
    LoseToken();
  }
}

void Connection::AdvanceReach() {
  if (stream_up_ && !in_contact()) {
    stream_up_ = false;
    head_known_ = false;
    Do(action::RestartForward{});
  }
  if (phase_ != Phase::kConnected && phase_ != Phase::kReconnecting) return;
  if (holds()) return;  // the lease says when it has to stop
  if (now_ - last_contact_ >= options_.disconnect_after) return Disconnect(false);
  if (token_silent_since_ && now_ - *token_silent_since_ >= options_.disconnect_after &&
      (wanted_ || pending()) && token_ == Token::kNone) {
    Disconnect(true);
  }
}

void Connection::AdvanceJoining() {
  switch (token_) {
    case Token::kNone:
      // A token lost before it was of use is asked for again.
      if (join_wants_token_ && !join_allows_recall_) TryAcquire();
      break;
    case Token::kGranted:
      if (!lease_valid()) break;
      token_ = Token::kHeld;
      append_epoch_ = epoch_;
      Do(action::StartAppend{epoch_});
      Do(action::JoinGranted{epoch_, grant_head_});
      break;
    case Token::kHeld:
      if (join_wants_token_ && !(recalled_ && join_allows_recall_)) break;
      // What the import makes from now on is appended under a later grant.
      token_ = Token::kConfirming;
      release_after_ = last_origin_;
      changed_ = true;
      break;
    default:
      break;
  }
}

void Connection::AdvanceReconnecting() {
  switch (token_) {
    case Token::kNone:
      if (reconciling_ || !caught_up()) break;
      if (pending()) {
        // With the gate open (written without a token) it stays open until the grant is there.
        if (gate_open_ || quiet_) TryAcquire();
      } else if (gate_open_) {
        Close();
      } else if (quiet_) {
        phase_ = Phase::kConnected;
        changed_ = true;
      }
      break;
    case Token::kGranted:
      if (gate_open_) Close();
      HoldIfReady();
      break;
    case Token::kHeld:
      if (confirmed_ >= reintegrate_until_) {
        phase_ = Phase::kConnected;
        changed_ = true;
      }
      break;
    default:
      break;
  }
}

void Connection::AdvanceConnected() {
  switch (token_) {
    case Token::kNone:
      if (pending() || gate_open_ || !quiet_) {
        phase_ = Phase::kReconnecting;
        changed_ = true;
      } else if (wanted_) {
        TryAcquire();
      }
      break;
    case Token::kGranted:
      HoldIfReady();
      break;
    default:
      break;
  }
}

void Connection::AdvanceDisconnected() {
  if (wanted_ && !gate_open_) {
    if (options_.offline_writes) {
      Open(Epoch());
    } else {
      FailParked(StatusFromErrno(EROFS, "the server cannot be reached and offline_writes is deny"));
    }
  }
  if (!in_contact()) return;
  if (token_unreachable_) {
    if (caught_up() && token_ == Token::kNone) TryAcquire();
    return;
  }
  phase_ = Phase::kReconnecting;
  changed_ = true;
}

void Connection::AdvanceRecall() {
  switch (token_) {
    case Token::kNone:
      // A grant that this side does not know: its answer was lost, or its lease ran out here. With
      // records pending it is asked for again instead, so that they are in the journal before the
      // next holder writes.
      if (unknown_recall_ && !pending() && quiet_) {
        epoch_ = std::exchange(unknown_recall_, Epoch());
        StartRelease();
      }
      break;
    case Token::kHeld:
      if (recalled_ && phase_ != Phase::kJoining) {
        token_ = Token::kFlushing;
        Do(action::FlushMappings{});
      }
      break;
    case Token::kConfirming: {
      const uint64_t needed = phase_ == Phase::kJoining ? release_after_ : last_origin_;
      if ((quiet_ || phase_ == Phase::kJoining) && confirmed_ >= needed) StartRelease();
      break;
    }
    case Token::kReleasing:
      if (!release_sent_ && now_ >= retry_at_) {
        release_sent_ = true;
        Do(action::Release{epoch_});
      }
      break;
    default:
      break;
  }
}

void Connection::AdvanceStopping() {
  if (wanted_) FailParked(StatusFromErrno(EAGAIN, "the sidecar is stopping"));
  switch (token_) {
    case Token::kNone:
      if (gate_open_) Close();
      if (!quiet_) return;
      phase_ = Phase::kStopped;
      Do(action::Stopped{});
      return;
    case Token::kAcquiring:
      Do(action::CancelAcquire{});
      token_ = Token::kNone;
      return;
    case Token::kGranted:
      if (gate_open_) Close();
      if (!quiet_) return;
      StartRelease();
      return;
    case Token::kHeld:
      if (phase_ == Phase::kJoining) {
        token_ = Token::kConfirming;
        release_after_ = last_origin_;
        changed_ = true;
        return;
      }
      recalled_ = true;
      AdvanceRecall();
      return;
    default:
      AdvanceRecall();
  }
}

// ---- what the rules do -------------------------------------------------------------------------

void Connection::Do(Action action) {
  out_.push_back(std::move(action));
  changed_ = true;
}

void Connection::TryAcquire() {
  if (reconciling_ || now_ < retry_at_) return;
  token_ = Token::kAcquiring;
  Do(action::Acquire{options_.token_wait});
}

void Connection::HoldIfReady() {
  if (!quiet_ || cursor_ < grant_head_ || !lease_valid()) return;
  token_ = Token::kHeld;
  reintegrate_until_ = last_origin_;
  append_epoch_ = epoch_;
  Do(action::StartAppend{epoch_});
  Open(epoch_);
}

void Connection::Open(Epoch epoch) {
  gate_open_ = true;
  gate_epoch_ = epoch;
  quiet_ = false;
  wanted_ = false;
  ++generation_;  // an answer to an earlier Quiesce no longer counts
  Do(action::OpenGate{epoch});
}

void Connection::Close() {
  if (!gate_open_) return;
  gate_open_ = false;
  gate_epoch_ = Epoch();
  ++generation_;
  Do(action::CloseGate{});
  Do(action::Quiesce{generation_});
}

void Connection::StopAppend() {
  if (!append_epoch_) return;
  append_epoch_ = Epoch();
  Do(action::StopAppend{});
}

void Connection::StartRelease() {
  StopAppend();
  token_ = Token::kReleasing;
  release_sent_ = false;
  retry_at_ = now_;
  changed_ = true;
}

void Connection::LoseToken() {
  StopAppend();
  token_ = Token::kNone;
  epoch_ = Epoch();
  recalled_ = false;
  renewing_ = false;
  retry_at_ = now_;
  changed_ = true;
  const bool was_open = gate_open_;
  Close();
  if (phase_ == Phase::kJoining || stopping_) return;
  const bool silent = now_ - last_contact_ >= options_.disconnect_after;
  if (silent || (token_silent_since_ && was_open)) return Disconnect(!silent);
  phase_ = Phase::kReconnecting;
}

void Connection::Disconnect(bool token_unreachable) {
  phase_ = Phase::kDisconnected;
  token_unreachable_ = token_unreachable;
  changed_ = true;
  if (token_ == Token::kAcquiring) {
    token_ = Token::kNone;
    Do(action::CancelAcquire{});
  } else if (token_ == Token::kGranted) {
    // With records pending it is left to its lease: they may be of this very grant.
    if (pending() || !quiet_) {
      token_ = Token::kNone;
      epoch_ = Epoch();
    } else {
      StartRelease();
    }
  }
  if (options_.offline_writes) {
    if (gate_open_ && gate_epoch_) Close();
    if (!gate_open_) Open(Epoch());
  } else {
    Close();
    if (wanted_) {
      FailParked(StatusFromErrno(EROFS, "the server cannot be reached and offline_writes is deny"));
    }
  }
}

void Connection::Fail(absl::Status status) {
  if (phase_ == Phase::kFailed) return;
  phase_ = Phase::kFailed;
  error_ = std::move(status);
  changed_ = true;
  Close();
  if (token_ == Token::kAcquiring) {
    token_ = Token::kNone;
    Do(action::CancelAcquire{});
  } else if (holds() || token_ == Token::kGranted) {
    // With records that the journal lacks the token is left to its lease.
    if (pending() || holds()) {
      StopAppend();
      token_ = Token::kNone;
      epoch_ = Epoch();
    } else {
      StartRelease();
    }
  }
  FailParked(StatusFromErrno(EIO, View(error_.message())));
}

void Connection::FailParked(absl::Status status) {
  wanted_ = false;
  Do(action::FailParked{std::move(status)});
}

void Connection::TokenServiceAnswered() {
  token_silent_since_.reset();
  token_unreachable_ = false;
}

void Connection::TokenServiceSilent() {
  if (!token_silent_since_) token_silent_since_ = now_;
}

std::string PhaseName(Connection::Phase phase) {
  switch (phase) {
    case Connection::Phase::kJoining:
      return "joining";
    case Connection::Phase::kReconnecting:
      return "reconnecting";
    case Connection::Phase::kConnected:
      return "connected";
    case Connection::Phase::kDisconnected:
      return "disconnected";
    case Connection::Phase::kFailed:
      return "failed";
    case Connection::Phase::kStopped:
      return "stopped";
  }
  return "unknown";
}

std::string TokenName(Connection::Token token) {
  switch (token) {
    case Connection::Token::kNone:
      return "none";
    case Connection::Token::kAcquiring:
      return "acquiring";
    case Connection::Token::kGranted:
      return "granted";
    case Connection::Token::kHeld:
      return "held";
    case Connection::Token::kFlushing:
      return "flushing";
    case Connection::Token::kConfirming:
      return "confirming";
    case Connection::Token::kReleasing:
      return "releasing";
  }
  return "unknown";
}

}  // namespace intermezzo::sidecar
