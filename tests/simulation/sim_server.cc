#include "tests/simulation/sim_server.h"

#include <algorithm>

#include "services/journal-service/core/admission.h"

namespace intermezzo::simulation {
namespace {
constexpr absl::Duration kLease = absl::Seconds(2);
}

SimServer::SimServer(World& world, Checker& checker)
    : world_(world), checker_(checker), journals_([this] { return Now(); }) {
  const auto name = *CollectionName::Parse(kCollection);
  (void)journals_.Create(name, 1, absl::Hours(1));
  journal_ = *journals_.Find(name);
  RestartTokenService();
  Heartbeat();
}

// ---- token-service -----------------------------------------------------------------------------

void SimServer::RestartTokenService() {
  ++token_incarnation_;
  auto waiting = std::exchange(waiting_, {});
  calls_.clear();
  for (auto& [id, done] : waiting) done(absl::UnavailableError("token-service restarted"));
  token::TokenLimits limits;
  limits.lease = kLease;
  limits.recall_deadline = absl::Seconds(1);
  table_ = std::make_unique<token::TokenTable>(limits);
  table_->AddCollection(kCollection, durable_epoch_);
  if (!durable_holder_.node.empty()) {
    table_->RestoreGrant(kCollection, durable_epoch_, durable_holder_, kLease, Now());
  }
  ArmTokenTimer();
}

void SimServer::ArmTokenTimer() {
  const absl::Time next = table_->NextDeadline();
  if (next == absl::InfiniteFuture()) return;
  world_.At(next - absl::UnixEpoch(), [this, incarnation = token_incarnation_, next] {
    if (incarnation != token_incarnation_ || table_->NextDeadline() != next) return;
    Carry(table_->Tick(Now()));
  });
}

void SimServer::Carry(token::Actions actions) {
  const uint64_t incarnation = token_incarnation_;
  for (auto& action : actions) {
    if (auto* persist = std::get_if<token::PersistGrant>(&action)) {
      // The disk keeps the order of the writes.
      disk_until_ = std::max(disk_until_, world_.now() + world_.UpTo(absl::Milliseconds(3)));
      world_.At(disk_until_, [this, incarnation, row = *persist] {
        if (incarnation != token_incarnation_) return;  // died before it was on disk
        durable_epoch_ = row.epoch;
        durable_holder_ = row.holder;
        Carry(table_->Persisted(kCollection, row.epoch, Now()));
      });
    } else if (auto* fence = std::get_if<token::Fence>(&action)) {
      // The call to the journal, and its answer, take time and may fail.
      const bool lost = world_.Chance(world_.faults().lose);
      world_.After(world_.UpTo(world_.faults().delay), [this, incarnation, lost,
                                                        epoch = fence->epoch] {
        absl::StatusOr<Seq> head = absl::UnavailableError("not answered");
        journal_->Fence(epoch, [&](absl::StatusOr<Seq> h) { head = h; });
        if (lost) head = absl::UnavailableError("the answer is lost");
        const Epoch known = journal_->State().epoch > epoch ? journal_->State().epoch : Epoch();
        world_.After(world_.UpTo(world_.faults().delay), [this, incarnation, epoch, head, known] {
          if (incarnation != token_incarnation_) return;
          Carry(head.ok() ? table_->FenceDone(kCollection, epoch, *head, Now())
                          : table_->FenceFailed(kCollection, epoch, head.status(), known, Now()));
        });
      });
    } else if (auto* grant = std::get_if<token::Grant>(&action)) {
      auto node = waiting_.extract(grant->request);
      if (!node.empty()) node.mapped()(*grant);
    } else if (auto* answer = std::get_if<token::Answer>(&action)) {
      auto node = waiting_.extract(answer->request);
      if (!node.empty()) node.mapped()(answer->status);
    } else if (auto* recall = std::get_if<token::SendRecall>(&action)) {
      auto it = recall_sinks_.find(recall->holder.node);
      if (it != recall_sinks_.end()) it->second(recall->epoch);
    }
  }
  ArmTokenTimer();
}

void SimServer::Acquire(Place from, const token::Holder& holder, uint64_t call, GrantDone done) {
  const token::RequestId id = next_request_++;
  waiting_[id] = std::move(done);
  calls_[{from, call}] = id;
  Carry(table_->Acquire(kCollection, holder, id, Now()));
}

void SimServer::CancelAcquire(Place from, uint64_t call) {
  auto it = calls_.find({from, call});
  if (it == calls_.end()) return;
  waiting_.erase(it->second);
  Carry(table_->CancelAcquire(kCollection, it->second, Now()));
  calls_.erase(it);
}

absl::StatusOr<token::Renewal> SimServer::Renew(const token::Holder& holder, Epoch epoch) {
  token::Actions actions;
  auto renewal = table_->Renew(kCollection, holder, epoch, Now(), actions);
  Carry(std::move(actions));
  return renewal;
}

absl::Status SimServer::Release(const token::Holder& holder, Epoch epoch) {
  token::Actions actions;
  absl::Status status = table_->Release(kCollection, holder, epoch, Now(), actions);
  Carry(std::move(actions));
  return status;
}

void SimServer::WatchRecalls(const token::Holder& holder, std::function<void(Epoch)> sink) {
  recall_sinks_[holder.node] = std::move(sink);
  Carry(table_->Resubscribe(holder));
}

// ---- journal-service ---------------------------------------------------------------------------

absl::StatusOr<journal::Confirmation> SimServer::Append(Ordinal ordinal, Epoch epoch,
                                                        uint64_t previous,
                                                        std::vector<record::v1::Entry> entries) {
  auto batch = journal::PrepareBatch(ordinal, epoch, previous, std::move(entries));
  if (!batch.ok()) return batch.status();
  const Seq before = head();
  absl::StatusOr<journal::Confirmation> result = absl::UnknownError("not answered");
  journal_->Append(*std::move(batch),
                   [&](absl::StatusOr<journal::Confirmation> answer) { result = answer; });
  if (head() > before) {
    journal::ReadOptions options;
    options.max_bytes = options.max_records = 1 << 20;
    const auto added = journal_->Read(before.next(), options);
    for (const auto& stored : *added) {
      record::v1::Entry entry = stored->entry;
      entry.set_payload(stored->payload);
      checker_.Committed(entry, epoch);
    }
  }
  for (auto& [place, subscriber] : subscribers_) Pump(subscriber);
  return result;
}

// ---- forwarder-service -------------------------------------------------------------------------

void SimServer::Subscribe(Place from, const StreamPtr& stream, Seq cursor,
                          std::function<void(Batch)> deliver) {
  Subscriber& subscriber = subscribers_[from];
  const forwarder::StreamId id = next_stream_++;
  if (!subscriber.progress.Connected(id, cursor, Now())) return world_.Break(stream);
  if (subscriber.stream && subscriber.stream != stream) world_.Break(subscriber.stream);
  subscriber.stream = stream;
  subscriber.id = id;
  subscriber.deliver = std::move(deliver);
  Pump(subscriber, true);
}

void SimServer::Ack(Place from, const StreamPtr& stream, Seq seq) {
  Subscriber& subscriber = subscribers_[from];
  if (subscriber.stream != stream) return;
  if (!subscriber.progress.Acked(subscriber.id, seq, Now()).ok()) return world_.Break(stream);
  Pump(subscriber);
}

void SimServer::Pump(Subscriber& subscriber, bool heartbeat) {
  if (!subscriber.stream || subscriber.stream->broken) return;
  const auto state = journal_->State();
  subscriber.progress.HeadMoved({state.head, state.head_bytes});
  bool sent = false;
  while (subscriber.progress.MayRead(subscriber.id) && subscriber.progress.read() < state.head) {
    journal::ReadOptions options;
    options.max_bytes = 4096;
    options.max_records = 1 + world_.Below(4);
    const auto read = journal_->Read(subscriber.progress.read().next(), options);
    if (!read.ok() || read->empty()) break;
    Batch batch;
    batch.head = state.head;
    std::vector<forwarder::EntryRead> rows;
    for (const auto& stored : *read) {
      record::v1::Entry entry = stored->entry;
      entry.set_payload(stored->payload);
      rows.push_back({Seq(entry.seq()), entry.ByteSizeLong(), stored->bytes(), Now()});
      batch.entries.push_back(std::move(entry));
    }
    if (auto status = subscriber.progress.EntriesRead(subscriber.id, rows); !status.ok()) {
      return checker_.Violation(std::string(status.message()));
    }
    subscriber.progress.Sent(subscriber.id, rows.back().seq);
    world_.Send(subscriber.stream, false,
                [deliver = subscriber.deliver, batch] { deliver(batch); });
    sent = true;
  }
  if (!sent && heartbeat) {
    world_.Send(subscriber.stream, false, [deliver = subscriber.deliver, head = state.head] {
      deliver({{}, head});
    });
  }
}

void SimServer::Heartbeat() {
  for (auto& [place, subscriber] : subscribers_) {
    if (subscriber.stream && subscriber.progress.Tick(Now())) world_.Break(subscriber.stream);
    Pump(subscriber, true);
  }
  world_.After(absl::Milliseconds(500), [this] { Heartbeat(); });
}

void SimServer::RestartForwarder() {
  for (auto& [place, subscriber] : subscribers_) {
    if (subscriber.stream) world_.Break(subscriber.stream);
  }
  subscribers_.clear();
}

}  // namespace intermezzo::simulation
