// What to do where a forwarded record meets a pending local one.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "intermezzo/record/v1/record.pb.h"
#include "services/common/types/view.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::sidecar {

// Called by the thread that applies forwarded records, with nothing locked. Forwarding to this
// replica waits meanwhile; local updates go on.
class ConflictResolver {
 public:
  virtual ~ConflictResolver() = default;
  // Replica::Apply(entry) answered `conflict` (ABORTED). OK: the way is clear, Apply is tried
  // again. An error stops the replica with it: its gate closes, its files stay readable.
  virtual absl::Status Resolve(const record::v1::Entry& entry, const absl::Status& conflict,
                               Replica& replica) = 0;
  // Called before anything is applied or appended where records wait for replay (the gate is
  // paused): ends what a stop or a crash broke off, and unpauses the gate.
  virtual absl::Status Resume(Replica&) { return absl::OkStatus(); }
};

// Resolves nothing: the replica stops.
class RefuseConflicts final : public ConflictResolver {
 public:
  absl::Status Resolve(const record::v1::Entry& entry, const absl::Status& conflict,
                       Replica&) override {
    return absl::AbortedError(
        absl::StrCat("conflict at seq ", entry.seq(), ": ", conflict.message()));
  }
};

}  // namespace intermezzo::sidecar
