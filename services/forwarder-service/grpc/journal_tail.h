// The journal's newest entries of one collection, read once for all replicas that have caught up.
// Each of them takes from here at its own pace; what they all have soon leaves again, and who falls
// behind what is kept reads the journal by itself. Starts with the first member, where that one
// stands, and ends with the last. Safe from any thread and never blocks. A member may hold its own
// lock while it calls in here; members are called with no lock of the tail held.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/types/numbers.h"
#include "services/forwarder-service/core/replica_progress.h"
#include "services/forwarder-service/grpc/environment.h"
#include "services/forwarder-service/grpc/journal_reader.h"

namespace intermezzo::forwarder {

class Collection;

// An entry with its payload, and whose it is (none where the record cannot be read).
struct TailEntry {
  record::v1::Entry entry;
  Ordinal origin;
  absl::Time committed_at;  // see CommittedAt()
};
using TailEntryPtr = std::shared_ptr<const TailEntry>;

class JournalTail final : public JournalReader::Listener,
                          public std::enable_shared_from_this<JournalTail> {
 public:
  class Member {
   public:
    virtual ~Member() = default;
    // There are more entries.
    virtual void TailMoved() = 0;
    // It is no member any more: the journal's stream ended, and the tail knows nothing.
    virtual void TailLost() = 0;
  };

  // A replica that has everything up to `at`, with chain value `chain` there, becomes a member.
  // `collection`, the tail's owner, is told the journal's head while there are members. False, and
  // nothing changes, where the entries after `at` are no longer kept.
  bool Join(const std::shared_ptr<Environment>& environment, std::shared_ptr<Collection> collection,
            StreamId id, Seq at, const std::string& chain, std::weak_ptr<Member> member);
  // Idempotent.
  void Leave(StreamId id);
  // Entries from `next` on, at most one message's worth. False where they are no longer kept.
  bool Read(Seq next, std::vector<TailEntryPtr>* entries) const;

  // JournalReader::Listener.
  void JournalRead(JournalReader* reader, journal::v1::SubscribeResponse& message) override;
  void JournalDone(JournalReader* reader, const absl::Status& status) override;

 private:
  void StopLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<std::weak_ptr<Member>> MembersLocked() const ABSL_SHARED_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  std::function<absl::Time()> clock_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<Collection> collection_ ABSL_GUARDED_BY(mu_);  // while there are members
  std::map<StreamId, std::weak_ptr<Member>> members_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<JournalReader> reader_ ABSL_GUARDED_BY(mu_);  // likewise
  Seq read_ ABSL_GUARDED_BY(mu_);                               // last seq read
  // Dense, up to read_.
  std::deque<TailEntryPtr> entries_ ABSL_GUARDED_BY(mu_);
  uint64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace intermezzo::forwarder
