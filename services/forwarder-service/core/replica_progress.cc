#include "services/forwarder-service/core/replica_progress.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace intermezzo::forwarder {

absl::Time CommittedAt(int64_t committed_ns, int64_t server_now_ns, absl::Time now) {
  if (server_now_ns <= committed_ns) return now;
  return now - absl::Nanoseconds(server_now_ns - committed_ns);
}

bool ReplicaProgress::Connected(StreamId stream, Seq cursor, absl::Time now) {
  if (stream <= newest_stream_) return false;
  if (heard_ && cursor >= acked_ && cursor <= read_) {
    // What it applied of the former stream's entries without having said so.
    while (!in_flight_.empty() && in_flight_.front().seq <= cursor) {
      if (bytes_at_acked_) *bytes_at_acked_ += in_flight_.front().journal_bytes;
      in_flight_.pop_front();
      next_committed_at_.reset();
    }
    DropInFlight();
  } else {
    DropInFlight();
    bytes_at_acked_.reset();
    next_committed_at_.reset();
    if (!cursor) bytes_at_acked_ = 0;
  }
  if (head_.seq && cursor == head_.seq) bytes_at_acked_ = head_.bytes;
  heard_ = true;
  needs_snapshot_ = false;
  stream_ = newest_stream_ = stream;
  phase_ = Phase::kCatchingUp;
  last_heard_ = now;
  acked_ = sent_ = read_ = cursor;
  UpdatePhase();
  return true;
}

void ReplicaProgress::Disconnected(StreamId stream) {
  if (stream != stream_) return;
  stream_ = 0;
}

absl::Status ReplicaProgress::EntriesRead(StreamId stream, absl::Span<const EntryRead> entries) {
  if (!stream || stream != stream_) return absl::AbortedError("a newer stream took over");
  Seq next = read_;
  for (const EntryRead& entry : entries) {
    next = next.next();
    if (entry.seq != next) {
      return absl::InternalError(absl::StrCat("the journal gave seq ", entry.seq.value(), " where ",
                                              next.value(), " was due"));
    }
  }
  for (const EntryRead& entry : entries) {
    in_flight_.push_back(entry);
    in_flight_wire_bytes_ += entry.wire_bytes;
    in_flight_journal_bytes_ += entry.journal_bytes;
  }
  read_ = next;
  if (read_ == head_.seq && head_.bytes >= in_flight_journal_bytes_) {
    bytes_at_acked_ = head_.bytes - in_flight_journal_bytes_;
  }
  UpdatePhase();
  return absl::OkStatus();
}

void ReplicaProgress::Sent(StreamId stream, Seq upto) {
  if (stream != stream_) return;
  sent_ = std::min(std::max(sent_, upto), read_);
  UpdatePhase();
}

absl::StatusOr<bool> ReplicaProgress::Acked(StreamId stream, Seq seq, absl::Time now) {
  if (!stream || stream != stream_) return false;
  if (seq > sent_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "acknowledged seq ", seq.value(), ", but only up to ", sent_.value(), " was sent"));
  }
  last_heard_ = now;
  last_ack_ = now;
  if (seq <= acked_) return false;
  while (!in_flight_.empty() && in_flight_.front().seq <= seq) {
    const EntryRead& entry = in_flight_.front();
    in_flight_wire_bytes_ -= entry.wire_bytes;
    in_flight_journal_bytes_ -= entry.journal_bytes;
    if (bytes_at_acked_) *bytes_at_acked_ += entry.journal_bytes;
    in_flight_.pop_front();
  }
  acked_ = seq;
  next_committed_at_.reset();
  if (acked_ == head_.seq) bytes_at_acked_ = head_.bytes;
  UpdatePhase();
  return true;
}

void ReplicaProgress::HeadMoved(const JournalHead& head) {
  head_known_ = true;
  if (head.seq < head_.seq || (head.seq == head_.seq && head.bytes == head_.bytes)) {
    return UpdatePhase();
  }
  head_ = head;
  if (heard_ && acked_ == head_.seq) bytes_at_acked_ = head_.bytes;
  UpdatePhase();
}

void ReplicaProgress::Trimmed(StreamId stream, Seq first_seq) {
  if (!heard_ || stream != stream_) return;
  Seq at = stream_ ? read_ : acked_;
  if (at.next() < first_seq) needs_snapshot_ = true;
}

void ReplicaProgress::CommitTimeKnown(Seq seq, absl::Time committed_at) {
  if (seq == acked_.next()) next_committed_at_ = committed_at;
}

bool ReplicaProgress::Tick(absl::Time now) const {
  return stream_ != 0 && now - last_heard_ >= silent_after_;
}

bool ReplicaProgress::MayRead(StreamId stream) const {
  return stream && stream == stream_ && !needs_snapshot_ && in_flight_wire_bytes_ < window_.bytes &&
         in_flight_.size() < window_.records;
}

ReplicaState ReplicaProgress::state() const {
  if (needs_snapshot_) return ReplicaState::kNeedsSnapshot;
  if (!stream_) return ReplicaState::kAway;
  switch (phase_) {
    case Phase::kCatchingUp:
      return ReplicaState::kCatchingUp;
    case Phase::kLive:
      return ReplicaState::kLive;
    case Phase::kLagging:
      return ReplicaState::kLagging;
  }
  return ReplicaState::kAway;
}

Lag ReplicaProgress::lag(absl::Time now) const {
  Lag lag;
  lag.records = LagRecords();
  lag.bytes = LagBytes();
  if (lag.records == 0) return lag;
  std::optional<absl::Time> oldest = next_committed_at_;
  if (!in_flight_.empty()) oldest = in_flight_.front().committed_at;
  if (oldest && now > *oldest) lag.age = now - *oldest;
  return lag;
}

std::optional<Seq> ReplicaProgress::WantsCommitTime() const {
  if (LagRecords() == 0 || !in_flight_.empty() || next_committed_at_) return std::nullopt;
  return acked_.next();
}

uint64_t ReplicaProgress::LagRecords() const {
  Seq end = std::max(head_.seq, read_);
  return end > acked_ ? end.value() - acked_.value() : 0;
}

uint64_t ReplicaProgress::LagBytes() const {
  if (LagRecords() == 0) return 0;
  if (bytes_at_acked_) {
    uint64_t known = head_.bytes > *bytes_at_acked_ ? head_.bytes - *bytes_at_acked_ : 0;
    return std::max(known, in_flight_journal_bytes_);
  }
  uint64_t unread = head_.seq > read_ ? head_.seq.value() - read_.value() : 0;
  double mean = head_.seq ? static_cast<double>(head_.bytes) / head_.seq.value() : 0;
  return in_flight_journal_bytes_ + static_cast<uint64_t>(mean * unread);
}

void ReplicaProgress::UpdatePhase() {
  if (!stream_) return;
  uint64_t records = LagRecords();
  uint64_t bytes = LagBytes();
  switch (phase_) {
    case Phase::kCatchingUp:
      if (head_known_ && sent_ >= head_.seq && records <= window_.records &&
          bytes <= window_.bytes) {
        phase_ = Phase::kLive;
      }
      break;
    case Phase::kLive:
      if (records > window_.records || bytes > window_.bytes) phase_ = Phase::kLagging;
      break;
    case Phase::kLagging:
      // Half the window, so that a replica at the edge does not flicker.
      if (records <= window_.records / 2 && bytes <= window_.bytes / 2) phase_ = Phase::kLive;
      break;
  }
}

void ReplicaProgress::DropInFlight() {
  if (!in_flight_.empty()) next_committed_at_ = in_flight_.front().committed_at;
  in_flight_.clear();
  in_flight_wire_bytes_ = 0;
  in_flight_journal_bytes_ = 0;
}

}  // namespace intermezzo::forwarder
