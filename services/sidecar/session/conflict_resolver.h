// What to do where local records that wait cannot go to the journal as they are.
#pragma once

#include "absl/status/status.h"
#include "services/common/types/numbers.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::sidecar {

// Called by the thread that applies forwarded records, with nothing locked. Forwarding to this
// replica waits meanwhile, and nothing is appended; local updates wait too.
class ConflictResolver {
 public:
  virtual ~ConflictResolver() = default;
  // `why`: a forwarded record meets a pending one, the journal refused one, or the journal no
  // longer reaches back to the cursor. OK: the replica has the server's state of `at_least` or
  // later, and what is pending now was made on it. An error stops the replica with it: its gate
  // closes, its files stay readable.
  virtual absl::Status Resolve(Seq at_least, const absl::Status& why, Replica& replica) = 0;
  // Called before anything is applied or appended where records wait for replay (the gate is
  // paused): ends what a stop or a crash broke off, and unpauses the gate.
  virtual absl::Status Resume(Replica&) { return absl::OkStatus(); }
};

// Resolves nothing: the replica stops.
class RefuseConflicts final : public ConflictResolver {
 public:
  absl::Status Resolve(Seq, const absl::Status& why, Replica&) override { return why; }
};

}  // namespace intermezzo::sidecar
