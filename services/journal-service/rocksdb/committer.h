// Group commit: one thread takes the queued changes of all journals, decides on each in order,
// writes them all as one synced batch and then tells everybody. A second thread does the telling
// under load, so that the next write goes on meanwhile.
//
// After a failed write everybody in the group is told the error. Whether the disk has it is known
// only when the database was opened again (tried with the next change, after a pause): either all
// of the group is there, and a retry is confirmed, or nothing.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/journal-service/core/journal.h"
#include "services/journal-service/core/observer.h"
#include "services/journal-service/rocksdb/rocksdb_journal.h"

namespace intermezzo::journal {

class Database;

struct AppendChange {
  PreparedBatch batch;
  std::function<void(absl::StatusOr<Confirmation>)> done;
  absl::Time queued;
};
struct FenceChange {
  Epoch epoch;
  std::function<void(absl::StatusOr<Seq>)> done;
};
struct CursorsChange {
  std::vector<Cursor> cursors;
  std::function<void(absl::Status)> done;
};
// Removes [state.first, first).
struct TrimChange {
  Seq first;
  std::string base_chain;
  uint64_t bytes = 0;
  std::function<void(absl::Status)> done;
};
struct CreateChange {
  std::function<void(absl::Status)> done;
};
struct DeleteChange {
  std::function<void(absl::Status)> done;
};
struct Change {
  std::shared_ptr<RocksDbJournal> journal;
  std::variant<AppendChange, FenceChange, CursorsChange, TrimChange, CreateChange, DeleteChange>
      what;

  size_t bytes() const;
  size_t records() const;
};

class Committer {
 public:
  struct Limits {
    size_t queue_bytes = 128 << 20;
    size_t queue_records = 200'000;
    size_t group_bytes = 16 << 20;
    size_t group_records = 4'096;
    // Between tries to go on after a failed write.
    absl::Duration recovery_pause = absl::Seconds(1);
  };
  Committer(Database& database, Clock clock, JournalObserver& observer, Limits limits);
  ~Committer();
  Committer(const Committer&) = delete;
  Committer& operator=(const Committer&) = delete;

  // Queues a change; its `done` is called exactly once. UNAVAILABLE: queue full, or stopping.
  void Submit(Change change);
  // Refuses appends (RESOURCE_EXHAUSTED) while the disk has no room to spare.
  void SetLowSpace(bool low) { low_space_ = low; }
  // Commits what is queued and ends. Later changes are refused.
  void Stop();
  // Opens the database again after a failed write and has all journals take over what is there.
  // Set before use.
  void SetRecovery(std::function<absl::Status()> recovery) { recovery_ = std::move(recovery); }

 private:
  class Group;
  using Told = std::function<void()>;

  void CommitLoop();
  void TellLoop();
  void Commit(std::vector<Change> changes);
  void Tell(std::vector<Told> told);
  void RefuseAll(std::vector<Change> changes, const absl::Status& status);
  absl::Status Recover();

  Database& database_;
  const Clock clock_;
  JournalObserver& observer_;
  const Limits limits_;
  std::function<absl::Status()> recovery_;
  std::atomic<bool> low_space_{false};

  // Of the commit thread alone.
  absl::Status failure_;
  absl::Time next_recovery_ = absl::InfinitePast();

  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool committed_all_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<Change> queue_ ABSL_GUARDED_BY(mu_);
  size_t queue_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  size_t queue_records_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<std::vector<Told>> to_tell_ ABSL_GUARDED_BY(mu_);
  bool telling_ ABSL_GUARDED_BY(mu_) = false;

  std::thread commit_thread_;
  std::thread tell_thread_;
};

}  // namespace intermezzo::journal
