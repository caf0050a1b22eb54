// All journals of a server in one RocksDB: the durable JournalStore.
//
// Open reads every journal's state back; a confirmed batch, a fence and a created journal survive
// whatever happens afterwards. A thread of its own trims and watches the disk's free space.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "services/journal-service/core/journal.h"
#include "services/journal-service/core/observer.h"
#include "services/journal-service/rocksdb/committer.h"
#include "services/journal-service/rocksdb/database.h"
#include "services/journal-service/rocksdb/rocksdb_journal.h"

namespace intermezzo::journal {

class RocksDbJournalStore final : public JournalStore {
 public:
  struct Options {
    Database::Options database;
    Clock clock;                          // required
    JournalObserver* observer = nullptr;  // outlives the store; null: nobody
    size_t tail_cache_bytes = 32 << 20;   // per journal
    // Appends are refused while less is free: room for the database to tidy up.
    uint64_t reserve_bytes = 64 << 20;
    absl::Duration maintenance_interval = absl::Seconds(1);
    Committer::Limits limits;
  };
  static absl::StatusOr<std::unique_ptr<RocksDbJournalStore>> Open(Options options);
  // Commits what is queued, then closes.
  ~RocksDbJournalStore() override;

  absl::Status Create(const CollectionName& name, uint64_t uid, absl::Duration retention) override;
  absl::Status Delete(const CollectionName& name) override;
  absl::StatusOr<std::shared_ptr<Journal>> Find(const CollectionName& name) override;
  std::vector<std::shared_ptr<Journal>> List() override;

  Database& database() { return *database_; }

 private:
  RocksDbJournalStore(Options options, std::unique_ptr<Database> database);
  absl::Status Load();
  // On the commit thread, after a failed write.
  absl::Status Recover();
  void MaintenanceLoop();
  void Maintain();

  const Options options_;
  JournalObserver nobody_;
  JournalObserver& observer_;
  const std::unique_ptr<Database> database_;
  std::unique_ptr<Committer> committer_;

  // Held over a Create or Delete, so that they come one after the other; before mu_.
  absl::Mutex changing_;
  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  absl::flat_hash_map<CollectionName, std::shared_ptr<RocksDbJournal>> journals_
      ABSL_GUARDED_BY(mu_);

  std::thread maintenance_;
};

}  // namespace intermezzo::journal
