// Digests of every object of a replica's lower tree, in byte order of the path.
//
// Memory: the names of the directories on the way down. Reads the tree while it may change; a name
// that goes meanwhile is left out.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "intermezzo/node/v1/node.pb.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::sidecar {

// Calls `digest` for each object by each of its names; false ends the walk with CANCELLED.
absl::Status WalkDigests(Replica& replica, const std::function<bool(node::v1::Digest)>& digest);

}  // namespace intermezzo::sidecar
