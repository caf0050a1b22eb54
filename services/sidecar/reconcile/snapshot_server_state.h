// The server's state as a live replica sends it: the fetching side of a snapshot, over the
// session's JoinServer. A new one for each attempt.
#pragma once

#include <memory>

#include "services/sidecar/reconcile/server_state.h"
#include "services/sidecar/snapshot/joiner.h"

namespace intermezzo::sidecar {

class SnapshotServerState final : public ServerState {
 public:
  // `server` outlives it.
  explicit SnapshotServerState(JoinServer& server) : server_(server) {}

  absl::StatusOr<forwarder::v1::TableHeader> FetchTable(
      const std::function<absl::Status(const forwarder::v1::SnapshotObject&)>& object) override;
  absl::Status FetchObjects(
      const std::vector<ObjectId>& objects,
      const std::function<absl::Status(const forwarder::v1::Chunk&)>& chunk,
      const std::function<absl::Status(const forwarder::v1::ObjectEnd&)>& end) override;
  absl::StatusOr<OwnRecords> Own(Ordinal ordinal) override { return server_.Own(ordinal); }
  absl::StatusOr<Seq> Head() override;

 private:
  JoinServer& server_;
  std::unique_ptr<SnapshotFetch> fetch_;
};

}  // namespace intermezzo::sidecar
