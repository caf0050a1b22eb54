// The replica as it is: capture.cc has presto's side, replica.cc the rest; the applier is a class
// of its own.
#pragma once

#include <memory>
#include <string>

#include "services/sidecar/replica/applier.h"
#include "services/sidecar/replica/cutter.h"
#include "services/sidecar/replica/replica.h"
#include "services/sidecar/replica/replica_core.h"

namespace intermezzo::sidecar {

class ReplicaImpl : public Replica {
 public:
  ReplicaImpl(Options options, std::unique_ptr<LowerTree> lower, std::unique_ptr<NodeDb> db)
      : core_(std::move(options), std::move(lower), std::move(db)),
        cutter_(core_),
        applier_(core_, cutter_) {}
  ~ReplicaImpl() override;

  absl::Status Load() { return core_.Load(); }

  void SetPresto(Presto* presto) override { presto_ = presto; }
  const Options& options() const override { return core_.options(); }
  LowerTree& lower() override { return core_.lower(); }
  const NodeDb& db() const override { return core_.db(); }
  WriteGate& gate() override { return core_.gate(); }

  absl::Mutex& update_lock() override { return core_.update_lock(); }
  absl::StatusOr<ObjectId> Created(ObjectId parent, int parent_fd,
                                   const std::string& name) override;
  absl::Status CreatedAs(ObjectId object, ObjectId parent, int parent_fd,
                         const std::string& name) override;
  absl::Status Linked(ObjectId object, ObjectId parent, int parent_fd,
                      const std::string& name) override;
  absl::Status Removed(ObjectId parent, int parent_fd, const std::string& name) override;
  absl::Status Renamed(ObjectId from_parent, int from_fd, const std::string& from_name,
                       ObjectId to_parent, int to_fd, const std::string& to_name,
                       unsigned flags) override;
  absl::Status AttributesSet(ObjectId object, int fd, bool atime_set) override;
  absl::Status XattrSet(ObjectId object, int fd, const std::string& name) override;
  absl::Status XattrRemoved(ObjectId object, int fd, const std::string& name) override;
  absl::Status Truncated(ObjectId object, int fd, uint64_t size) override;
  absl::Status Allocated(ObjectId object, int fd, int mode, uint64_t offset,
                         uint64_t length) override;
  absl::Status CutBefore(ObjectId object) override { return cutter_.CutLocked(object); }

  absl::Mutex& DataLock(ObjectId object) override { return cutter_.DataLock(object); }
  void Wrote(ObjectId object, uint64_t offset, uint64_t length) override {
    cutter_.Wrote(object, offset, length);
  }
  bool OverDirtyLimit() const override {
    return cutter_.dirty_bytes() > core_.options().max_dirty_bytes;
  }
  absl::Status CutInline(ObjectId object) override { return cutter_.CutInline(object); }
  absl::Status SyncJournal(ObjectId object) override;

  Seq cursor() const override { return core_.cursor(); }
  std::string chain() const override { return core_.chain(); }
  void SetProgressCallback(std::function<void()> notify) override {
    core_.SetProgressCallback(std::move(notify));
  }
  absl::Status Apply(const record::v1::Entry& entry) override;
  absl::Status MakeUpdate(record::v1::Record op, const std::string& payload,
                          const std::function<void(NodeDb::Batch&)>& rider) override;
  absl::Status CutAll() override { return cutter_.CutAll(); }
  uint64_t pending_records() const override { return core_.pending_records(); }
  uint64_t last_origin_seq() const override { return core_.last_origin_seq(); }
  uint64_t confirmed_origin_seq() const override { return core_.confirmed_origin_seq(); }
  uint64_t settled_origin_seq() const override { return core_.settled_origin_seq(); }
  uint64_t replay_through() const override { return core_.replay_through(); }
  absl::Status failure() const override { return core_.failure(); }

  NodeDb& mutable_db() override { return core_.db(); }
  storage::v1::ReplicaRow state() const override;
  absl::Status ReloadState() override;
  void LeftReplayQueue() override;
  ObjectId NewObjectId() override;

 private:
  // What a new name in a directory needs to know of the lower tree.
  struct Found {
    struct stat st;
    LowerHandle handle;
  };
  absl::StatusOr<Found> Look(int dir_fd, const std::string& name);
  // The row of a file whose data or attributes change, and its state; absent: nothing to capture.
  absl::StatusOr<std::optional<storage::v1::ObjectRow>> Changing(ObjectId object, int fd,
                                                                 struct stat& st);
  absl::Status CommitChange(ObjectId object, record::v1::Record record, storage::v1::ObjectRow row,
                            record::v1::Aspect aspect);
  // The table names something there that the lower tree lost behind our back: journals its removal.
  absl::Status Displace(ObjectId parent, int parent_fd, const std::string& name);

  ReplicaCore core_;
  Cutter cutter_;
  Applier applier_;
  Presto* presto_ = nullptr;
};

}  // namespace intermezzo::sidecar
