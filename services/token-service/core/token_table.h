// Who may write: the state machine of all write tokens, (state, input, now) to actions. Pure: no
// IO, no threads, no clock; the owner (TokenServer, or a simulation) calls it under one lock,
// carries the actions out in order and feeds the outcomes back.
//
// A grant takes three steps: its epoch is made durable (PersistGrant, Persisted), the journal is
// fenced (Fence, FenceDone), the waiter is answered (Grant). Nobody learns of an epoch before the
// third. `now` is monotonic and never goes back. Inputs may be lost, late or repeated: each names
// its epoch or request, and one that fits nothing changes nothing.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/common/types/numbers.h"

namespace intermezzo::token {

// A node's incarnation; an empty node is nobody.
struct Holder {
  std::string node;
  std::string instance;
  friend bool operator==(const Holder&, const Holder&) = default;
};

// Names a waiting call; given by the owner of the table, never reused while it runs.
using RequestId = uint64_t;

struct TokenLimits {
  absl::Duration lease = absl::Seconds(10);
  // Others wait at least so long after a grant before the holder is recalled.
  absl::Duration minimum_hold = absl::Milliseconds(50);
  // A recalled holder that has not released after this time cannot renew any more.
  absl::Duration recall_deadline = absl::Seconds(5);
  // Nodes waiting for one token; RESOURCE_EXHAUSTED beyond.
  size_t queue_places = 1000;
  // Calls of one node waiting in its place; the oldest is ABORTED beyond.
  size_t requests_per_place = 16;
};

// Make durable that `holder` (or nobody) has the token under `epoch`. Report Persisted or
// PersistFailed. Writes of one collection must reach the disk in the order of their actions.
struct PersistGrant {
  std::string collection;
  Epoch epoch;
  Holder holder;
};
// Fence the journal. Report FenceDone or FenceFailed.
struct Fence {
  std::string collection;
  Epoch epoch;
};
// Answer a waiting call.
struct Grant {
  RequestId request;
  Epoch epoch;
  Seq head_seq;
  absl::Duration lease;
};
// Answer a waiting call (Acquire, or Recall with OK) that gets no token.
struct Answer {
  RequestId request;
  absl::Status status;
};
// Tell the holder that its token is wanted back; may be lost, Renew says it too.
struct SendRecall {
  Holder holder;
  std::string collection;
  Epoch epoch;
  // The last time at which it can renew.
  absl::Time deadline;
};
// The token changed hands (for metrics and logs).
struct HolderChanged {
  std::string collection;
  Epoch epoch;
  Holder holder;
  // True where the one before lost it by the end of its lease.
  bool expired = false;
};

using Action = std::variant<PersistGrant, Fence, Grant, Answer, SendRecall, HolderChanged>;
using Actions = std::vector<Action>;

// A prolonged lease.
struct Renewal {
  absl::Duration lease;
  bool recalled = false;
};

// A token as seen by people.
struct TokenView {
  Epoch epoch;
  std::string holder;
  std::vector<std::string> queue;
  absl::Duration remaining;
  bool recalling = false;
};

class TokenTable {
 public:
  explicit TokenTable(TokenLimits limits) : limits_(limits) {}

  // A collection whose token nobody holds; `last` is the highest epoch that may ever have been
  // given under its name. Does nothing where it is known.
  void AddCollection(const std::string& collection, Epoch last);
  // After a restart: the durable last grant. The holder may renew during one whole lease from now
  // (`lease` is what it was promised), and nobody else is granted before.
  void RestoreGrant(const std::string& collection, Epoch epoch, const Holder& holder,
                    absl::Duration lease, absl::Time now);
  // Waiters get NOT_FOUND; everything still under way for it is ignored when it arrives.
  Actions DropCollection(const std::string& collection);
  // A node may no longer write: gives up its place, recalls its token.
  Actions DropNode(const std::string& collection, const std::string& node, absl::Time now);

  // Queues `request`. It is answered by Grant or Answer, at once where the caller holds the token.
  Actions Acquire(const std::string& collection, const Holder& holder, RequestId request,
                  absl::Time now);
  // The caller has gone: gives up its place. Nothing where the request is unknown.
  Actions CancelAcquire(const std::string& collection, RequestId request, absl::Time now);
  // FAILED_PRECONDITION: the epoch is not the token's, or was recalled and the deadline has passed.
  absl::StatusOr<Renewal> Renew(const std::string& collection, const Holder& holder, Epoch epoch,
                                absl::Time now, Actions& actions);
  // Idempotent for the last epoch that was released. FAILED_PRECONDITION otherwise.
  absl::Status Release(const std::string& collection, const Holder& holder, Epoch epoch,
                       absl::Time now, Actions& actions);
  // Asks the holder to release now, or (`force`) takes the token away and fences it; answered by
  // Answer, after the fence where forced. `epoch`: only that grant, nothing where a later one was
  // made; none: whichever there is.
  Actions Recall(const std::string& collection, bool force, Epoch epoch, RequestId request,
                 absl::Time now);
  // The recalls due to a node, again: it has just subscribed.
  Actions Resubscribe(const Holder& holder);

  Actions Persisted(const std::string& collection, Epoch epoch, absl::Time now);
  Actions PersistFailed(const std::string& collection, Epoch epoch, const absl::Status& status,
                        absl::Time now);
  Actions FenceDone(const std::string& collection, Epoch epoch, Seq head_seq, absl::Time now);
  // `known` is the journal's epoch where it refused because that is higher (0: some other failure);
  // then the grant is tried again above it. Otherwise everybody who waits gets `status`.
  Actions FenceFailed(const std::string& collection, Epoch epoch, const absl::Status& status,
                      Epoch known, absl::Time now);

  // Does what is due: expiries, recalls after the minimum hold.
  Actions Tick(absl::Time now);
  // When Tick has something to do; infinite future for never.
  absl::Time NextDeadline() const;

  // Grants nothing any more; waiters and later callers get UNAVAILABLE. Holders may renew and
  // release.
  Actions Stop();

  // NOT_FOUND.
  absl::StatusOr<TokenView> View(const std::string& collection, absl::Time now) const;

 private:
  enum class Phase { kFree, kPersisting, kFencing, kHeld };

  // A node's place in the queue with its waiting calls, oldest first.
  struct Place {
    Holder holder;
    std::vector<RequestId> requests;
  };

  struct Token {
    std::string collection;
    Phase phase = Phase::kFree;
    // The last epoch used: of the holder where held, of the grant under way otherwise.
    Epoch epoch;
    // Held, or about to be: the place that the grant is for; nobody in a forced fence.
    Holder holder;
    // Calls to be answered by the grant under way, or (held) by a repeated fence.
    std::vector<RequestId> answering;
    // Held only. `head_seq` is unknown after a restart.
    std::optional<Seq> head_seq;
    absl::Time granted_at;
    absl::Time lease_end;
    bool recalled = false;
    absl::Time recall_deadline;
    // The last release, for its repetition.
    Epoch released_epoch;
    Holder released_by;
    // A holder lost the token and the journal was not fenced against it since.
    bool fence_owed = false;
    std::vector<RequestId> forced_recalls;
    std::deque<Place> queue;
    // As entered in due_.
    absl::Time due = absl::InfiniteFuture();
  };

  Token* Find(const std::string& collection);
  static Place* FindPlace(Token& token, const std::string& node);
  static void ErasePlace(Token& token, const Place& place);
  bool Holds(const Token& token, const Holder& holder, Epoch epoch) const;
  absl::Status StaleEpoch(const Token& token, Epoch epoch) const;
  void Enqueue(Token& token, const Holder& holder, RequestId request, Actions& actions);
  void AddRequest(std::vector<RequestId>& requests, RequestId request, Actions& actions) const;
  // Expires and recalls what is due, starts a grant where the token is free, enters the deadline.
  void Settle(Token& token, absl::Time now, Actions& actions);
  void StartGrant(Token& token, Actions& actions);
  void StartForcedFence(Token& token, Actions& actions);
  // The end of a hold or of a grant under way; SetFree with the row that says so.
  void MakeFree(Token& token, bool expired, Actions& actions) const;
  void SetFree(Token& token, bool expired, Actions& actions) const;
  void SendRecallTo(Token& token, absl::Time deadline, Actions& actions) const;
  void StartRecall(Token& token, absl::Time now, Actions& actions) const;
  void AnswerHolder(Token& token, absl::Time now, Actions& actions) const;
  void AnswerAll(std::vector<RequestId>& requests, const absl::Status& status,
                 Actions& actions) const;
  void RefuseEverybody(Token& token, const absl::Status& status, Actions& actions) const;

  const TokenLimits limits_;
  bool stopped_ = false;
  std::map<std::string, Token, std::less<>> tokens_;
  // (due, collection) of every token with a finite `due`.
  std::set<std::pair<absl::Time, std::string>> due_;
};

}  // namespace intermezzo::token
