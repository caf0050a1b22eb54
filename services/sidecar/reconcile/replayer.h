// Replays the queue: each record that waits becomes, by the rules, none or some ordinary local
// records. One batch has a record's last step and its removal from the queue, so that a restart
// goes on where it was. Used by one thread, gate paused, tree reset.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "services/sidecar/reconcile/conflict_store.h"
#include "services/sidecar/reconcile/replay_rules.h"
#include "services/sidecar/replica/replica.h"

namespace intermezzo::sidecar {

class Replayer {
 public:
  // `conflict` is told the kind of each conflict; may be empty.
  Replayer(Replica& replica, ConflictStore& store,
           std::function<void(const std::string& kind)> conflict)
      : replica_(replica), store_(store), conflict_(std::move(conflict)) {}

  // Until the queue is empty; then the replica's state says so. Errors as Replica::MakeUpdate: what
  // was replayed stays, calling again goes on.
  absl::Status Run();

 private:
  absl::Status Replay(ReplayRules& rules, uint64_t origin_seq, const record::v1::Entry& entry);
  // Makes the object, then its content; a restart between goes on with the content.
  absl::Status CopyLocalVersion(ObjectId from, record::v1::Record create,
                                const std::function<void(NodeDb::Batch&)>& made,
                                const std::function<void(NodeDb::Batch&)>& copied);
  absl::Status CopyContent(ObjectId from, uint64_t to,
                           const std::function<void(NodeDb::Batch&)>& copied);
  absl::Status ResumeCopy(uint64_t through);
  absl::Status Finish();

  Replica& replica_;
  ConflictStore& store_;
  const std::function<void(const std::string& kind)> conflict_;
};

// Note names in the node's database.
inline constexpr char kMapsNote[] = "maps";
// Ids "from/to" of a local version that is being copied into the tree.
inline constexpr char kCopyingNote[] = "copying";
// The former rows are complete.
inline constexpr char kFormersNote[] = "formers";
std::string FormerNote(uint64_t object);

}  // namespace intermezzo::sidecar
