// Journals in memory: nothing survives the process. For tests and simulations; the same decisions
// as the durable ones. Callbacks run on the caller's thread, after the locks are released.
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
#include "services/journal-service/core/watchers.h"

namespace intermezzo::journal {

// Rows of one collection in memory.
class MemoryTable final : public VersionView {
 public:
  absl::StatusOr<ObjectState> Object(ObjectId object) const override;
  absl::StatusOr<EntryState> Entry(ObjectId directory, const std::string& name) const override;
  void Apply(const VersionOverlay& overlay);

 private:
  absl::flat_hash_map<uint64_t, ObjectState> objects_{{kRootObject.value(), FreshRoot()}};
  absl::flat_hash_map<VersionOverlay::EntryKey, EntryState> entries_;
};

class MemoryJournal final : public Journal {
 public:
  MemoryJournal(CollectionName name, uint64_t uid, absl::Duration retention, Clock clock);

  const CollectionName& name() const override { return name_; }
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

  // Called once by the store; every later call is NOT_FOUND.
  void MarkDeleted();

 private:
  absl::Status CheckAlive() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const CollectionName name_;
  const Clock clock_;
  Watchers watchers_;
  mutable absl::Mutex mu_;
  bool deleted_ ABSL_GUARDED_BY(mu_) = false;
  JournalState state_ ABSL_GUARDED_BY(mu_);
  MemoryTable table_ ABSL_GUARDED_BY(mu_);
  std::vector<EntryPtr> entries_ ABSL_GUARDED_BY(mu_);  // from state_.first on
  absl::flat_hash_map<uint64_t, OriginState> origins_ ABSL_GUARDED_BY(mu_);
  std::vector<Cursor> cursors_ ABSL_GUARDED_BY(mu_);
};

class MemoryJournalStore final : public JournalStore {
 public:
  explicit MemoryJournalStore(Clock clock) : clock_(std::move(clock)) {}

  absl::Status Create(const CollectionName& name, uint64_t uid, absl::Duration retention) override;
  absl::Status Delete(const CollectionName& name) override;
  absl::StatusOr<std::shared_ptr<Journal>> Find(const CollectionName& name) override;
  std::vector<std::shared_ptr<Journal>> List() override;

 private:
  const Clock clock_;
  absl::Mutex mu_;
  absl::flat_hash_map<CollectionName, std::shared_ptr<MemoryJournal>> journals_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace intermezzo::journal
