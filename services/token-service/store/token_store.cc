#include "services/token-service/store/token_store.h"

#include <endian.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/write_batch.h>

#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace intermezzo::token {
namespace {

constexpr uint32_t kFormat = 1;
const std::string kStateKey = "mstate";

absl::Status FromRocks(const rocksdb::Status& status, const std::string& what) {
  if (status.ok()) return absl::OkStatus();
  std::string message = absl::StrCat("token database: ", what, ": ", status.ToString());
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsCorruption()) return absl::DataLossError(message);
  return absl::UnavailableError(message);
}

std::string NumberKey(char tag, uint64_t number) {
  const uint64_t big = htobe64(number);
  std::string key(1, tag);
  key.append(reinterpret_cast<const char*>(&big), sizeof(big));
  return key;
}

std::string NameKey(char tag, const std::string& name) {
  return absl::StrCat(std::string(1, tag), name);
}

// Names have no '/'.
std::string PairKey(char tag, const std::string& first, const std::string& second) {
  return absl::StrCat(std::string(1, tag), first, "/", second);
}

absl::Status Damaged(const rocksdb::Slice& key) {
  return absl::DataLossError(
      absl::StrCat("token database: the row at key \"", absl::CHexEscape(key.ToString()),
                   "\" cannot be read: restore the directory from a backup"));
}

// What follows the tag, as a number.
bool ParseNumber(const rocksdb::Slice& key, uint64_t& number) {
  if (key.size() != 9) return false;
  uint64_t big = 0;
  std::memcpy(&big, key.data() + 1, sizeof(big));
  number = be64toh(big);
  return true;
}

template <typename Row>
bool Append(const rocksdb::Slice& value, std::vector<Row>& rows) {
  return rows.emplace_back().ParseFromArray(value.data(), static_cast<int>(value.size()));
}

// Reads one row into its place; false where it is damaged or unknown.
bool LoadRow(const rocksdb::Slice& key, const rocksdb::Slice& value, StoreContents& contents) {
  const int size = static_cast<int>(value.size());
  uint64_t number = 0;
  switch (key[0]) {
    case 'c':
      return Append(value, contents.collections);
    case 'g': {
      storage::v1::TokenGrantRow row;
      if (!ParseNumber(key, number) || !row.ParseFromArray(value.data(), size)) return false;
      contents.grants[number] =
          GrantRow{number, Epoch(row.epoch()), Holder{row.node(), row.instance()},
                   absl::Nanoseconds(row.lease_ns())};
      return true;
    }
    case 'i': {
      const std::string name = key.ToString().substr(1);
      const size_t slash = name.find('/');
      storage::v1::IncarnationRow row;
      if (slash == std::string::npos || !row.ParseFromArray(value.data(), size)) return false;
      contents.incarnations[{name.substr(0, slash), name.substr(slash + 1)}] = row.ordinal();
      return true;
    }
    case 'm':
      return key == rocksdb::Slice(kStateKey) && contents.state.ParseFromArray(value.data(), size);
    case 'n':
      return Append(value, contents.nodes);
    case 'q':
      return ParseNumber(key, number) &&
             contents.requests[number].ParseFromArray(value.data(), size);
    case 'r':
      return Append(value, contents.replicas);
    default:
      return false;
  }
}

void PutGrant(const GrantRow& grant, rocksdb::WriteBatch& batch) {
  storage::v1::TokenGrantRow row;
  row.set_epoch(grant.epoch.value());
  row.set_node(grant.holder.node);
  row.set_instance(grant.holder.instance);
  row.set_lease_ns(absl::ToInt64Nanoseconds(grant.lease));
  batch.Put(NumberKey('g', grant.collection_uid), row.SerializeAsString());
}

rocksdb::Options DatabaseOptions() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  options.max_background_jobs = 2;
  options.keep_log_file_num = 4;
  options.max_log_file_size = 4 << 20;
  options.write_buffer_size = 4 << 20;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.compression = rocksdb::kNoCompression;
  return options;
}

}  // namespace

TokenStore::TokenStore(std::unique_ptr<rocksdb::DB> db) : db_(std::move(db)) {}
TokenStore::~TokenStore() = default;

absl::StatusOr<std::unique_ptr<TokenStore>> TokenStore::Open(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot make directory ", directory, ": ", error.message()));
  }
  rocksdb::DB* raw = nullptr;
  rocksdb::Status status = rocksdb::DB::Open(DatabaseOptions(), directory, &raw);
  if (!status.ok()) {
    if (status.IsIOError() && status.ToString().find("lock") != std::string::npos) {
      return absl::FailedPreconditionError(absl::StrCat(
          "token database ", directory, " is open in another process: ", status.ToString()));
    }
    return FromRocks(status, absl::StrCat("open ", directory));
  }
  std::unique_ptr<TokenStore> store(new TokenStore(std::unique_ptr<rocksdb::DB>(raw)));

  std::string value;
  status = raw->Get(rocksdb::ReadOptions(), kStateKey, &value);
  storage::v1::TokenServiceRow state;
  if (status.IsNotFound()) {
    state.set_format(kFormat);
    StoreChange first;
    first.state = state;
    if (absl::Status written = store->Commit(first); !written.ok()) return written;
  } else if (!status.ok()) {
    return FromRocks(status, "read the state");
  } else if (!state.ParseFromString(value)) {
    return Damaged(kStateKey);
  } else if (state.format() != kFormat) {
    return absl::FailedPreconditionError(absl::StrCat("token database ", directory, " has format ",
                                                      state.format(), "; this program reads ",
                                                      kFormat));
  }
  return store;
}

absl::StatusOr<StoreContents> TokenStore::Load() const {
  StoreContents contents;
  rocksdb::ReadOptions options;
  options.total_order_seek = true;
  std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    if (!LoadRow(it->key(), it->value(), contents)) return Damaged(it->key());
  }
  if (!it->status().ok()) return FromRocks(it->status(), "load");
  return contents;
}

absl::Status TokenStore::Commit(const StoreChange& change) {
  rocksdb::WriteBatch batch;
  if (change.state.has_value()) batch.Put(kStateKey, change.state->SerializeAsString());
  for (const registry::v1::Node& node : change.nodes) {
    registry::v1::Node row = node;
    row.clear_connected();
    storage::v1::IncarnationRow incarnation;
    incarnation.set_ordinal(node.ordinal());
    batch.Put(PairKey('i', node.name(), node.instance()), incarnation.SerializeAsString());
    batch.Put(NameKey('n', node.name()), row.SerializeAsString());
  }
  for (const storage::v1::CollectionRow& row : change.collections) {
    batch.Put(NameKey('c', row.collection().name()), row.SerializeAsString());
  }
  for (const std::string& name : change.dropped_collections) batch.Delete(NameKey('c', name));
  for (const registry::v1::Replica& row : change.replicas) {
    batch.Put(PairKey('r', row.collection(), row.node()), row.SerializeAsString());
  }
  for (const auto& [collection, node] : change.dropped_replicas) {
    batch.Delete(PairKey('r', collection, node));
  }
  for (uint64_t uid : change.dropped_grants) batch.Delete(NumberKey('g', uid));
  for (const auto& [number, row] : change.requests) {
    batch.Put(NumberKey('q', number), row.SerializeAsString());
  }
  for (uint64_t number : change.dropped_requests) batch.Delete(NumberKey('q', number));
  return Write(batch);
}

absl::Status TokenStore::WriteGrants(const std::vector<GrantRow>& rows) {
  rocksdb::WriteBatch batch;
  for (const GrantRow& row : rows) PutGrant(row, batch);
  return Write(batch);
}

absl::Status TokenStore::Write(rocksdb::WriteBatch& batch) {
  if (resume_.exchange(false)) {
    if (rocksdb::Status status = db_->Resume(); !status.ok()) {
      resume_ = true;
      return FromRocks(status, "resume after a failed write");
    }
  }
  rocksdb::WriteOptions options;
  options.sync = true;
  const rocksdb::Status status = db_->Write(options, &batch);
  if (!status.ok()) resume_ = true;
  return FromRocks(status, "write");
}

}  // namespace intermezzo::token
