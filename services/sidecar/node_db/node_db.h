// The node's database for one replica: object table, local journal, cursor. RocksDB inside.
//
// Reads may come from any thread. Commits are made by one thread at a time (the replica's update
// lock is held). One Batch is one atomic step: after a crash it is there wholly or not at all, and
// batches are there in order. Formats: FORMAT.md beside this file.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/record/v1/record.pb.h"
#include "intermezzo/storage/v1/node_db.pb.h"
#include "services/common/types/numbers.h"

namespace intermezzo::sidecar {

class NodeDb {
 public:
  // Changes that become durable together. Made by the caller, used once.
  class Batch {
   public:
    virtual ~Batch() = default;
    // Object table. PutObject also keeps the inode index.
    virtual void PutObject(ObjectId id, const storage::v1::ObjectRow& row) = 0;
    // The row of an object that is in the table, at the inode that it has there.
    virtual void UpdateObject(ObjectId id, const storage::v1::ObjectRow& row) = 0;
    virtual void RemoveObject(ObjectId id, const storage::v1::ObjectRow& row) = 0;
    virtual void PutEntry(ObjectId parent, const std::string& name,
                          const storage::v1::EntryRow& row) = 0;
    virtual void RemoveEntry(ObjectId parent, const std::string& name) = 0;
    // Local journal: adds an entry at its origin seq, or drops all up to one.
    virtual void AppendLocal(uint64_t origin_seq, const record::v1::Entry& entry) = 0;
    virtual void DropLocalThrough(uint64_t origin_seq) = 0;
    virtual void DropLocal(uint64_t origin_seq) = 0;
    // Notes of the reconciliation, by a name of their own (FORMAT.md lists them).
    virtual void PutNote(const std::string& name, const std::string& value) = 0;
    virtual void RemoveNote(const std::string& name) = 0;
    // Replaces the replica's state row.
    virtual void PutState(const storage::v1::ReplicaRow& row) = 0;
  };

  // A consistent view of the object table at one moment.
  class View {
   public:
    virtual ~View() = default;
    virtual storage::v1::ReplicaRow state() const = 0;
    // Calls `visit` for every object, in order of id, until it returns false.
    virtual absl::Status ForEachObject(
        const std::function<bool(ObjectId, const storage::v1::ObjectRow&)>& visit) const = 0;
    virtual std::optional<storage::v1::EntryRow> Entry(ObjectId parent,
                                                       const std::string& name) const = 0;
  };

  virtual ~NodeDb() = default;

  // Creates or opens. FAILED_PRECONDITION: another format version. DATA_LOSS: corrupted.
  static absl::StatusOr<std::unique_ptr<NodeDb>> Open(const std::string& dir);

  // Absent rows are nullopt; a read error of the database stops the process (broken invariant).
  virtual std::optional<storage::v1::ObjectRow> Object(ObjectId id) const = 0;
  virtual std::optional<storage::v1::EntryRow> Entry(ObjectId parent,
                                                     const std::string& name) const = 0;
  virtual ObjectId ByInode(uint64_t inode) const = 0;  // none: ObjectId()
  virtual bool HasEntries(ObjectId parent) const = 0;
  virtual storage::v1::ReplicaRow State() const = 0;
  virtual std::optional<std::string> Note(const std::string& name) const = 0;
  // Names of all notes that begin so.
  virtual std::vector<std::string> NoteNames(const std::string& prefix) const = 0;

  // Entries with an origin seq above `after`, in order, up to both limits (at least one if any).
  virtual std::vector<std::pair<uint64_t, record::v1::Entry>> ReadLocal(uint64_t after,
                                                                        size_t max_records,
                                                                        size_t max_bytes) const = 0;

  virtual std::unique_ptr<Batch> NewBatch() const = 0;
  // RESOURCE_EXHAUSTED: no space. Without `sync` it is durable at the next Sync().
  virtual absl::Status Commit(std::unique_ptr<Batch> batch, bool sync) = 0;
  // Everything committed so far is on disk when it returns.
  virtual absl::Status Sync() = 0;

  virtual std::unique_ptr<View> NewView() const = 0;
};

}  // namespace intermezzo::sidecar
