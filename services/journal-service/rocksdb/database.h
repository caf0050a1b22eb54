// The journal's RocksDB: opening, column families, errors. FORMAT.md says what is in it.
#pragma once

#include <rocksdb/db.h>

#include <array>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/journal-service/core/version_table.h"

namespace intermezzo::journal {

enum class Family { kMeta, kEntries, kPayloads, kVersions, kOrigins };
inline constexpr std::array<const char*, 5> kFamilyNames = {"meta", "entries", "payloads",
                                                            "versions", "origins"};

// RESOURCE_EXHAUSTED: no space. DATA_LOSS: corruption. NOT_FOUND. UNAVAILABLE: any other I/O error.
absl::Status FromRocksDb(const rocksdb::Status& status, absl::string_view what);

// Thread-safe but for Reopen. Whoever uses db() or a family from another thread than the one that
// calls Reopen holds a Use meanwhile.
class Database {
 public:
  struct Options {
    std::string dir;
    uint64_t cache_bytes = 64 << 20;
    rocksdb::Env* env = nullptr;  // null: the default one
  };
  // Creates what is missing. FAILED_PRECONDITION: in use by another process, or another format.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const Options& options);
  ~Database();

  // Keeps the database open while it lives; not for long.
  class Use {
   public:
    explicit Use(const Database& database) : lock_(&database.open_mu_) {}

   private:
    absl::ReaderMutexLock lock_;
  };
  // UNAVAILABLE where a Reopen has failed.
  absl::Status CheckOpen() const;

  // After a failed write: closes and opens again, which reads back what the disk has. Where opening
  // fails the database stays closed until the next try.
  absl::Status Reopen();

  rocksdb::DB& db() const { return *db_; }
  rocksdb::ColumnFamilyHandle* family(Family family) const {
    return families_[static_cast<size_t>(family)];
  }
  // The row; NOT_FOUND where there is none.
  absl::StatusOr<std::string> Get(Family family, const std::string& key) const;
  // Bytes free on the disk that holds it.
  absl::StatusOr<uint64_t> FreeBytes() const;

 private:
  explicit Database(const Options& options) : options_(options) {}
  absl::Status OpenNow();
  void Close();

  const Options options_;
  mutable absl::Mutex open_mu_;  // shared by Uses, whole for Reopen
  std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* default_ = nullptr;
  std::array<rocksdb::ColumnFamilyHandle*, kFamilyNames.size()> families_{};
};

// Rows of one collection as the database has them; what was read once is kept, so one serves for a
// group and not longer. Not thread-safe.
class DatabaseTable final : public VersionView {
 public:
  // `database` must outlive it.
  DatabaseTable(const Database* database, uint64_t uid) : database_(database), uid_(uid) {}
  absl::StatusOr<ObjectState> Object(ObjectId object) const override;
  absl::StatusOr<EntryState> Entry(ObjectId directory, const std::string& name) const override;

 private:
  const Database* const database_;
  const uint64_t uid_;
  mutable absl::flat_hash_map<uint64_t, ObjectState> objects_;
  mutable absl::flat_hash_map<VersionOverlay::EntryKey, EntryState> entries_;
};

}  // namespace intermezzo::journal
