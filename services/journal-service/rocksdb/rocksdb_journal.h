// One collection's journal in the database: reads here, changes through the committer.
//
// Owned by its store and by whoever uses it; the store must outlive all use.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "services/journal-service/core/admission.h"
#include "services/journal-service/core/journal.h"
#include "services/journal-service/core/tail_cache.h"
#include "services/journal-service/core/watchers.h"

namespace intermezzo::journal {

class Committer;
class Database;
struct TrimChange;

class RocksDbJournal final : public Journal, public std::enable_shared_from_this<RocksDbJournal> {
 public:
  RocksDbJournal(CollectionName name, JournalState state, std::vector<Cursor> cursors,
                 Database& database, Committer& committer, Clock clock, size_t tail_cache_bytes);

  const CollectionName& name() const override { return name_; }
  uint64_t uid() const { return uid_; }
  void Append(PreparedBatch batch, std::function<void(absl::StatusOr<Confirmation>)> done) override;
  void Fence(Epoch epoch, std::function<void(absl::StatusOr<Seq>)> done) override;
  absl::StatusOr<std::vector<EntryPtr>> Read(Seq from, const ReadOptions& options) override;
  bool ReadCached(Seq from, const ReadOptions& options, std::vector<EntryPtr>& out) override;
  absl::StatusOr<std::string> ChainAt(Seq seq) override;
  JournalState State() const override;
  absl::StatusOr<OriginState> Origin(Ordinal ordinal) const override;
  absl::Status SetCursors(std::vector<Cursor> cursors) override;
  absl::StatusOr<uint64_t> Trim() override;
  WatchId Watch(Watcher watcher) override { return watchers_.Watch(std::move(watcher)); }
  void Unwatch(WatchId id) override { watchers_.Unwatch(id); }

  // For the committer: what became durable.
  void Publish(const JournalState& state, const std::vector<EntryPtr>& entries);
  void PublishCursors(std::vector<Cursor> cursors);
  void PublishDeleted();
  // As the database has it after a failed write: forgets the tail cache where it differs.
  void Reload(const JournalState& state);
  void Notify();
  bool deleted() const;

  // For the committer's thread alone: origins that were looked up before.
  absl::flat_hash_map<uint64_t, OriginState>& origins() { return origins_; }

 private:
  absl::Status CheckAlive() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Empty: a row of them is missing.
  absl::StatusOr<std::vector<EntryPtr>> ReadDisk(Seq from, Seq head, const ReadOptions& options);
  // Moves `change` on over what may go, a bounded number; answers how many.
  absl::StatusOr<uint64_t> FindTrimmable(Seq limit, int64_t before_ns, TrimChange& change) const;
  // What a row that is missing means: OUT_OF_RANGE where it was trimmed meanwhile, else DATA_LOSS.
  absl::Status Missing(Seq seq) const;

  const CollectionName name_;
  const uint64_t uid_;
  Database& database_;
  Committer& committer_;
  const Clock clock_;
  absl::flat_hash_map<uint64_t, OriginState> origins_;
  Watchers watchers_;

  // Held over a Trim, so that one comes after the other; before mu_.
  mutable absl::Mutex trimming_;
  mutable absl::Mutex mu_;
  bool deleted_ ABSL_GUARDED_BY(mu_) = false;
  JournalState state_ ABSL_GUARDED_BY(mu_);
  std::vector<Cursor> cursors_ ABSL_GUARDED_BY(mu_);
  TailCache cache_ ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::journal
