// Registry: the replicas of collections on nodes.
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"
#include "services/common/types/names.h"
#include "services/token-service/registry/registry.h"
#include "services/token-service/registry/replica_dirs.h"
#include "services/token-service/registry/request_memory.h"

namespace intermezzo::token {

using registry::v1::AddReplicaRequest;
using registry::v1::AddReplicaResponse;
using registry::v1::RemoveReplicaRequest;
using registry::v1::RemoveReplicaResponse;
using registry::v1::Replica;

void Registry::AddReplica(const AddReplicaRequest& request, Done<AddReplicaResponse> done) {
  Post(request, done, [this, request, done] { done(DoAddReplica(request)); });
}

absl::StatusOr<AddReplicaResponse> Registry::DoAddReplica(const AddReplicaRequest& request) {
  const Replica& wanted = request.replica();
  absl::Status dirs = CheckReplicaDirs(wanted.lower_dir(), wanted.mount_dir());
  if (!dirs.ok()) return dirs;

  StoreChange change;
  AddReplicaResponse response;
  {
    absl::MutexLock lock(&mu_);
    auto remembered = Remembered<AddReplicaResponse>(request);
    if (!remembered.ok()) return remembered.status();
    if (remembered->has_value()) return **remembered;

    const CollectionState* collection = Ready(wanted.collection());
    if (collection == nullptr) {
      return absl::NotFoundError(absl::StrCat(
          "no collection \"", absl::CHexEscape(wanted.collection().substr(0, 80)), "\""));
    }
    if (!nodes_.contains(wanted.node())) return NoSuchNode(wanted.node());

    Replica& replica = *response.mutable_replica();
    replica.set_collection(wanted.collection());
    replica.set_node(wanted.node());
    replica.set_collection_uid(collection->row.collection().uid());
    replica.set_lower_dir(wanted.lower_dir());
    replica.set_mount_dir(wanted.mount_dir());
    replica.set_offline_writes(collection->row.collection().offline_writes());
    auto present = replicas_.find({wanted.collection(), wanted.node()});
    if (present != replicas_.end()) {
      if (present->second.lower_dir() == wanted.lower_dir() &&
          present->second.mount_dir() == wanted.mount_dir()) {
        return response;
      }
      return absl::AlreadyExistsError(
          absl::StrCat("node \"", wanted.node(), "\" has a replica of \"", wanted.collection(),
                       "\" with lower_dir \"", present->second.lower_dir(), "\" and mount_dir \"",
                       present->second.mount_dir(), "\": remove it first"));
    }
    if (absl::Status status = CheckCollisions(replica); !status.ok()) return status;
    change.replicas.push_back(replica);
    Remember(request, response, change);
  }
  if (absl::Status status = Commit(change); !status.ok()) return status;
  log::Info("replica added", {{"collection", wanted.collection()}, {"node", wanted.node()}});
  TellWatchers({wanted.node()});
  return response;
}

absl::Status Registry::CheckCollisions(const Replica& replica) const {
  for (const auto& [key, other] : replicas_) {
    if (other.node() != replica.node()) continue;
    const std::pair<const std::string&, const std::string&> pairs[] = {
        {replica.lower_dir(), other.lower_dir()},
        {replica.lower_dir(), other.mount_dir()},
        {replica.mount_dir(), other.lower_dir()}};
    bool collide = !replica.mount_dir().empty() && replica.mount_dir() == other.mount_dir();
    for (const auto& [a, b] : pairs) collide = collide || DirsOverlap(a, b);
    if (!collide) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "directories of the replica of \"", replica.collection(), "\" (", replica.lower_dir(), ", ",
        replica.mount_dir(), ") collide with those of \"", other.collection(), "\" on node \"",
        other.node(), "\" (", other.lower_dir(), ", ", other.mount_dir(), "): choose others"));
  }
  return absl::OkStatus();
}

void Registry::RemoveReplica(const RemoveReplicaRequest& request,
                             Done<RemoveReplicaResponse> done) {
  Post(request, done, [this, request, done] { done(DoRemoveReplica(request)); });
}

absl::StatusOr<RemoveReplicaResponse> Registry::DoRemoveReplica(
    const RemoveReplicaRequest& request) {
  StoreChange change;
  RemoveReplicaResponse response;
  {
    absl::MutexLock lock(&mu_);
    auto remembered = Remembered<RemoveReplicaResponse>(request);
    if (!remembered.ok()) return remembered.status();
    if (remembered->has_value()) return **remembered;
    if (!replicas_.contains({request.collection(), request.node()})) {
      return absl::NotFoundError(absl::StrCat(
          "no replica of collection \"", absl::CHexEscape(request.collection().substr(0, 80)),
          "\" on node \"", absl::CHexEscape(request.node().substr(0, 80)), "\""));
    }
    change.dropped_replicas.push_back({request.collection(), request.node()});
    Remember(request, response, change);
  }
  if (absl::Status status = Commit(change); !status.ok()) return status;
  log::Info("replica removed", {{"collection", request.collection()}, {"node", request.node()}});
  listener_.ReplicaGone(request.collection(), request.node());
  TellWatchers({request.node()});
  return response;
}

}  // namespace intermezzo::token
