// Where one replica of one collection stands, and what may be sent to it: the state machine of
// (collection, replica). Pure: it is told what happened and when, and answers what follows; the
// streams around it do the sending. Owned by a CollectionProgress; not thread-safe (its owner
// holds a lock).
//
// A replica has at most one current stream. Every stream has a number of its own, newer ones have
// higher numbers; what an older stream still reports is ignored. The replica's own durable cursor,
// stated when it connects, is the truth about what it has applied, also where it is lower than what
// was acknowledged before (a node restored from an older image).
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "services/common/types/numbers.h"

namespace intermezzo::forwarder {

using StreamId = uint64_t;

// Limits of what is sent and not acknowledged. Reading stops when one of them is reached, so what
// is in flight exceeds them by less than one message of the journal.
struct Window {
  uint64_t bytes = 16 << 20;
  uint64_t records = 8192;
};

// An entry that was read from the journal for the replica.
struct EntryRead {
  Seq seq;
  // Bytes that go to the replica.
  uint64_t wire_bytes = 0;
  // Bytes that the journal counts for it: record and payload, also where the payload was left out.
  uint64_t journal_bytes = 0;
  // When it was committed, on the reader's monotonic clock: see CommittedAt.
  absl::Time committed_at;
};

// When an entry was committed, on the clock of `now` (monotonic), from what one message of the
// journal states of the journal's own clock: the entry's time and the time of the message, which
// came at `now`. So the age of an entry is a difference of two readings of the server's clock,
// carried on by a clock that cannot jump: no other wall clock counts, and the server's may jump
// afterwards. `server_now_ns` 0 (not stated) or before the entry (it jumped back): the age begins
// now.
absl::Time CommittedAt(int64_t committed_ns, int64_t server_now_ns, absl::Time now);

// The end of the journal.
struct JournalHead {
  Seq seq;
  // Encoded bytes ever appended up to seq.
  uint64_t bytes = 0;
};

enum class ReplicaState { kAway, kCatchingUp, kLive, kLagging, kNeedsSnapshot };

// How far behind. `bytes` is exact from the first time that the replica had everything; before, the
// part not yet read is estimated by the journal's mean.
struct Lag {
  uint64_t records = 0;
  uint64_t bytes = 0;
  // Age of the oldest record not acknowledged; zero where there is none.
  absl::Duration age;
};

class ReplicaProgress {
 public:
  ReplicaProgress(Window window, absl::Duration silent_after)
      : window_(window), silent_after_(silent_after) {}

  // ---- what happened -------------------------------------------------------------------------
  // A stream said hello with the replica's cursor. False, and nothing changes, where a newer stream
  // is or was there. The stream before is stale from now on.
  bool Connected(StreamId stream, Seq cursor, absl::Time now);
  // The stream ended.
  void Disconnected(StreamId stream);
  // Entries came from the journal. INTERNAL: they are not dense after the ones before.
  // ABORTED: the stream is stale.
  absl::Status EntriesRead(StreamId stream, absl::Span<const EntryRead> entries);
  // Everything up to `upto` was handed to the stream.
  void Sent(StreamId stream, Seq upto);
  // The replica says that it has applied everything up to `seq`; any ack is a sign of life.
  // True where its cursor moved; false for a repeated, older or stale ack.
  // INVALID_ARGUMENT: more than was sent.
  absl::StatusOr<bool> Acked(StreamId stream, Seq seq, absl::Time now);
  // The journal has grown (a head before the known one is late news, and ignored).
  void HeadMoved(const JournalHead& head);
  // The journal's first kept seq. `stream`: the one whose reading met it; 0 where it is just known,
  // which then concerns a replica that is away (a connected one finds out by reading).
  void Trimmed(StreamId stream, Seq first_seq);
  // Answers WantsCommitTime().
  void CommitTimeKnown(Seq seq, absl::Time committed_at);
  // True where the current stream has been silent for too long and must be ended.
  bool Tick(absl::Time now) const;

  // ---- what follows --------------------------------------------------------------------------
  // Whether another message may be read from the journal for this stream.
  bool MayRead(StreamId stream) const;
  ReplicaState state() const;
  // False until the replica has said hello once: then nothing is known of its cursor.
  bool heard() const { return heard_; }
  // Last seq that it has applied, as far as known; 0 before it was heard.
  Seq acked() const { return acked_; }
  // Last seq read from the journal for the current stream; where the stream goes on.
  Seq read() const { return read_; }
  Seq head() const { return head_.seq; }
  // `now`: the clock of EntryRead::committed_at.
  Lag lag(absl::Time now) const;
  // The seq whose commit time is needed for the lag, where it is not known.
  std::optional<Seq> WantsCommitTime() const;
  // Number of the current stream, 0 for none.
  StreamId stream() const { return stream_; }
  std::optional<absl::Time> last_ack() const { return last_ack_; }
  uint64_t in_flight_bytes() const { return in_flight_wire_bytes_; }
  uint64_t in_flight_records() const { return in_flight_.size(); }

 private:
  enum class Phase { kCatchingUp, kLive, kLagging };

  void UpdatePhase();
  void DropInFlight();
  uint64_t LagRecords() const;
  uint64_t LagBytes() const;

  // Constant.
  const Window window_;
  const absl::Duration silent_after_;

  bool heard_ = false;
  bool needs_snapshot_ = false;
  StreamId stream_ = 0;         // current one, 0 for none
  StreamId newest_stream_ = 0;  // highest that was ever current
  Phase phase_ = Phase::kCatchingUp;
  absl::Time last_heard_;
  std::optional<absl::Time> last_ack_;

  Seq acked_;
  Seq sent_;
  Seq read_;
  JournalHead head_;
  bool head_known_ = false;
  // Read and not acknowledged: acked_ + 1 to read_, dense.
  std::deque<EntryRead> in_flight_;
  uint64_t in_flight_wire_bytes_ = 0;
  uint64_t in_flight_journal_bytes_ = 0;
  // Bytes ever appended up to acked_, where known.
  std::optional<uint64_t> bytes_at_acked_ = 0;
  // Commit time of acked_ + 1 where it is known and not in flight.
  std::optional<absl::Time> next_committed_at_;
};

}  // namespace intermezzo::forwarder
