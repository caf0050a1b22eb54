// All replicas of one collection together: who is registered, the journal's head, what holds back
// trimming, who can serve a snapshot. Pure, like ReplicaProgress; owned by a Collection, which
// locks it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "services/common/types/numbers.h"
#include "services/forwarder-service/core/replica_progress.h"

namespace intermezzo::forwarder {

class CollectionProgress {
 public:
  CollectionProgress(Window window, absl::Duration silent_after)
      : window_(window), silent_after_(silent_after) {}

  // The registered nodes, all of them. Returns those that are no longer among them; what was known
  // of these is forgotten.
  std::vector<std::string> SetReplicas(const std::set<std::string>& nodes);
  // Null where the node is not registered. Valid until the next SetReplicas.
  ReplicaProgress* Find(std::string_view node);
  const std::map<std::string, ReplicaProgress, std::less<>>& replicas() const { return replicas_; }

  // News of the journal's end; late news are ignored.
  void HeadSeen(const JournalHead& head);
  // The journal's first kept seq.
  void FirstSeqSeen(Seq first_seq);
  Seq head() const { return head_ ? head_->seq : Seq(); }

  // What the journal is to hold back trimming by, by node: 0, which holds everything, for a
  // replica that was not heard of yet. Never more than the replica itself stated.
  std::vector<std::pair<std::string, Seq>> Cursors() const;
  // Lowest seq that every registered replica has applied; nothing where there is no replica.
  std::optional<Seq> AppliedByAll() const;
  // Live replicas but `joiner`, the furthest ahead first.
  std::vector<std::string> SnapshotSources(std::string_view joiner) const;
  // (node, seq) whose commit time is needed for the lag.
  std::vector<std::pair<std::string, Seq>> WantedCommitTimes() const;

 private:
  const Window window_;
  const absl::Duration silent_after_;
  std::map<std::string, ReplicaProgress, std::less<>> replicas_;
  std::optional<JournalHead> head_;
};

}  // namespace intermezzo::forwarder
