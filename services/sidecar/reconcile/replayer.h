// Replays the queue: each record that waits becomes, by the rules, none or some ordinary local
// records. One batch has a record's last step and its removal from the queue, so that a restart
// goes on where it was. Used by one thread, gate paused, tree reset.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "services/sidecar/reconcile/conflict_store.h"
#include "services/sidecar/reconcile/replay_rules.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::sidecar {

class Replayer {
 public:
  Replayer(Replica& replica, ConflictStore& store) : replica_(replica), store_(store) {}

  // Until the queue is empty; then the replica's state says so. Errors as Replica::MakeUpdate: what
  // was replayed stays, calling again goes on.
  absl::Status Run();
  // Records that met a conflict in this run.
  uint64_t conflicts() const { return conflicts_; }

 private:
  absl::Status Replay(ReplayRules& rules, uint64_t origin_seq, const record::v1::Entry& entry);
  absl::Status CopyLocalVersion(ObjectId from, record::v1::Record create,
                                const std::function<void(NodeDb::Batch&)>& rider);
  absl::Status Finish();

  Replica& replica_;
  ConflictStore& store_;
  uint64_t conflicts_ = 0;
};

// Note names in the node's database.
inline constexpr char kMapsNote[] = "maps";
std::string FormerNote(uint64_t object);

}  // namespace intermezzo::sidecar
