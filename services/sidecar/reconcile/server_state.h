// Where a reset gets the server's state from: a live replica, through the forwarder.
#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/common/types/numbers.h"
#include "services/sidecar/snapshot/own_records.h"

namespace intermezzo::sidecar {

class ServerState {
 public:
  virtual ~ServerState() = default;
  // The whole table, parents before children. UNAVAILABLE: no live replica now.
  virtual absl::StatusOr<forwarder::v1::TableHeader> FetchTable(
      const std::function<absl::Status(const forwarder::v1::SnapshotObject&)>& object) = 0;
  // Content and attributes of some objects as they are at the source now.
  virtual absl::Status FetchObjects(
      const std::vector<ObjectId>& objects,
      const std::function<absl::Status(const forwarder::v1::Chunk&)>& chunk,
      const std::function<absl::Status(const forwarder::v1::ObjectEnd&)>& end) = 0;
  // What the journal has of this node's records, on disk.
  virtual absl::StatusOr<OwnRecords> Own(Ordinal ordinal) = 0;
  // The journal's last seq, asked after content was fetched: no fetched byte is newer.
  virtual absl::StatusOr<Seq> Head() = 0;
};

}  // namespace intermezzo::sidecar
