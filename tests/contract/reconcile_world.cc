#include "tests/contract/reconcile_world.h"

#include <utility>

#include "tests/support/replica_state.h"

namespace intermezzo::tests {

ReconcileWorld::ReconcileWorld()
    : journal_(*CollectionName::Parse("www"), 7, absl::ZeroDuration(), [] { return absl::Now(); }),
      resolver_({.store_dir = dir_.path() + "/conflicts",
                 .server = [this] { return MakeState(); },
                 .presto = nullptr,
                 .wait = [this](absl::Duration) { return a_.commit_failure(); },
                 .hindered = nullptr,
                 .conflict = [this](const std::string& kind) { conflicts_.push_back(kind); }}) {}

std::unique_ptr<sidecar::ServerState> ReconcileWorld::MakeState() {
  return std::make_unique<ReplicaState>(ReplicaState::Options{
      .source = &b_.replica(),
      .before_table =
          [this] {
            if (failures_ == 0) return absl::OkStatus();
            --failures_;
            return absl::UnavailableError("no live replica");
          },
      .after_table =
          [this] {
            if (after_table_) after_table_();
          },
      .own = [this](Ordinal ordinal) -> absl::StatusOr<sidecar::OwnRecords> {
        auto origin = journal_.Origin(ordinal);
        if (!origin.ok()) return origin.status();
        return sidecar::OwnRecords{origin->last_origin_seq, origin->last_seq, origin->last_hash};
      },
      .head = [this]() -> absl::StatusOr<Seq> { return journal_.State().head; }});
}

absl::Status ReconcileWorld::Append(TestNode& node, std::vector<record::v1::Entry> entries) {
  // As the append stream does: what precedes is what the journal is known to have.
  const sidecar::Replica& replica = node.replica();
  auto batch = journal::PrepareBatch(replica.options().ordinal, Epoch(1),
                                     replica.confirmed_origin_seq(), std::move(entries));
  if (!batch.ok()) return batch.status();
  absl::Status result;
  journal_.Append(*std::move(batch), [&](absl::StatusOr<journal::Confirmation> confirmed) {
    result = confirmed.status();
  });
  return result;
}

absl::Status ReconcileWorld::Push(TestNode& node) {
  if (absl::Status status = node.replica().CutAll(); !status.ok()) return status;
  for (;;) {
    auto local = node.replica().db().ReadLocal(node.replica().confirmed_origin_seq(), 100, 1 << 20);
    if (local.empty()) return absl::OkStatus();
    std::vector<record::v1::Entry> entries;
    for (auto& [origin_seq, entry] : local) entries.push_back(std::move(entry));
    if (absl::Status status = Append(node, std::move(entries)); !status.ok()) return status;
    if (absl::Status status = Feed(node); !status.ok()) return status;
  }
}

absl::Status ReconcileWorld::Send(TestNode& node, size_t records) {
  auto local =
      node.replica().db().ReadLocal(node.replica().confirmed_origin_seq(), records, 1 << 20);
  std::vector<record::v1::Entry> entries;
  for (auto& [origin_seq, entry] : local) entries.push_back(std::move(entry));
  return Append(node, std::move(entries));
}

absl::Status ReconcileWorld::ReplaceHistory() {
  return resolver_.Resolve(journal_.State().head, absl::OutOfRangeError("trimmed"), a_.replica());
}

absl::Status ReconcileWorld::Feed(TestNode& node) {
  sidecar::Replica& replica = node.replica();
  for (int conflicts = 0;;) {
    auto entries = journal_.Read(
        replica.cursor().next(),
        {.skip_payloads_of = replica.options().ordinal, .max_bytes = 1, .max_records = 1});
    if (!entries.ok()) return entries.status();
    if (entries->empty()) return absl::OkStatus();
    record::v1::Entry entry = entries->front()->entry;
    entry.set_payload(entries->front()->payload);
    absl::Status status = replica.Apply(entry);
    if (absl::IsAborted(status) && &node == &a_ && ++conflicts < 100) {
      status = resolver_.Resolve(Seq(entry.seq()), status, replica);
    }
    if (!status.ok()) return status;
  }
}

absl::Status ReconcileWorld::CutOff() {
  for (int round = 0; round < 2; ++round) {
    for (TestNode* node : {&a_, &b_}) {
      if (absl::Status status = Push(*node); !status.ok()) return status;
      if (absl::Status status = Feed(*node); !status.ok()) return status;
    }
  }
  a_.replica().gate().Open({Epoch()});
  return absl::OkStatus();
}

absl::Status ReconcileWorld::Reconnect() {
  absl::Status status = Push(b_);
  if (status.ok()) status = a_.replica().CutAll();
  if (status.ok()) status = Feed(a_);
  if (status.ok()) status = Push(a_);
  if (status.ok()) status = Feed(b_);
  return status;
}

absl::Status ReconcileWorld::Resume() { return resolver_.Resume(a_.replica()); }

}  // namespace intermezzo::tests
