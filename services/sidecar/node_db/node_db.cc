#include "services/sidecar/node_db/node_db.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "services/common/log/log.h"
#include "services/sidecar/node_db/node_db_keys.h"

namespace intermezzo::sidecar {
namespace {

namespace keys = node_db_keys;
using rocksdb::Slice;
using storage::v1::EntryRow;
using storage::v1::ObjectRow;
using storage::v1::ReplicaRow;

constexpr uint32_t kFormat = 1;
// Entries dropped one by one up to here; a longer run is dropped as a range.
constexpr uint64_t kMaxSingleDrops = 1024;

absl::Status FromRocks(const rocksdb::Status& status, const std::string& what) {
  if (status.ok()) return absl::OkStatus();
  std::string message = absl::StrCat("node database: ", what, ": ", status.ToString());
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  return absl::UnavailableError(message);
}

Slice ToSlice(std::string_view text) { return Slice(text.data(), text.size()); }
std::string_view ToView(const Slice& slice) { return {slice.data(), slice.size()}; }

[[noreturn]] void Broken(std::string_view what, const std::string& detail) {
  log::Fatal("node database cannot be read", {{"what", std::string(what)}, {"error", detail}});
}

template <typename Row>
Row ParseRow(const Slice& bytes, std::string_view what) {
  Row row;
  if (!row.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    Broken(what, "row does not parse");
  }
  return row;
}

template <typename Row>
std::optional<Row> GetRow(rocksdb::DB* db, const rocksdb::ReadOptions& options, const Slice& key,
                          std::string_view what) {
  rocksdb::PinnableSlice value;
  rocksdb::Status status = db->Get(options, db->DefaultColumnFamily(), key, &value);
  if (status.IsNotFound()) return std::nullopt;
  if (!status.ok()) Broken(what, status.ToString());
  return ParseRow<Row>(value, what);
}

// Tuned for small batches that are not synced: one writer, so the write thread neither spins nor
// batches; write buffers large enough that a flush never holds up a create.
rocksdb::DBOptions DatabaseOptions() {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = true;
  options.allow_concurrent_memtable_write = false;
  options.enable_write_thread_adaptive_yield = false;
  options.max_background_jobs = 2;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  options.max_total_wal_size = 256 << 20;
  options.wal_bytes_per_sync = 1 << 20;
  options.bytes_per_sync = 1 << 20;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  options.keep_log_file_num = 2;
  options.max_log_file_size = 1 << 20;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

rocksdb::ColumnFamilyOptions TableOptions() {
  rocksdb::ColumnFamilyOptions options;
  options.write_buffer_size = 32 << 20;
  options.max_write_buffer_number = 4;
  options.level0_slowdown_writes_trigger = 40;
  options.level0_stop_writes_trigger = 60;
  options.compression = rocksdb::kNoCompression;
  rocksdb::BlockBasedTableOptions table;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.block_cache = rocksdb::NewLRUCache(32 << 20);
  table.whole_key_filtering = true;
  // Much is looked up to find that it is not there.
  options.memtable_whole_key_filtering = true;
  options.memtable_prefix_bloom_size_ratio = 0.02;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

// The local journal: written once, read in order, dropped from the front. Large entries live in
// blob files, so that compaction never copies payloads.
rocksdb::ColumnFamilyOptions LocalOptions() {
  rocksdb::ColumnFamilyOptions options = TableOptions();
  options.write_buffer_size = 64 << 20;
  options.enable_blob_files = true;
  options.min_blob_size = 4096;
  options.blob_file_size = 64 << 20;
  options.enable_blob_garbage_collection = true;
  options.blob_garbage_collection_age_cutoff = 1.0;
  options.blob_garbage_collection_force_threshold = 0.5;
  return options;
}

class RocksNodeDb;

class RocksBatch : public NodeDb::Batch {
 public:
  explicit RocksBatch(const RocksNodeDb* db) : db_(db) {}
  void PutObject(ObjectId id, const ObjectRow& row) override;
  void UpdateObject(ObjectId id, const ObjectRow& row) override { Put(keys::Object(id), row); }
  void RemoveObject(ObjectId id, const ObjectRow& row) override;
  void PutEntry(ObjectId parent, const std::string& name, const EntryRow& row) override;
  void RemoveEntry(ObjectId parent, const std::string& name) override;
  void AppendLocal(uint64_t origin_seq, const record::v1::Entry& entry) override;
  void DropLocalThrough(uint64_t origin_seq) override;
  void DropLocal(uint64_t origin_seq) override;
  void PutNote(const std::string& name, const std::string& value) override {
    Note(batch_.Put(keys::Note(name), value));
  }
  void RemoveNote(const std::string& name) override { Note(batch_.Delete(keys::Note(name))); }
  void PutState(const ReplicaRow& row) override;

 private:
  friend class RocksNodeDb;
  void Put(const std::string& key, const google::protobuf::MessageLite& row) {
    scratch_.clear();
    row.AppendToString(&scratch_);
    Note(batch_.Put(key, scratch_));
  }
  void Note(const rocksdb::Status& status) {
    if (status_.ok() && !status.ok()) status_ = status;
  }

  const RocksNodeDb* db_;
  rocksdb::WriteBatch batch_;
  rocksdb::Status status_;
  std::string scratch_;
  uint64_t drop_through_ = 0;
};

class RocksView : public NodeDb::View {
 public:
  explicit RocksView(rocksdb::DB* db) : db_(db), snapshot_(db->GetSnapshot()) {
    options_.snapshot = snapshot_;
  }
  ~RocksView() override { db_->ReleaseSnapshot(snapshot_); }

  ReplicaRow state() const override {
    return GetRow<ReplicaRow>(db_, options_, ToSlice(keys::kState), "state").value_or(ReplicaRow());
  }

  absl::Status ForEachObject(
      const std::function<bool(ObjectId, const ObjectRow&)>& visit) const override {
    rocksdb::ReadOptions options = options_;
    options.fill_cache = false;
    const std::string end = "p";
    const Slice bound(end);
    options.iterate_upper_bound = &bound;
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options));
    for (it->Seek("o"); it->Valid(); it->Next()) {
      if (!visit(ObjectId(keys::TrailingNumber(ToView(it->key()))),
                 ParseRow<ObjectRow>(it->value(), "object"))) {
        break;
      }
    }
    return FromRocks(it->status(), "reading objects");
  }

  std::optional<EntryRow> Entry(ObjectId parent, const std::string& name) const override {
    return GetRow<EntryRow>(db_, options_, keys::Entry(parent, name), "entry");
  }

 private:
  rocksdb::DB* const db_;
  const rocksdb::Snapshot* const snapshot_;
  rocksdb::ReadOptions options_;
};

class RocksNodeDb : public NodeDb {
 public:
  RocksNodeDb(std::unique_ptr<rocksdb::DB> db, rocksdb::ColumnFamilyHandle* table,
              rocksdb::ColumnFamilyHandle* local)
      : db_(std::move(db)), table_(table), local_(local) {
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator({}, local_));
    it->SeekToFirst();
    if (it->Valid()) first_local_ = keys::TrailingNumber(ToView(it->key()));
  }

  ~RocksNodeDb() override {
    rocksdb::Status status = db_->SyncWAL();
    if (!status.ok()) log::Error("node database: last sync failed", {{"error", status.ToString()}});
    db_->DestroyColumnFamilyHandle(table_);
    db_->DestroyColumnFamilyHandle(local_);
    status = db_->Close();
    if (!status.ok()) log::Error("node database: close failed", {{"error", status.ToString()}});
  }

  std::optional<ObjectRow> Object(ObjectId id) const override {
    return GetRow<ObjectRow>(db_.get(), {}, keys::Object(id), "object");
  }

  std::optional<EntryRow> Entry(ObjectId parent, const std::string& name) const override {
    return GetRow<EntryRow>(db_.get(), {}, keys::Entry(parent, name), "entry");
  }

  ObjectId ByInode(uint64_t inode) const override {
    rocksdb::PinnableSlice value;
    rocksdb::Status status = db_->Get({}, db_->DefaultColumnFamily(), keys::Inode(inode), &value);
    if (status.IsNotFound()) return ObjectId();
    if (!status.ok()) Broken("inode", status.ToString());
    if (value.size() != 8) Broken("inode", "value is not 8 bytes");
    return ObjectId(keys::TrailingNumber(ToView(value)));
  }

  bool HasEntries(ObjectId parent) const override {
    const std::string prefix = keys::EntryPrefix(parent);
    const std::string end = keys::EntryPrefix(ObjectId(parent.value() + 1));
    const Slice bound(end);
    rocksdb::ReadOptions options;
    options.iterate_upper_bound = &bound;
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options));
    it->Seek(prefix);
    if (!it->status().ok()) Broken("entries", it->status().ToString());
    return it->Valid();
  }

  ReplicaRow State() const override {
    return GetRow<ReplicaRow>(db_.get(), {}, ToSlice(keys::kState), "state").value_or(ReplicaRow());
  }

  std::optional<std::string> Note(const std::string& name) const override {
    std::string value;
    rocksdb::Status status = db_->Get({}, db_->DefaultColumnFamily(), keys::Note(name), &value);
    if (status.IsNotFound()) return std::nullopt;
    if (!status.ok()) Broken("note", status.ToString());
    return value;
  }

  std::vector<std::string> NoteNames(const std::string& prefix) const override {
    const std::string first = keys::Note(prefix);
    std::vector<std::string> names;
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator({}));
    for (it->Seek(first); it->Valid() && it->key().starts_with(first); it->Next()) {
      names.push_back(it->key().ToString().substr(1));
    }
    if (!it->status().ok()) Broken("notes", it->status().ToString());
    return names;
  }

  std::vector<std::pair<uint64_t, record::v1::Entry>> ReadLocal(uint64_t after, size_t max_records,
                                                                size_t max_bytes) const override {
    std::vector<std::pair<uint64_t, record::v1::Entry>> entries;
    size_t bytes = 0;
    rocksdb::ReadOptions options;
    options.fill_cache = false;
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, local_));
    for (it->Seek(keys::Local(std::max(after + 1, first_local_.load())));
         it->Valid() && entries.size() < max_records; it->Next()) {
      bytes += it->value().size();
      if (!entries.empty() && bytes > max_bytes) break;
      entries.emplace_back(keys::TrailingNumber(ToView(it->key())),
                           ParseRow<record::v1::Entry>(it->value(), "local entry"));
    }
    if (!it->status().ok()) Broken("local journal", it->status().ToString());
    return entries;
  }

  std::unique_ptr<Batch> NewBatch() const override { return std::make_unique<RocksBatch>(this); }

  absl::Status Commit(std::unique_ptr<Batch> batch, bool sync) override {
    auto& changes = static_cast<RocksBatch&>(*batch);
    if (!changes.status_.ok()) return FromRocks(changes.status_, "making a batch");
    rocksdb::WriteOptions options;
    options.sync = sync;
    rocksdb::Status status = db_->Write(options, &changes.batch_);
    if (!status.ok()) return FromRocks(status, "writing");
    ++commits_;
    if (changes.drop_through_ >= first_local_) first_local_ = changes.drop_through_ + 1;
    return absl::OkStatus();
  }

  // Callers that wait here while another one syncs find their commits synced by the next.
  absl::Status Sync() override {
    const uint64_t wanted = commits_.load();
    absl::MutexLock lock(&sync_mu_);
    if (synced_ >= wanted) return absl::OkStatus();
    const uint64_t covers = commits_.load();
    absl::Status status = FromRocks(db_->SyncWAL(), "syncing");
    if (status.ok()) synced_ = covers;
    return status;
  }

  std::unique_ptr<View> NewView() const override { return std::make_unique<RocksView>(db_.get()); }

 private:
  friend class RocksBatch;
  const std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* const table_;
  rocksdb::ColumnFamilyHandle* const local_;
  // No local entry has a lower origin seq: readers need not pass over what was dropped.
  std::atomic<uint64_t> first_local_{1};
  std::atomic<uint64_t> commits_{0};
  absl::Mutex sync_mu_;
  uint64_t synced_ ABSL_GUARDED_BY(sync_mu_) = 0;
};

void RocksBatch::PutObject(ObjectId id, const ObjectRow& row) {
  Put(keys::Object(id), row);
  Note(batch_.Put(keys::Inode(row.inode()), keys::BigEndian64(id.value())));
}

void RocksBatch::RemoveObject(ObjectId id, const ObjectRow& row) {
  Note(batch_.Delete(keys::Object(id)));
  // The inode may have been given to another object already.
  if (db_->ByInode(row.inode()) == id) Note(batch_.Delete(keys::Inode(row.inode())));
}

void RocksBatch::PutEntry(ObjectId parent, const std::string& name, const EntryRow& row) {
  Put(keys::Entry(parent, name), row);
}

void RocksBatch::RemoveEntry(ObjectId parent, const std::string& name) {
  Note(batch_.Delete(keys::Entry(parent, name)));
}

void RocksBatch::AppendLocal(uint64_t origin_seq, const record::v1::Entry& entry) {
  scratch_.clear();
  entry.AppendToString(&scratch_);
  Note(batch_.Put(db_->local_, keys::Local(origin_seq), scratch_));
}

void RocksBatch::DropLocalThrough(uint64_t origin_seq) {
  const uint64_t first = std::max(db_->first_local_.load(), drop_through_ + 1);
  if (origin_seq < first) return;
  if (origin_seq - first < kMaxSingleDrops) {
    for (uint64_t seq = first; seq <= origin_seq; ++seq) DropLocal(seq);
  } else {
    Note(batch_.DeleteRange(db_->local_, keys::Local(first), keys::Local(origin_seq + 1)));
  }
  drop_through_ = origin_seq;
}

void RocksBatch::DropLocal(uint64_t origin_seq) {
  Note(batch_.Delete(db_->local_, keys::Local(origin_seq)));
}

void RocksBatch::PutState(const ReplicaRow& row) { Put(std::string(keys::kState), row); }

}  // namespace

absl::StatusOr<std::unique_ptr<NodeDb>> NodeDb::Open(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("node database: cannot make directory ", dir, ": ", error.message()));
  }
  std::vector<rocksdb::ColumnFamilyDescriptor> families = {
      {rocksdb::kDefaultColumnFamilyName, TableOptions()}, {"local", LocalOptions()}};
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* raw = nullptr;
  rocksdb::Status status = rocksdb::DB::Open(DatabaseOptions(), dir, families, &handles, &raw);
  if (status.IsIOError() && status.ToString().find("lock") != std::string::npos) {
    return absl::FailedPreconditionError(absl::StrCat(
        "node database ", dir, " is in use by another process (", status.ToString(), ")"));
  }
  if (status.IsInvalidArgument()) {
    return absl::FailedPreconditionError(
        absl::StrCat("node database ", dir, " was made by another version: ", status.ToString()));
  }
  if (!status.ok()) return FromRocks(status, absl::StrCat("opening ", dir));
  auto db =
      std::make_unique<RocksNodeDb>(std::unique_ptr<rocksdb::DB>(raw), handles[0], handles[1]);
  const uint32_t format = db->State().format();
  if (format != 0 && format != kFormat) {
    return absl::FailedPreconditionError(absl::StrCat("node database ", dir, " has format ", format,
                                                      "; this program reads format ", kFormat));
  }
  return db;
}

}  // namespace intermezzo::sidecar
