#include "services/sidecar/replica/replica.h"

#include <utility>

#include "services/sidecar/replica/replica_impl.h"

namespace intermezzo::sidecar {

absl::StatusOr<std::unique_ptr<Replica>> Replica::Open(Options options,
                                                       std::unique_ptr<LowerTree> lower,
                                                       std::unique_ptr<NodeDb> db) {
  auto replica = std::make_unique<ReplicaImpl>(std::move(options), std::move(lower), std::move(db));
  if (absl::Status status = replica->Load(); !status.ok()) return status;
  return replica;
}

ReplicaImpl::~ReplicaImpl() = default;

absl::Status ReplicaImpl::SyncJournal(ObjectId object) {
  if (absl::Status status = cutter_.CutInline(object); !status.ok()) return status;
  if (absl::Status status = core_.db().Sync(); !status.ok()) return core_.Fail(status);
  return absl::OkStatus();
}

absl::Status ReplicaImpl::Apply(const record::v1::Entry& entry) {
  absl::MutexLock lock(&core_.update_lock());
  return applier_.Apply(entry, presto_);
}

absl::Status ReplicaImpl::MakeUpdate(record::v1::Record op, const std::string& payload,
                                     const std::function<void(NodeDb::Batch&)>& rider) {
  core_.update_lock().AssertHeld();
  return applier_.Make(std::move(op), payload, rider, presto_);
}

storage::v1::ReplicaRow ReplicaImpl::state() const {
  core_.update_lock().AssertHeld();
  return core_.state();
}

absl::Status ReplicaImpl::ReloadState() {
  core_.update_lock().AssertHeld();
  return core_.ReloadState();
}

void ReplicaImpl::LeftReplayQueue() {
  core_.update_lock().AssertHeld();
  core_.LeftReplayQueue();
}

ObjectId ReplicaImpl::NewObjectId() {
  core_.update_lock().AssertHeld();
  return core_.NewObjectId();
}

}  // namespace intermezzo::sidecar
