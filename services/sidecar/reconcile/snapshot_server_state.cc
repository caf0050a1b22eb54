#include "services/sidecar/reconcile/snapshot_server_state.h"

#include <utility>

namespace intermezzo::sidecar {
namespace {

absl::Status Unexpected() {
  return absl::UnavailableError("the snapshot's source sent what was not asked for");
}

}  // namespace

absl::StatusOr<forwarder::v1::TableHeader> SnapshotServerState::FetchTable(
    const std::function<absl::Status(const forwarder::v1::SnapshotObject&)>& object) {
  fetch_ = server_.Fetch();
  forwarder::v1::SnapshotQuery query;
  query.mutable_table();
  if (absl::Status status = fetch_->Send(query); !status.ok()) return status;
  auto first = fetch_->Next();
  if (!first.ok()) return first.status();
  if (!first->has_header()) return Unexpected();
  for (;;) {
    auto part = fetch_->Next();
    if (!part.ok()) return part.status();
    if (part->has_table_end()) return first->header();
    if (!part->has_object()) return Unexpected();
    if (absl::Status status = object(part->object()); !status.ok()) return status;
  }
}

absl::Status SnapshotServerState::FetchObjects(
    const std::vector<ObjectId>& objects,
    const std::function<absl::Status(const forwarder::v1::Chunk&)>& chunk,
    const std::function<absl::Status(const forwarder::v1::ObjectEnd&)>& end) {
  if (fetch_ == nullptr) fetch_ = server_.Fetch();
  forwarder::v1::SnapshotQuery query;
  for (ObjectId object : objects) query.mutable_objects()->add_objects(object.value());
  if (absl::Status status = fetch_->Send(query); !status.ok()) return status;
  for (size_t ended = 0; ended < objects.size();) {
    auto part = fetch_->Next();
    if (!part.ok()) return part.status();
    absl::Status status;
    if (part->has_chunk()) {
      status = chunk(part->chunk());
    } else if (part->has_object_end()) {
      status = end(part->object_end());
      ++ended;
    } else {
      status = Unexpected();
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<Seq> SnapshotServerState::Head() {
  auto position = server_.Journal();
  if (!position.ok()) return position.status();
  return position->head;
}

}  // namespace intermezzo::sidecar
