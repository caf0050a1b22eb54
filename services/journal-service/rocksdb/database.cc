#include "services/journal-service/rocksdb/database.h"

#include <rocksdb/cache.h>
#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/journal-service/rocksdb/format.h"

namespace intermezzo::journal {
namespace {

rocksdb::ColumnFamilyOptions FamilyOptions(Family family,
                                           const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions options;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.format_version = 5;
  table.checksum = rocksdb::kXXH3;
  options.write_buffer_size = 16 << 20;
  options.level_compaction_dynamic_level_bytes = true;
  options.compression = rocksdb::kLZ4Compression;
  switch (family) {
    case Family::kVersions:
    case Family::kOrigins:
    case Family::kMeta:
      // Point lookups, many of them of what is not there.
      table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
      options.memtable_whole_key_filtering = true;
      options.memtable_prefix_bloom_size_ratio = 0.02;
      break;
    case Family::kEntries:
      table.block_size = 16 << 10;  // read in order
      break;
    case Family::kPayloads:
      table.block_size = 16 << 10;
      options.compression = rocksdb::kNoCompression;  // their origin has compressed what pays
      options.enable_blob_files = true;
      options.min_blob_size = 4096;
      options.blob_file_size = 64 << 20;
      options.enable_blob_garbage_collection = true;
      options.blob_garbage_collection_force_threshold = 0.5;
      options.blob_cache = cache;
      break;
  }
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

rocksdb::DBOptions DatabaseOptions(rocksdb::Env* env) {
  rocksdb::DBOptions options;
  if (env != nullptr) options.env = env;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.max_background_jobs = 2;
  options.max_total_wal_size = 128 << 20;
  options.db_write_buffer_size = 64 << 20;
  options.max_open_files = 1024;
  options.keep_log_file_num = 4;
  options.max_log_file_size = 4 << 20;
  // A torn last group is what a power cut leaves; it was never confirmed.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  // Closed write-ahead logs must come back whole.
  options.track_and_verify_wals_in_manifest = true;
  return options;
}

}  // namespace

absl::Status FromRocksDb(const rocksdb::Status& status, absl::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat("journal database, ", what, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(text);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(text);
  if (status.IsCorruption()) return absl::DataLossError(text);
  return absl::UnavailableError(text);
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const Options& options) {
  std::unique_ptr<Database> database(new Database(options));
  if (absl::Status opened = database->OpenNow(); !opened.ok()) return opened;
  absl::StatusOr<std::string> format = database->Get(Family::kMeta, format::FormatKey());
  if (format.ok()) {
    if (absl::Status known = format::CheckFormatValue(*format); !known.ok()) return known;
    return database;
  }
  if (!absl::IsNotFound(format.status())) return format.status();
  rocksdb::WriteOptions synced;
  synced.sync = true;
  rocksdb::Status put = database->db().Put(synced, database->family(Family::kMeta),
                                           format::FormatKey(), format::FormatValue());
  if (!put.ok()) return FromRocksDb(put, "writing the format row");
  return database;
}

absl::Status Database::OpenNow() {
  std::shared_ptr<rocksdb::Cache> cache = rocksdb::NewLRUCache(options_.cache_bytes);
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  descriptors.emplace_back(rocksdb::kDefaultColumnFamilyName, rocksdb::ColumnFamilyOptions());
  for (size_t i = 0; i < kFamilyNames.size(); ++i) {
    descriptors.emplace_back(kFamilyNames[i], FamilyOptions(static_cast<Family>(i), cache));
  }
  rocksdb::DB* db = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::Status opened =
      rocksdb::DB::Open(DatabaseOptions(options_.env), options_.dir, descriptors, &handles, &db);
  if (!opened.ok()) {
    if (opened.ToString().find("lock") != std::string::npos) {
      return absl::FailedPreconditionError(
          absl::StrCat("journal database ", options_.dir, " is in use: ", opened.ToString()));
    }
    return FromRocksDb(opened, absl::StrCat("opening ", options_.dir));
  }
  db_.reset(db);
  default_ = handles[0];
  for (size_t i = 0; i < kFamilyNames.size(); ++i) families_[i] = handles[i + 1];
  return absl::OkStatus();
}

void Database::Close() {
  if (db_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* handle : families_) db_->DestroyColumnFamilyHandle(handle);
  db_->DestroyColumnFamilyHandle(default_);
  db_->Close().PermitUncheckedError();  // everything confirmed is synced
  db_.reset();
}

Database::~Database() { Close(); }

absl::Status Database::Reopen() {
  absl::WriterMutexLock lock(&open_mu_);
  Close();
  return OpenNow();
}

absl::Status Database::CheckOpen() const {
  if (db_ != nullptr) return absl::OkStatus();
  return absl::UnavailableError("the journal database is closed after a failed write");
}

absl::StatusOr<std::string> Database::Get(Family family, const std::string& key) const {
  Use use(*this);
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  std::string value;
  rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), this->family(family), key, &value);
  if (status.IsNotFound()) return absl::NotFoundError("no such row");
  if (!status.ok()) return FromRocksDb(status, "reading a row");
  return value;
}

absl::StatusOr<uint64_t> Database::FreeBytes() const {
  rocksdb::Env* env = options_.env != nullptr ? options_.env : rocksdb::Env::Default();
  uint64_t bytes = 0;
  rocksdb::Status status = env->GetFreeSpace(options_.dir, &bytes);
  if (!status.ok()) return FromRocksDb(status, "asking for free space");
  return bytes;
}

absl::StatusOr<ObjectState> DatabaseTable::Object(ObjectId object) const {
  if (auto it = objects_.find(object.value()); it != objects_.end()) return it->second;
  auto value = database_->Get(Family::kVersions, format::ObjectKey(uid_, object.value()));
  absl::StatusOr<ObjectState> state = ObjectState();
  if (value.ok()) {
    state = format::DecodeObject(*value);
  } else if (!absl::IsNotFound(value.status())) {
    state = value.status();
  }
  if (state.ok()) objects_.emplace(object.value(), *state);
  return state;
}

absl::StatusOr<EntryState> DatabaseTable::Entry(ObjectId directory, const std::string& name) const {
  VersionOverlay::EntryKey key(directory.value(), name);
  if (auto it = entries_.find(key); it != entries_.end()) return it->second;
  auto value = database_->Get(Family::kVersions, format::NameKey(uid_, directory.value(), name));
  absl::StatusOr<EntryState> state = EntryState();
  if (value.ok()) {
    state = format::DecodeEntry(*value);
  } else if (!absl::IsNotFound(value.status())) {
    state = value.status();
  }
  if (state.ok()) entries_.emplace(std::move(key), *state);
  return state;
}

}  // namespace intermezzo::journal
