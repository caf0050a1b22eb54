// The server's state, read from another replica of this process where it lies: what the forwarder
// would relay.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "services/sidecar/reconcile/server_state.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::tests {

class ReplicaState final : public sidecar::ServerState {
 public:
  struct Options {
    sidecar::Replica* source = nullptr;  // has nothing pending
    // An error: there is no source now. May be empty.
    std::function<absl::Status()> before_table;
    // The table was sent, and no content yet. May be empty.
    std::function<void()> after_table;
    std::function<absl::StatusOr<sidecar::OwnRecords>(Ordinal)> own;
    std::function<absl::StatusOr<Seq>()> head;
  };
  explicit ReplicaState(Options options) : options_(std::move(options)) {}

  absl::StatusOr<forwarder::v1::TableHeader> FetchTable(
      const std::function<absl::Status(const forwarder::v1::SnapshotObject&)>& object) override;
  absl::Status FetchObjects(
      const std::vector<ObjectId>& objects,
      const std::function<absl::Status(const forwarder::v1::Chunk&)>& chunk,
      const std::function<absl::Status(const forwarder::v1::ObjectEnd&)>& end) override;
  absl::StatusOr<sidecar::OwnRecords> Own(Ordinal ordinal) override {
    return options_.own(ordinal);
  }
  absl::StatusOr<Seq> Head() override { return options_.head(); }

 private:
  forwarder::v1::SnapshotObject Describe(uint64_t id, const storage::v1::ObjectRow& row);
  absl::Status SendContent(ObjectId id, const storage::v1::ObjectRow& row, uint64_t size,
                           const std::function<absl::Status(const forwarder::v1::Chunk&)>& chunk);

  const Options options_;
};

}  // namespace intermezzo::tests
