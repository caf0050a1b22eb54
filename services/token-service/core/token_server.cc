#include "services/token-service/core/token_server.h"

#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"

namespace intermezzo::token {

TokenServer::TokenServer(TokenLimits limits, GrantLog& log, JournalControl& journal,
                         Metrics* metrics)
    : limits_(limits), log_(log), journal_(journal), metrics_(metrics), table_(limits) {
  writer_ = std::thread([this] { WriteLoop(); });
  timer_ = std::make_unique<MonotonicTimer>([this] {
    Step([this](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      armed_ = absl::InfiniteFuture();  // it has fired
      return table_.Tick(now);
    });
  });
}

TokenServer::~TokenServer() {
  {
    absl::MutexLock lock(&mu_);
    closing_ = true;
  }
  writer_.join();
}

template <typename Input>
void TokenServer::Step(Input input) {
  Effects effects;
  {
    absl::MutexLock lock(&mu_);
    Carry(input(MonotonicNow()), effects);
  }
  for (auto& effect : effects) effect();
}

void TokenServer::AddCollection(const std::string& collection, uint64_t uid, Epoch last) {
  absl::MutexLock lock(&mu_);
  uids_[collection] = uid;
  table_.AddCollection(collection, last);
  if (metrics_ != nullptr) metrics_->SetHolder(collection, "", last.value());
}

void TokenServer::RestoreGrant(const std::string& collection, const GrantRow& row) {
  absl::MutexLock lock(&mu_);
  uids_[collection] = row.collection_uid;
  table_.RestoreGrant(collection, row.epoch, row.holder, row.lease, MonotonicNow());
  if (metrics_ != nullptr) metrics_->SetHolder(collection, row.holder.node, row.epoch.value());
  Rearm();
}

Epoch TokenServer::DropCollection(const std::string& collection) {
  Epoch last;
  Step([&](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (auto view = table_.View(collection, now); view.ok()) last = view->epoch;
    return table_.DropCollection(collection);
  });
  absl::MutexLock lock(&mu_);
  uids_.erase(collection);
  if (metrics_ != nullptr) metrics_->DropCollection(collection);
  return last;
}

void TokenServer::DropNode(const std::string& collection, const std::string& node) {
  Step([&](absl::Time now)
           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return table_.DropNode(collection, node, now); });
}

RequestId TokenServer::Acquire(const std::string& collection, const Holder& holder,
                               AcquireDone done) {
  RequestId id = 0;
  Step([&](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    id = next_id_++;
    waiting_.emplace(id, Waiting{collection, now, std::move(done), {}});
    return table_.Acquire(collection, holder, id, now);
  });
  return id;
}

void TokenServer::Cancel(RequestId request) {
  Step([&](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    auto it = waiting_.find(request);
    if (it == waiting_.end()) return Actions{};
    return table_.CancelAcquire(it->second.collection, request, now);
  });
}

absl::StatusOr<Renewal> TokenServer::Renew(const std::string& collection, const Holder& holder,
                                           Epoch epoch) {
  absl::StatusOr<Renewal> result = absl::InternalError("not reached");
  Step([&](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    Actions actions;
    result = table_.Renew(collection, holder, epoch, now, actions);
    return actions;
  });
  if (metrics_ != nullptr) metrics_->Request("renew", result.status().code());
  return result;
}

absl::Status TokenServer::Release(const std::string& collection, const Holder& holder,
                                  Epoch epoch) {
  absl::Status result;
  Step([&](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    Actions actions;
    result = table_.Release(collection, holder, epoch, now, actions);
    return actions;
  });
  if (metrics_ != nullptr) metrics_->Request("release", result.code());
  return result;
}

void TokenServer::Recall(const std::string& collection, bool force, Epoch epoch, RecallDone done) {
  Step([&](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const RequestId id = next_id_++;
    waiting_.emplace(id, Waiting{collection, now, {}, std::move(done)});
    return table_.Recall(collection, force, epoch, id, now);
  });
}

absl::StatusOr<TokenView> TokenServer::View(const std::string& collection) const {
  absl::MutexLock lock(&mu_);
  return table_.View(collection, MonotonicNow());
}

uint64_t TokenServer::Subscribe(const Holder& holder, RecallSink sink) {
  uint64_t id = 0;
  Step([&](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    id = next_id_++;
    subscribers_.emplace(id, Subscriber{holder, std::make_shared<RecallSink>(std::move(sink))});
    return table_.Resubscribe(holder);
  });
  return id;
}

void TokenServer::Unsubscribe(uint64_t subscription) {
  absl::MutexLock lock(&mu_);
  subscribers_.erase(subscription);
}

void TokenServer::Stop() {
  Step([this](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return table_.Stop(); });
}

void TokenServer::Carry(Actions actions, Effects& effects) {
  for (Action& action : actions) {
    std::visit([&](auto& one) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { Do(one, effects); }, action);
  }
  Rearm();
}

void TokenServer::Do(PersistGrant& action, Effects& effects) {
  rows_.push_back(GrantRow{uids_[action.collection], action.epoch, action.holder, limits_.lease});
  row_actions_.push_back(std::move(action));
}

void TokenServer::Do(Fence& action, Effects& effects) {
  const uint64_t uid = uids_[action.collection];
  effects.push_back([this, uid, action = std::move(action)] {
    journal_.Fence(
        action.collection, action.epoch,
        [this, uid, collection = action.collection, epoch = action.epoch](
            const FenceResult& result) { FenceReturned(collection, uid, epoch, result); });
  });
}

void TokenServer::Do(Grant& action, Effects& effects) {
  Waiting waiting = Take(action.request);
  if (!waiting.acquire) return;
  if (metrics_ != nullptr) {
    metrics_->Request("acquire", absl::StatusCode::kOk);
    metrics_->Acquired(waiting.collection, MonotonicNow() - waiting.since);
  }
  effects.push_back([done = std::move(waiting.acquire), action] { done(action); });
}

void TokenServer::Do(Answer& action, Effects& effects) {
  Waiting waiting = Take(action.request);
  if (waiting.acquire) {
    if (metrics_ != nullptr) metrics_->Request("acquire", action.status.code());
    effects.push_back([done = std::move(waiting.acquire), action] { done(action.status); });
  } else if (waiting.recall) {
    effects.push_back([done = std::move(waiting.recall), action] { done(action.status); });
  }
}

void TokenServer::Do(SendRecall& action, Effects& effects) {
  if (metrics_ != nullptr) metrics_->Recalled(action.collection);
  for (const auto& [id, subscriber] : subscribers_) {
    if (subscriber.holder != action.holder) continue;
    effects.push_back([sink = subscriber.sink, action] {
      const absl::Duration left = action.deadline - MonotonicNow();
      (*sink)(RecallNotice{action.collection, action.epoch, std::max(left, absl::ZeroDuration())});
    });
  }
}

void TokenServer::Do(HolderChanged& action, Effects& effects) {
  if (metrics_ != nullptr) {
    metrics_->SetHolder(action.collection, action.holder.node, action.epoch.value());
    if (action.expired) metrics_->Expired(action.collection);
  }
  effects.push_back([action] {
    const std::string epoch = absl::StrCat(action.epoch.value());
    if (action.expired) {
      log::Warning("lease ended: the holder has lost the token",
                   {{"collection", action.collection}, {"epoch", epoch}});
    } else {
      log::Debug(
          action.holder.node.empty() ? "token is free" : "token granted",
          {{"collection", action.collection}, {"node", action.holder.node}, {"epoch", epoch}});
    }
  });
}

TokenServer::Waiting TokenServer::Take(RequestId request) {
  auto it = waiting_.find(request);
  if (it == waiting_.end()) return {};
  Waiting waiting = std::move(it->second);
  waiting_.erase(it);
  return waiting;
}

void TokenServer::Rearm() {
  const absl::Time next = table_.NextDeadline();
  if (next == armed_ || timer_ == nullptr) return;
  armed_ = next;
  timer_->Arm(next);
}

void TokenServer::FenceReturned(const std::string& collection, uint64_t uid, Epoch epoch,
                                const FenceResult& result) {
  if (!result.status.ok()) {
    log::Warning("the journal could not be fenced", {{"collection", collection},
                                                     {"epoch", absl::StrCat(epoch.value())},
                                                     {"error", result.status.ToString()}});
    if (metrics_ != nullptr) metrics_->FenceFailed(collection);
  }
  Step([&](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    // An answer about a deleted collection says nothing of another one of the same name.
    auto it = uids_.find(collection);
    if (it == uids_.end() || it->second != uid) return Actions{};
    if (result.status.ok()) return table_.FenceDone(collection, epoch, result.head_seq, now);
    return table_.FenceFailed(collection, epoch, result.status, result.known, now);
  });
}

void TokenServer::WriteLoop() {
  while (true) {
    std::vector<GrantRow> rows;
    std::vector<PersistGrant> actions;
    {
      absl::MutexLock lock(&mu_);
      auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return closing_ || !rows_.empty();
      };
      mu_.Await(absl::Condition(&something));
      if (rows_.empty()) return;
      rows.swap(rows_);
      actions.swap(row_actions_);
    }
    const absl::Status status = log_.WriteGrants(rows);
    if (!status.ok()) {
      log::Error("cannot make grants durable", {{"error", status.ToString()}});
    }
    Step([&](absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      Actions all;
      for (size_t i = 0; i < rows.size(); ++i) {
        const PersistGrant& written = actions[i];
        auto it = uids_.find(written.collection);
        if (it == uids_.end() || it->second != rows[i].collection_uid) continue;
        Actions some = status.ok()
                           ? table_.Persisted(written.collection, written.epoch, now)
                           : table_.PersistFailed(written.collection, written.epoch, status, now);
        all.insert(all.end(), std::make_move_iterator(some.begin()),
                   std::make_move_iterator(some.end()));
      }
      return all;
    });
  }
}

}  // namespace intermezzo::token
