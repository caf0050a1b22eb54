// Applies entries of the server's journal, one after the other: check, effect, commit, invalidate.
//
// Owned by the replica; every call holds the update lock. A foreign record changes the lower tree;
// an own one confirms what the local journal holds. Nothing is changed before everything that can
// be checked was checked.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "services/sidecar/replica/cutter.h"
#include "services/sidecar/replica/effects.h"
#include "services/sidecar/replica/replica_core.h"

namespace intermezzo::sidecar {

class Applier {
 public:
  Applier(ReplicaCore& core, Cutter& cutter);

  // As Replica::Apply. `presto` may be null.
  absl::Status Apply(const record::v1::Entry& entry, Presto* presto);
  // As Replica::MakeUpdate.
  absl::Status Make(record::v1::Record op, const std::string& payload,
                    const std::function<void(NodeDb::Batch&)>& rider, Presto* presto);

 private:
  using Record = record::v1::Record;
  using Row = storage::v1::ObjectRow;
  // What applying one record makes: rows and what became stale.
  struct Change {
    std::unique_ptr<NodeDb::Batch> batch;
    Invalidation stale;
    Presto* presto = nullptr;
  };

  absl::Status Confirm(const record::v1::Entry& entry, const Record& record);
  absl::Status CheckPending(const Record& record);
  // The versions that the record states, against the table. `tolerant`: only those of entries.
  absl::Status CheckVersions(const Record& record, bool tolerant) const;
  absl::Status Perform(const Record& record, const std::string& payload, bool tolerant,
                       Change& change);

  absl::Status Create(const Record& record, Change& change);
  absl::Status Link(const Record& record, Change& change);
  absl::Status Remove(const Record& record, Change& change);
  absl::Status Rename(const Record& record, Change& change);
  absl::Status Data(const Record& record, const std::string& payload, bool tolerant,
                    Change& change);
  absl::Status Attributes(const Record& record, bool tolerant, Change& change);

  // Rows that a record needs; DATA_LOSS where the table has none, or one of another kind.
  absl::StatusOr<Row> Directory(uint64_t id) const;
  absl::StatusOr<Row> Object(uint64_t id) const;
  absl::Status CheckEntry(uint64_t parent, const std::string& name, uint64_t object) const;
  // A directory must not come to lie below itself.
  absl::Status CheckLoop(uint64_t directory, uint64_t new_parent) const;

  ReplicaCore& core_;
  Cutter& cutter_;
  const Effects effects_;
  bool making_ = false;  // within Make(); under the update lock
};

}  // namespace intermezzo::sidecar
