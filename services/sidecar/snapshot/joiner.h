// How a replica becomes part of its collection: by import, adoption, a snapshot, or from seq 1 on.
//
//   journal empty, lower directory empty   joined as it is
//   journal empty, lower directory not     import, under the token: one node of several wins
//   short untrimmed journal, dir empty     joined at cursor 0, the entries do the rest
//   else                                   snapshot; where the directory has content it is adopted
//
// Runs on the session's joining thread, with the gate closed and nothing mounted.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/sidecar/replica/replica.h"
#include "services/sidecar/session/replica_session.h"
#include "services/sidecar/snapshot/own_records.h"

namespace intermezzo::sidecar {

// The fetching side of one snapshot.
class SnapshotFetch {
 public:
  virtual ~SnapshotFetch() = default;
  // The stream's error where it has ended.
  virtual absl::Status Send(const forwarder::v1::SnapshotQuery& query) = 0;
  virtual absl::StatusOr<forwarder::v1::SnapshotPart> Next() = 0;
};

// The server as a joining replica sees it.
class JoinServer {
 public:
  struct JournalPosition {
    Seq head;
    Seq first;
  };
  virtual ~JoinServer() = default;
  virtual absl::StatusOr<JournalPosition> Journal() = 0;
  // What the journal has of this node's records, on disk.
  virtual absl::StatusOr<OwnRecords> Own(Ordinal ordinal) = 0;
  virtual std::unique_ptr<SnapshotFetch> Fetch() = 0;
  // Ends what is under way, and everything later, with CANCELLED. Any thread.
  virtual void Cancel() = 0;
};

// OK: joined. Retries what can be retried until the context is cancelled.
absl::Status Join(Replica& replica, JoinServer& server, JoinContext& context);

}  // namespace intermezzo::sidecar
