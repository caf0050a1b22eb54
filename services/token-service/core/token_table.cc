#include "services/token-service/core/token_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace intermezzo::token {
namespace {

absl::Status UnknownCollection(const std::string& collection) {
  return absl::NotFoundError(absl::StrCat("no collection \"", collection, "\""));
}

}  // namespace

TokenTable::Token* TokenTable::Find(const std::string& collection) {
  auto it = tokens_.find(collection);
  return it == tokens_.end() ? nullptr : &it->second;
}

TokenTable::Place* TokenTable::FindPlace(Token& token, const std::string& node) {
  for (Place& place : token.queue) {
    if (place.holder.node == node) return &place;
  }
  return nullptr;
}

void TokenTable::ErasePlace(Token& token, const Place& place) {
  auto is_it = [&](const Place& other) { return &other == &place; };
  token.queue.erase(std::find_if(token.queue.begin(), token.queue.end(), is_it));
}

bool TokenTable::Holds(const Token& token, const Holder& holder, Epoch epoch) const {
  return token.phase == Phase::kHeld && token.epoch == epoch && token.holder == holder;
}

absl::Status TokenTable::StaleEpoch(const Token& token, Epoch epoch) const {
  return absl::FailedPreconditionError(
      absl::StrCat("epoch ", epoch.value(), " of collection \"", token.collection,
                   "\" is not held by the caller; the token's last epoch is ", token.epoch.value(),
                   ": acquire it again"));
}

void TokenTable::AddCollection(const std::string& collection, Epoch last) {
  auto [it, added] = tokens_.try_emplace(collection);
  if (!added) return;
  it->second.collection = collection;
  it->second.epoch = last;
}

void TokenTable::RestoreGrant(const std::string& collection, Epoch epoch, const Holder& holder,
                              absl::Duration lease, absl::Time now) {
  AddCollection(collection, epoch);
  Token& token = *Find(collection);
  token.epoch = epoch;
  if (holder.node.empty()) return;
  token.phase = Phase::kHeld;
  token.holder = holder;
  token.head_seq.reset();
  token.granted_at = now;
  token.lease_end = now + std::max(lease, limits_.lease);
  Actions none;
  Settle(token, now, none);
}

Actions TokenTable::DropCollection(const std::string& collection) {
  Actions actions;
  Token* token = Find(collection);
  if (token == nullptr) return actions;
  RefuseEverybody(*token, UnknownCollection(collection), actions);
  if (token->phase == Phase::kHeld) {
    actions.push_back(HolderChanged{token->collection, token->epoch, Holder{}});
  }
  due_.erase({token->due, token->collection});
  tokens_.erase(tokens_.find(collection));
  return actions;
}

Actions TokenTable::DropNode(const std::string& collection, const std::string& node,
                             absl::Time now) {
  Actions actions;
  Token* token = Find(collection);
  if (token == nullptr) return actions;
  const absl::Status status = absl::PermissionDeniedError(
      absl::StrCat("node \"", node, "\" has no replica of \"", collection, "\" any more"));
  if (Place* place = FindPlace(*token, node)) {
    AnswerAll(place->requests, status, actions);
    ErasePlace(*token, *place);
  }
  if (token->holder.node == node) {
    if (token->phase == Phase::kHeld) {
      AnswerAll(token->answering, status, actions);
      StartRecall(*token, now, actions);
    } else if (token->phase != Phase::kFree) {
      AnswerAll(token->answering, status, actions);
      SetFree(*token, false, actions);
    }
  }
  Settle(*token, now, actions);
  return actions;
}

Actions TokenTable::Acquire(const std::string& collection, const Holder& holder, RequestId request,
                            absl::Time now) {
  Actions actions;
  Token* token = Find(collection);
  if (token == nullptr) {
    actions.push_back(Answer{request, UnknownCollection(collection)});
    return actions;
  }
  if (stopped_) {
    actions.push_back(Answer{request, absl::UnavailableError("token-service is shutting down")});
    return actions;
  }
  Settle(*token, now, actions);
  const bool own = token->holder == holder;
  if (token->phase == Phase::kHeld && own && !(token->recalled && now > token->recall_deadline)) {
    // The answer was lost, or the node was restarted: the same grant again.
    AddRequest(token->answering, request, actions);
    if (token->recalled) SendRecallTo(*token, token->recall_deadline, actions);
    if (token->head_seq.has_value()) {
      AnswerHolder(*token, now, actions);
    } else if (token->answering.size() == 1) {
      actions.push_back(Fence{token->collection, token->epoch});
    }
  } else if ((token->phase == Phase::kPersisting || token->phase == Phase::kFencing) && own) {
    AddRequest(token->answering, request, actions);
  } else {
    Enqueue(*token, holder, request, actions);
  }
  Settle(*token, now, actions);
  return actions;
}

void TokenTable::Enqueue(Token& token, const Holder& holder, RequestId request, Actions& actions) {
  if (Place* place = FindPlace(token, holder.node)) {
    if (place->holder != holder) {
      AnswerAll(
          place->requests,
          absl::FailedPreconditionError(absl::StrCat("another instance of node \"", holder.node,
                                                     "\" has taken over: ", holder.instance)),
          actions);
      place->holder = holder;
    }
    AddRequest(place->requests, request, actions);
    return;
  }
  if (token.queue.size() >= limits_.queue_places) {
    actions.push_back(Answer{request, absl::ResourceExhaustedError(absl::StrCat(
                                          token.queue.size(), " nodes wait for the token of \"",
                                          token.collection, "\" already: try again later"))});
    return;
  }
  token.queue.push_back(Place{holder, {request}});
}

void TokenTable::AddRequest(std::vector<RequestId>& requests, RequestId request,
                            Actions& actions) const {
  if (std::find(requests.begin(), requests.end(), request) != requests.end()) return;
  if (requests.size() >= limits_.requests_per_place) {
    actions.push_back(
        Answer{requests.front(), absl::AbortedError("replaced by a newer call of the same node")});
    requests.erase(requests.begin());
  }
  requests.push_back(request);
}

Actions TokenTable::CancelAcquire(const std::string& collection, RequestId request,
                                  absl::Time now) {
  Actions actions;
  Token* token = Find(collection);
  if (token == nullptr) return actions;
  for (auto place = token->queue.begin(); place != token->queue.end(); ++place) {
    if (std::erase(place->requests, request) == 0) continue;
    actions.push_back(Answer{request, absl::CancelledError("the caller gave up its place")});
    if (place->requests.empty()) token->queue.erase(place);
    Settle(*token, now, actions);
    return actions;
  }
  if (std::erase(token->answering, request) != 0) {
    actions.push_back(Answer{request, absl::CancelledError("the caller gave up its place")});
    // Nobody was told of the epoch under way, so the next in the queue need not wait for it.
    if (token->phase != Phase::kHeld && token->answering.empty()) SetFree(*token, false, actions);
    Settle(*token, now, actions);
  }
  return actions;
}

absl::StatusOr<Renewal> TokenTable::Renew(const std::string& collection, const Holder& holder,
                                          Epoch epoch, absl::Time now, Actions& actions) {
  Token* token = Find(collection);
  if (token == nullptr) return UnknownCollection(collection);
  Settle(*token, now, actions);
  if (!Holds(*token, holder, epoch)) return StaleEpoch(*token, epoch);
  if (token->recalled && now > token->recall_deadline) {
    return absl::FailedPreconditionError(absl::StrCat(
        "epoch ", epoch.value(), " of collection \"", token->collection,
        "\" was recalled and not released in time: it ends with its lease, acquire again"));
  }
  token->lease_end = std::max(token->lease_end, now + limits_.lease);
  Settle(*token, now, actions);
  return Renewal{limits_.lease, token->recalled};
}

absl::Status TokenTable::Release(const std::string& collection, const Holder& holder, Epoch epoch,
                                 absl::Time now, Actions& actions) {
  Token* token = Find(collection);
  if (token == nullptr) return UnknownCollection(collection);
  Settle(*token, now, actions);
  if (Holds(*token, holder, epoch)) {
    token->released_epoch = epoch;
    token->released_by = holder;
    AnswerAll(token->answering,
              absl::AbortedError("the node released the token while this call waited"), actions);
    SetFree(*token, false, actions);
    Settle(*token, now, actions);
    return absl::OkStatus();
  }
  if (token->released_epoch == epoch && token->released_by == holder) return absl::OkStatus();
  return StaleEpoch(*token, epoch);
}

Actions TokenTable::Recall(const std::string& collection, bool force, Epoch epoch,
                           RequestId request, absl::Time now) {
  Actions actions;
  Token* token = Find(collection);
  if (token == nullptr) {
    actions.push_back(Answer{request, UnknownCollection(collection)});
    return actions;
  }
  if (epoch > token->epoch) {
    actions.push_back(Answer{request, absl::FailedPreconditionError(absl::StrCat(
                                          "epoch ", epoch.value(), " of \"", collection,
                                          "\" was not granted, the last is ", token->epoch.value(),
                                          ": ask for the token and state its epoch"))});
    return actions;
  }
  Settle(*token, now, actions);
  const bool meant = token->phase == Phase::kHeld && (!epoch || epoch == token->epoch);
  if (force && meant) {
    token->forced_recalls.push_back(request);
    // Where this reaches the holder, it stops before its next renewal tells it.
    SendRecallTo(*token, now, actions);
    AnswerAll(token->answering, absl::AbortedError("the token was taken away by force"), actions);
    MakeFree(*token, false, actions);
    token->fence_owed = true;
    if (token->queue.empty() || stopped_) StartForcedFence(*token, actions);
  } else if (force && token->fence_owed) {
    token->forced_recalls.push_back(request);
    if (token->phase == Phase::kFree) StartForcedFence(*token, actions);
  } else {
    if (meant) StartRecall(*token, now, actions);
    actions.push_back(Answer{request, absl::OkStatus()});
  }
  Settle(*token, now, actions);
  return actions;
}

Actions TokenTable::Resubscribe(const Holder& holder) {
  Actions actions;
  for (auto& [name, token] : tokens_) {
    if (token.phase == Phase::kHeld && token.recalled && token.holder == holder) {
      SendRecallTo(token, token.recall_deadline, actions);
    }
  }
  return actions;
}

Actions TokenTable::Persisted(const std::string& collection, Epoch epoch, absl::Time now) {
  Actions actions;
  Token* token = Find(collection);
  if (token == nullptr || token->phase != Phase::kPersisting || token->epoch != epoch) {
    return actions;
  }
  token->phase = Phase::kFencing;
  actions.push_back(Fence{token->collection, epoch});
  return actions;
}

Actions TokenTable::PersistFailed(const std::string& collection, Epoch epoch,
                                  const absl::Status& status, absl::Time now) {
  Actions actions;
  Token* token = Find(collection);
  if (token == nullptr || token->phase != Phase::kPersisting || token->epoch != epoch) {
    return actions;
  }
  RefuseEverybody(*token, status, actions);
  // No row is written: whatever is on disk names nobody who was told of more than it.
  token->phase = Phase::kFree;
  token->holder = Holder{};
  Settle(*token, now, actions);
  return actions;
}

Actions TokenTable::FenceDone(const std::string& collection, Epoch epoch, Seq head_seq,
                              absl::Time now) {
  Actions actions;
  Token* token = Find(collection);
  if (token == nullptr || token->epoch != epoch) return actions;
  if (token->phase == Phase::kHeld) {
    Settle(*token, now, actions);
    if (token->phase == Phase::kHeld && token->epoch == epoch && !token->answering.empty()) {
      token->head_seq = head_seq;
      AnswerHolder(*token, now, actions);
      Settle(*token, now, actions);
    }
    return actions;
  }
  if (token->phase != Phase::kFencing) return actions;
  token->fence_owed = false;
  AnswerAll(token->forced_recalls, absl::OkStatus(), actions);
  if (token->holder.node.empty()) {
    token->phase = Phase::kFree;
  } else {
    token->phase = Phase::kHeld;
    token->head_seq = head_seq;
    token->granted_at = now;
    token->lease_end = now;
    token->recalled = false;
    actions.push_back(HolderChanged{token->collection, epoch, token->holder});
    AnswerHolder(*token, now, actions);
  }
  Settle(*token, now, actions);
  return actions;
}

Actions TokenTable::FenceFailed(const std::string& collection, Epoch epoch,
                                const absl::Status& status, Epoch known, absl::Time now) {
  Actions actions;
  Token* token = Find(collection);
  if (token == nullptr || token->epoch != epoch) return actions;
  if (token->phase != Phase::kFencing && token->phase != Phase::kHeld) return actions;
  const bool held = token->phase == Phase::kHeld;
  if (held && token->answering.empty()) return actions;
  if (known > epoch) {
    // This service has forgotten grants (a restored database): go on above what the journal knows.
    Place place{token->holder, std::move(token->answering)};
    token->answering.clear();
    SetFree(*token, held, actions);
    token->epoch = known;
    if (!place.holder.node.empty()) {
      if (Place* other = FindPlace(*token, place.holder.node)) {
        for (RequestId request : other->requests) AddRequest(place.requests, request, actions);
        ErasePlace(*token, *other);
      }
      token->queue.push_front(std::move(place));
    } else if (token->queue.empty()) {
      StartForcedFence(*token, actions);
    }
  } else if (held) {
    AnswerAll(token->answering, status, actions);
  } else {
    RefuseEverybody(*token, status, actions);
    SetFree(*token, false, actions);
  }
  Settle(*token, now, actions);
  return actions;
}

Actions TokenTable::Tick(absl::Time now) {
  Actions actions;
  while (!due_.empty() && due_.begin()->first <= now) {
    Settle(*Find(due_.begin()->second), now, actions);
  }
  return actions;
}

absl::Time TokenTable::NextDeadline() const {
  return due_.empty() ? absl::InfiniteFuture() : due_.begin()->first;
}

Actions TokenTable::Stop() {
  Actions actions;
  stopped_ = true;
  for (auto& [name, token] : tokens_) {
    const bool granting = token.phase == Phase::kPersisting || token.phase == Phase::kFencing;
    const bool forced = granting && token.holder.node.empty();
    std::vector<RequestId> recalls;
    if (forced) recalls = std::exchange(token.forced_recalls, {});
    RefuseEverybody(token, absl::UnavailableError("token-service is shutting down"), actions);
    if (forced) {
      token.forced_recalls = std::move(recalls);  // a fence under way is worth finishing
    } else if (granting) {
      SetFree(token, false, actions);
    }
  }
  return actions;
}

absl::StatusOr<TokenView> TokenTable::View(const std::string& collection, absl::Time now) const {
  auto it = tokens_.find(collection);
  if (it == tokens_.end()) return UnknownCollection(collection);
  const Token& token = it->second;
  TokenView view;
  view.epoch = token.epoch;
  if (token.phase == Phase::kHeld && now < token.lease_end) {
    view.holder = token.holder.node;
    view.remaining = token.lease_end - now;
    view.recalling = token.recalled;
  } else if (token.phase != Phase::kHeld && !token.holder.node.empty()) {
    view.queue.push_back(token.holder.node);
  }
  for (const Place& place : token.queue) view.queue.push_back(place.holder.node);
  return view;
}

void TokenTable::Settle(Token& token, absl::Time now, Actions& actions) {
  if (token.phase == Phase::kHeld && now >= token.lease_end) {
    // Calls of the expired holder (it waits for a repeated fence) go on as everybody's.
    const Holder holder = token.holder;
    std::vector<RequestId> waiting = std::exchange(token.answering, {});
    for (RequestId request : waiting) Enqueue(token, holder, request, actions);
    SetFree(token, true, actions);
  }
  if (token.phase == Phase::kFree && !token.queue.empty() && !stopped_) {
    StartGrant(token, actions);
  }
  absl::Time due = absl::InfiniteFuture();
  if (token.phase == Phase::kHeld) {
    due = token.lease_end;
    if (!token.recalled && !token.queue.empty()) {
      const absl::Time held_enough = token.granted_at + limits_.minimum_hold;
      if (now >= held_enough) {
        StartRecall(token, now, actions);
      } else {
        due = std::min(due, held_enough);
      }
    }
  }
  if (due == token.due) return;
  due_.erase({token.due, token.collection});
  token.due = due;
  if (due != absl::InfiniteFuture()) due_.insert({due, token.collection});
}

void TokenTable::StartGrant(Token& token, Actions& actions) {
  Place place = std::move(token.queue.front());
  token.queue.pop_front();
  token.epoch = token.epoch.next();
  token.phase = Phase::kPersisting;
  token.holder = std::move(place.holder);
  token.answering = std::move(place.requests);
  actions.push_back(PersistGrant{token.collection, token.epoch, token.holder});
}

void TokenTable::StartForcedFence(Token& token, Actions& actions) {
  token.epoch = token.epoch.next();
  token.phase = Phase::kPersisting;
  token.holder = Holder{};
  actions.push_back(PersistGrant{token.collection, token.epoch, token.holder});
}

void TokenTable::MakeFree(Token& token, bool expired, Actions& actions) const {
  if (token.phase == Phase::kHeld) {
    actions.push_back(HolderChanged{token.collection, token.epoch, Holder{}, expired});
    if (expired) token.fence_owed = true;
  }
  token.phase = Phase::kFree;
  token.holder = Holder{};
  token.recalled = false;
  token.head_seq.reset();
}

void TokenTable::SetFree(Token& token, bool expired, Actions& actions) const {
  MakeFree(token, expired, actions);
  // Where somebody waits, the next grant's row says more, and the write would only be in its way.
  if (token.queue.empty() || stopped_) {
    actions.push_back(PersistGrant{token.collection, token.epoch, Holder{}});
  }
}

void TokenTable::SendRecallTo(Token& token, absl::Time deadline, Actions& actions) const {
  actions.push_back(SendRecall{token.holder, token.collection, token.epoch, deadline});
}

void TokenTable::StartRecall(Token& token, absl::Time now, Actions& actions) const {
  if (token.recalled) return;
  token.recalled = true;
  token.recall_deadline = now + limits_.recall_deadline;
  SendRecallTo(token, token.recall_deadline, actions);
}

void TokenTable::AnswerHolder(Token& token, absl::Time now, Actions& actions) const {
  token.lease_end = std::max(token.lease_end, now + limits_.lease);
  for (RequestId request : token.answering) {
    actions.push_back(Grant{request, token.epoch, *token.head_seq, limits_.lease});
  }
  token.answering.clear();
}

void TokenTable::AnswerAll(std::vector<RequestId>& requests, const absl::Status& status,
                           Actions& actions) const {
  for (RequestId request : requests) actions.push_back(Answer{request, status});
  requests.clear();
}

void TokenTable::RefuseEverybody(Token& token, const absl::Status& status, Actions& actions) const {
  AnswerAll(token.answering, status, actions);
  AnswerAll(token.forced_recalls, status, actions);
  for (Place& place : token.queue) AnswerAll(place.requests, status, actions);
  token.queue.clear();
}

}  // namespace intermezzo::token
