// The source's side of a snapshot: the object table as of a seq, and content of objects.
//
// The table is read from a view of the database in which every own record is one that the journal
// has: then the view is exactly the journal's prefix up to the last of them. Owned by the hosted
// replica; used by the thread of one snapshot.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/sidecar/replica/replica.h"
#include "services/sidecar/session/replica_session.h"

namespace intermezzo::sidecar {

// Sends a part; an error (the stream is gone) ends the answer.
using EmitPart = std::function<absl::Status(forwarder::v1::SnapshotPart)>;

// Answers a table query. UNAVAILABLE: no such view could be had (the node is cut off, or other
// nodes write in between); ask another replica, or again.
absl::Status SendTable(Replica& replica, ReplicaSession& session,
                       const forwarder::v1::TableQuery& query, const EmitPart& emit);

// Answers an objects query. INVALID_ARGUMENT: more than 1,000 objects.
absl::Status SendObjects(Replica& replica, const forwarder::v1::ObjectsQuery& query,
                         const EmitPart& emit);

}  // namespace intermezzo::sidecar
