// The token-service's durable state in RocksDB: grants, nodes, collections, replicas, counters and
// answered requests. FORMAT.md has the keys. Every write is synced before it returns.
//
// Owned by the application. WriteGrants and Commit may be called by two threads at once; they do
// not touch the same rows. RESOURCE_EXHAUSTED: disk full; DATA_LOSS: damaged rows; UNAVAILABLE:
// other failures of the disk. A failed write is tried again by the next one, not by itself.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/storage/v1/token_db.pb.h"
#include "services/token-service/core/edges.h"

namespace rocksdb {
class DB;
class WriteBatch;
}  // namespace rocksdb

namespace intermezzo::token {

// Everything in the database.
struct StoreContents {
  storage::v1::TokenServiceRow state;
  // Ordinals of all incarnations ever registered, by (node name, instance).
  std::map<std::pair<std::string, std::string>, uint32_t> incarnations;
  std::vector<registry::v1::Node> nodes;
  std::vector<storage::v1::CollectionRow> collections;
  std::vector<registry::v1::Replica> replicas;
  // By collection uid; may hold leftovers of deleted collections.
  std::map<uint64_t, GrantRow> grants;
  std::map<uint64_t, storage::v1::RequestRow> requests;
};

// Rows changed together: all of them durable, or none.
struct StoreChange {
  std::optional<storage::v1::TokenServiceRow> state;
  // Each also enters its incarnation.
  std::vector<registry::v1::Node> nodes;
  std::vector<storage::v1::CollectionRow> collections;
  std::vector<std::string> dropped_collections;
  std::vector<registry::v1::Replica> replicas;
  // (collection, node).
  std::vector<std::pair<std::string, std::string>> dropped_replicas;
  std::vector<uint64_t> dropped_grants;
  std::vector<std::pair<uint64_t, storage::v1::RequestRow>> requests;
  std::vector<uint64_t> dropped_requests;
};

class TokenStore final : public GrantLog {
 public:
  // Creates the directory where it is absent. FAILED_PRECONDITION: another format, or the database
  // is open in another process.
  static absl::StatusOr<std::unique_ptr<TokenStore>> Open(const std::string& directory);
  ~TokenStore() override;

  absl::StatusOr<StoreContents> Load() const;
  absl::Status Commit(const StoreChange& change);
  absl::Status WriteGrants(const std::vector<GrantRow>& rows) override;

 private:
  explicit TokenStore(std::unique_ptr<rocksdb::DB> db);
  absl::Status Write(rocksdb::WriteBatch& batch);

  const std::unique_ptr<rocksdb::DB> db_;
  // RocksDB refuses writes after a failed one until it is resumed.
  std::atomic<bool> resume_{false};
};

}  // namespace intermezzo::token
