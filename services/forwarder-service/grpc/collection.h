// A collection in the forwarder: its CollectionProgress under a lock, the current stream of each
// replica, and who waits for the replicas. Shared by the directory and the streams. Every method is
// safe from any thread and never blocks; streams and waiters are called with the lock released, so
// a stream may hold its own lock while it calls in here, and never the other way round.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/forwarder-service/core/collection_progress.h"
#include "services/forwarder-service/core/replica_progress.h"
#include "services/forwarder-service/grpc/environment.h"
#include "services/forwarder-service/grpc/incarnation.h"
#include "services/forwarder-service/grpc/open_calls.h"

namespace intermezzo::forwarder {

// A replica's Forward stream, as its collection sees it.
class ReplicaStream : public OpenCall {
 public:
  // Sends the head where nothing else was sent lately.
  virtual void Heartbeat(Seq head) = 0;
  // Sends a ServeOrder.
  virtual void Serve(const std::string& session) = 0;
};

// One row of progress, for people and for metrics.
struct ReplicaRow {
  std::string node;
  ReplicaState state = ReplicaState::kAway;
  bool connected = false;
  Seq applied;
  Seq head;
  Lag lag;
  // Wall clock of the last ack, zero before one.
  absl::Time last_ack = absl::UnixEpoch();
  // Since the replica was first seen here.
  uint64_t sent_bytes = 0;
  uint64_t sent_records = 0;
  uint64_t reconnects = 0;
};

class JournalTail;

class Collection : public std::enable_shared_from_this<Collection> {
 public:
  Collection(std::string name, uint64_t uid, const Options& options);

  const std::string& name() const { return name_; }
  uint64_t uid() const { return uid_; }
  // Where replicas that have caught up read.
  JournalTail& tail() { return *tail_; }

  // ---- the registry's side -------------------------------------------------------------------
  bool Has(const std::string& node) const;
  // Streams of replicas that are gone are ended; waiters may be satisfied by that.
  void SetReplicas(const std::set<std::string>& nodes);
  // Ends streams of incarnations that are not the registered ones (any more).
  void EndStrangers(const Incarnations& registered);
  // The collection was deleted: everything that is open for it ends with `status`, now and later.
  void End(const absl::Status& status);

  // ---- a stream's side -----------------------------------------------------------------------
  // Makes `stream` the replica's current one and ends the former. ABORTED: a newer one is there.
  // FAILED_PRECONDITION: no such replica.
  // `self`: who the stream says that it is.
  absl::Status Attach(const std::string& node, StreamId id, Seq cursor,
                      std::weak_ptr<ReplicaStream> stream, Incarnation self);
  void Detach(const std::string& node, StreamId id);
  // What a message of the journal said beside its entries.
  void HeadSeen(const JournalHead& head);
  // See ReplicaProgress.
  absl::Status EntriesRead(const std::string& node, StreamId id,
                           absl::Span<const EntryRead> entries);
  void Sent(const std::string& node, StreamId id, Seq upto, uint64_t bytes, uint64_t records);
  absl::Status Acked(const std::string& node, StreamId id, Seq seq);
  void Trimmed(const std::string& node, StreamId id, Seq first_seq);
  bool MayRead(const std::string& node, StreamId id) const;
  Seq head() const;

  // ---- the journal's side (the poller) -------------------------------------------------------
  void JournalSeen(const JournalHead& head, Seq first_seq);
  std::vector<std::pair<std::string, Seq>> WantedCommitTimes() const;
  void CommitTimeKnown(const std::string& node, Seq seq, absl::Time committed_at);
  std::vector<std::pair<std::string, Seq>> Cursors() const;

  // ---- everybody -----------------------------------------------------------------------------
  // Heartbeats, and the end of silent streams. Once per Options::heartbeat.
  void Tick();
  std::vector<ReplicaRow> Rows() const;
  // Calls `done` when every replica has applied `seq` (perhaps before this returns), or with
  // NOT_FOUND when the collection ends. RESOURCE_EXHAUSTED: too many wait. Returns a number for
  // CancelWait, after which `done` is not called any more (a call may be running).
  absl::StatusOr<uint64_t> Wait(Seq seq, std::function<void(const absl::Status&)> done);
  void CancelWait(uint64_t number);
  // Live replicas other than `joiner`, the furthest ahead first.
  std::vector<std::string> SnapshotSources(const std::string& joiner) const;
  // Sends the order on the node's current stream; false where it has none.
  bool OrderServe(const std::string& node, const std::string& session);

 private:
  struct Stream {
    StreamId id = 0;
    std::weak_ptr<ReplicaStream> stream;
    Incarnation self;
  };
  struct Counters {
    uint64_t connects = 0;
    uint64_t sent_bytes = 0;
    uint64_t sent_records = 0;
  };
  struct Waiter {
    Seq seq;
    std::function<void(const absl::Status&)> done;
  };

  // Takes out the waiters that are satisfied now.
  std::vector<std::function<void(const absl::Status&)>> TakeSatisfied()
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant.
  const std::string name_;
  const uint64_t uid_;
  const Options& options_;
  const std::shared_ptr<JournalTail> tail_;

  mutable absl::Mutex mu_;
  CollectionProgress progress_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Stream> streams_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Counters> counters_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, Waiter> waiters_ ABSL_GUARDED_BY(mu_);
  uint64_t last_waiter_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status ended_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::forwarder
