// Waiting for replicas, for `mezzo wait` and `mezzo verify`. A service that cannot be reached is
// asked again until the deadline: it may be starting.
//
// NOT_FOUND: no such collection. DEADLINE_EXCEEDED says who kept it waiting. UNAVAILABLE: the
// deadline passed with a service out of reach.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/mezzo/client.h"
#include "services/mezzo/progress.h"

namespace intermezzo::mezzo {

// Until every replica has applied `seq` (0: the journal's head when called). Returns the seq.
absl::StatusOr<uint64_t> WaitUntilReplicated(Client& client, const std::string& collection,
                                             uint64_t seq, absl::Time deadline, Progress& progress);

// Until the journal has what connected nodes had written when this was called, pending records of a
// node that is just coming back included. Names in `left_out` the nodes that are not connected:
// what only they have is not waited for. FAILED_PRECONDITION: a replica on a connected node failed.
absl::Status WaitUntilWritesAreSent(Client& client, const std::string& collection,
                                    absl::Time deadline, Progress& progress,
                                    std::vector<std::string>& left_out);

// Until every replica's node is connected and has no record that the journal does not have.
absl::Status WaitUntilNothingPending(Client& client, const std::string& collection,
                                     absl::Time deadline, Progress& progress);

// The nodes with a replica of the collection. NOT_FOUND: no such collection, or no replica.
absl::StatusOr<std::vector<registry::v1::Node>> NodesOf(Client& client,
                                                        const std::string& collection);

}  // namespace intermezzo::mezzo
