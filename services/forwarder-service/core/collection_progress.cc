#include "services/forwarder-service/core/collection_progress.h"

#include <algorithm>

namespace intermezzo::forwarder {

std::vector<std::string> CollectionProgress::SetReplicas(const std::set<std::string>& nodes) {
  std::vector<std::string> removed;
  for (auto it = replicas_.begin(); it != replicas_.end();) {
    if (nodes.contains(it->first)) {
      ++it;
    } else {
      removed.push_back(it->first);
      it = replicas_.erase(it);
    }
  }
  for (const std::string& node : nodes) {
    auto [it, added] = replicas_.try_emplace(node, window_, silent_after_);
    if (added && head_) it->second.HeadMoved(*head_);
  }
  return removed;
}

ReplicaProgress* CollectionProgress::Find(std::string_view node) {
  auto it = replicas_.find(node);
  return it == replicas_.end() ? nullptr : &it->second;
}

void CollectionProgress::HeadSeen(const JournalHead& head) {
  if (head_ && head.seq <= head_->seq) return;
  head_ = head;
  for (auto& [node, replica] : replicas_) replica.HeadMoved(head);
}

void CollectionProgress::FirstSeqSeen(Seq first_seq) {
  for (auto& [node, replica] : replicas_) replica.Trimmed(0, first_seq);
}

std::vector<std::pair<std::string, Seq>> CollectionProgress::Cursors() const {
  std::vector<std::pair<std::string, Seq>> cursors;
  for (const auto& [node, replica] : replicas_) cursors.emplace_back(node, replica.acked());
  return cursors;
}

std::optional<Seq> CollectionProgress::AppliedByAll() const {
  std::optional<Seq> lowest;
  for (const auto& [node, replica] : replicas_) {
    lowest = std::min(lowest.value_or(replica.acked()), replica.acked());
  }
  return lowest;
}

std::vector<std::string> CollectionProgress::SnapshotSources(std::string_view joiner) const {
  std::vector<std::pair<Seq, std::string>> live;
  for (const auto& [node, replica] : replicas_) {
    if (node != joiner && replica.state() == ReplicaState::kLive) {
      live.emplace_back(replica.acked(), node);
    }
  }
  std::stable_sort(live.begin(), live.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<std::string> nodes;
  nodes.reserve(live.size());
  for (auto& [seq, node] : live) nodes.push_back(std::move(node));
  return nodes;
}

std::vector<std::pair<std::string, Seq>> CollectionProgress::WantedCommitTimes() const {
  std::vector<std::pair<std::string, Seq>> wanted;
  for (const auto& [node, replica] : replicas_) {
    if (std::optional<Seq> seq = replica.WantsCommitTime()) wanted.emplace_back(node, *seq);
  }
  return wanted;
}

}  // namespace intermezzo::forwarder
