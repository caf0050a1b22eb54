// The token table in a small world of nodes, a disk, a journal and a lossy network, by seed.
// One seed again: TOKEN_SEED=17 token_table_property_test
//
// Held at every moment: at most one node believes that it holds the token (by its own clock, its
// lease counted from before it asked); an epoch is on the disk before the journal is fenced with
// it, and the fence stands before a node learns of it; epochs only grow; and in the end, when
// nothing fails any more, everybody who waits is served.
#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/token-service/core/token_table.h"

namespace intermezzo::token {
namespace {

const std::string kCollection = "www";

class World {
 public:
  World(uint64_t seed, double fault, int nodes) : random_(seed), fault_(fault) {
    limits_.lease = absl::Milliseconds(1000);
    limits_.minimum_hold = absl::Milliseconds(20);
    limits_.recall_deadline = absl::Milliseconds(400);
    for (int i = 0; i < nodes; ++i) {
      nodes_.emplace_back().id = Holder{absl::StrCat("n", i), "1"};
    }
    Boot();
    for (size_t i = 0; i < nodes_.size(); ++i) After(Delay(500), [this, i] { Want(i); });
    if (fault_ > 0) After(Delay(2000), [this] { Crash(); });
  }

  void RunUntil(absl::Duration time) {
    while (!events_.empty() && events_.top().at <= start_ + time &&
           !::testing::Test::HasFailure()) {
      Event event = events_.top();
      events_.pop();
      now_ = event.at;
      event.run();
      CheckOneHolder();
    }
  }

  // Faults end; nodes ask only once more.
  void Calm() { fault_ = 0; }
  void Settle() { settled_ = true; }

  int served() const { return served_; }
  const std::vector<size_t>& order_asked() const { return asked_; }
  const std::vector<size_t>& order_granted() const { return granted_; }
  int waiting() const {
    int count = 0;
    for (const Node& node : nodes_) count += node.wanted;
    return count;
  }
  uint64_t last_epoch() const { return journal_epoch_; }

 private:
  struct Node {
    Holder id;
    // Waits for the token since wanting it.
    bool wanted = false;
    RequestId request = 0;  // of the call under way, 0 for none
    absl::Time asked_at;
    // Believes that it holds `epoch` until then.
    uint64_t epoch = 0;
    absl::Time valid_until = absl::InfinitePast();
    uint64_t releasing = 0;  // the epoch that it has told, and not been answered
  };
  struct Event {
    absl::Time at;
    uint64_t order;
    std::function<void()> run;
    bool operator<(const Event& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  absl::Duration Delay(int most_ms) {
    return absl::Microseconds(std::uniform_int_distribution<int>(1, most_ms * 1000)(random_));
  }
  bool Fails() { return std::uniform_real_distribution<>(0, 1)(random_) < fault_; }
  void After(absl::Duration wait, std::function<void()> run) {
    events_.push(Event{now_ + wait, next_event_++, std::move(run)});
  }
  // Once, never or twice.
  void Send(std::function<void()> message) {
    if (Fails()) return;
    const bool slow = Fails();
    After(Delay(slow ? 1500 : 5), message);
    if (Fails()) After(Delay(1500), message);
  }

  // A call does not outlive the process that its connection leads to.
  void Call(std::function<void()> message) {
    Send([this, life = life_, message = std::move(message)] {
      if (life == life_) message();
    });
  }

  // The token-service.

  void Boot() {
    ++life_;
    table_ = std::make_unique<TokenTable>(limits_);
    table_->RestoreGrant(kCollection, Epoch(disk_epoch_), disk_holder_, limits_.lease, now_);
    disk_free_at_ = now_;
    Rearm();
  }
  void Crash() {
    // What the disk was given may be there or not, in order.
    while (!unwritten_.empty() && Fails()) {
      Write(unwritten_.front());
      unwritten_.pop_front();
    }
    unwritten_.clear();
    Boot();
    if (fault_ > 0) After(Delay(6000), [this] { Crash(); });
  }
  void Write(const PersistGrant& row) {
    EXPECT_GE(row.epoch.value(), disk_epoch_);
    disk_epoch_ = row.epoch.value();
    disk_holder_ = row.holder;
  }
  void Rearm() {
    const absl::Time due = table_->NextDeadline();
    if (due == absl::InfiniteFuture()) return;
    const absl::Duration late = Fails() ? Delay(100) : absl::ZeroDuration();
    After(std::max(due - now_, absl::ZeroDuration()) + late, [this, life = life_, due] {
      if (life == life_ && table_->NextDeadline() <= due) Do(table_->Tick(now_));
    });
  }
  void Do(Actions actions) {
    for (Action& action : actions) {
      if (auto* persist = std::get_if<PersistGrant>(&action)) {
        Persist(*persist);
      } else if (auto* fence = std::get_if<Fence>(&action)) {
        SendFence(fence->epoch);
      } else if (auto* grant = std::get_if<Grant>(&action)) {
        EXPECT_EQ(disk_epoch_, grant->epoch.value()) << "answered before it was durable";
        EXPECT_EQ(journal_epoch_, grant->epoch.value()) << "answered before the fence";
        Send([this, grant = *grant] { Granted(grant); });
      } else if (auto* answer = std::get_if<Answer>(&action)) {
        Send([this, request = answer->request] { Refused(request); });
      } else if (auto* recall = std::get_if<SendRecall>(&action)) {
        Send([this, recall = *recall] { Recalled(recall.holder, recall.epoch.value()); });
      }
    }
    Rearm();
  }
  void Persist(const PersistGrant& row) {
    unwritten_.push_back(row);
    disk_free_at_ = std::max(disk_free_at_, now_) + Delay(3);
    After(disk_free_at_ - now_, [this, life = life_] {
      if (life != life_) return;
      const PersistGrant row = unwritten_.front();
      unwritten_.pop_front();
      const bool fails = Fails();
      if (!fails || Fails()) Write(row);
      Do(fails ? table_->PersistFailed(kCollection, row.epoch, absl::UnavailableError(""), now_)
               : table_->Persisted(kCollection, row.epoch, now_));
    });
  }
  void SendFence(Epoch epoch) {
    EXPECT_GE(disk_epoch_, epoch.value()) << "fenced before it was durable";
    const bool lost = Fails();
    After(Delay(lost ? 1500 : 5), [this, epoch, lost, life = life_] {
      const bool refused = epoch.value() < journal_epoch_;
      if (!lost || Fails()) journal_epoch_ = std::max(journal_epoch_, epoch.value());
      After(Delay(5), [this, epoch, lost, refused, life] {
        if (life != life_) return;
        if (lost) {
          Do(table_->FenceFailed(kCollection, epoch, absl::UnavailableError(""), Epoch(), now_));
        } else if (refused) {
          Do(table_->FenceFailed(kCollection, epoch, absl::FailedPreconditionError(""),
                                 Epoch(journal_epoch_), now_));
        } else {
          Do(table_->FenceDone(kCollection, epoch, Seq(1), now_));
        }
      });
    });
  }

  // The nodes.

  bool Valid(const Node& node) const { return node.epoch != 0 && now_ < node.valid_until; }
  void CheckOneHolder() {
    int holders = 0;
    for (const Node& node : nodes_) holders += Valid(node);
    ASSERT_LE(holders, 1) << "two nodes hold the token";
  }
  void WantLater(size_t i) {
    if (!settled_) After(Delay(3000), [this, i] { Want(i); });
  }
  void Want(size_t i) {
    Node& node = nodes_[i];
    if (node.request != 0) return;
    node.wanted = !Valid(node);
    if (!node.wanted) {  // nothing to ask for
      WantLater(i);
    } else if (node.releasing != 0) {
      Retry(i);  // a release must be answered before the next call
    } else {
      Ask(i);
    }
  }
  void Ask(size_t i) {
    Node& node = nodes_[i];
    const RequestId request = next_request_++;
    node.request = request;
    node.asked_at = now_;
    owners_[request] = i;
    Call([this, i, request] {
      asked_.push_back(i);
      Do(table_->Acquire(kCollection, nodes_[i].id, request, now_));
    });
    // Gives up after a while, and asks again.
    After(absl::Seconds(20), [this, i, request] {
      if (nodes_[i].request != request) return;
      Call([this, request] { Do(table_->CancelAcquire(kCollection, request, now_)); });
      Retry(i);
    });
  }
  void Retry(size_t i) {
    nodes_[i].request = 0;
    After(Delay(50), [this, i] {
      if (nodes_[i].wanted) Want(i);
    });
  }
  void Refused(RequestId request) {
    const size_t i = owners_[request];
    if (nodes_[i].request == request) Retry(i);
  }
  void Granted(const Grant& grant) {
    const size_t i = owners_[grant.request];
    Node& node = nodes_[i];
    if (node.request != grant.request) return;  // it has given up that call
    node.request = 0;
    if (now_ >= node.asked_at + grant.lease) return Retry(i);
    EXPECT_GE(grant.epoch.value(), highest_) << "an older epoch was granted later";
    highest_ = std::max(highest_, grant.epoch.value());
    node.epoch = grant.epoch.value();
    node.valid_until = node.asked_at + grant.lease;
    node.wanted = false;
    ++served_;
    granted_.push_back(i);
    Keep(i, node.epoch);
    WantLater(i);
  }
  // Renews every third of the lease.
  void Keep(size_t i, uint64_t epoch) {
    After(limits_.lease / 3, [this, i, epoch] {
      if (nodes_[i].epoch != epoch || !Valid(nodes_[i])) return;
      const absl::Time asked = now_;
      Call([this, i, epoch, asked] {
        Actions actions;
        auto renewal = table_->Renew(kCollection, nodes_[i].id, Epoch(epoch), now_, actions);
        Do(std::move(actions));
        Send([this, i, epoch, asked, renewal] {
          Node& node = nodes_[i];
          if (node.epoch != epoch || !Valid(node)) return;
          if (!renewal.ok()) {
            node.epoch = 0;
            return;
          }
          node.valid_until = std::max(node.valid_until, asked + renewal->lease);
          if (renewal->recalled) Recalled(node.id, epoch);
        });
      });
      Keep(i, epoch);
    });
  }
  void Recalled(const Holder& holder, uint64_t epoch) {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      Node& node = nodes_[i];
      if (node.id != holder || node.epoch != epoch) continue;
      if (Fails()) continue;  // does not hear it
      // Some work to flush; then it stops, and only then says so.
      After(Delay(30), [this, i, epoch] {
        Node& node = nodes_[i];
        // Never a release while it asks: the grant would cross it.
        if (node.epoch != epoch || node.request != 0) return;
        node.epoch = 0;
        node.releasing = epoch;
        Release(i, epoch);
      });
    }
  }
  // Until it is answered.
  void Release(size_t i, uint64_t epoch) {
    if (nodes_[i].releasing != epoch) return;
    Call([this, i, epoch] {
      Actions actions;
      (void)table_->Release(kCollection, nodes_[i].id, Epoch(epoch), now_, actions);
      Do(std::move(actions));
      Send([this, i, epoch] {
        if (nodes_[i].releasing == epoch) nodes_[i].releasing = 0;
      });
    });
    After(absl::Milliseconds(100), [this, i, epoch] { Release(i, epoch); });
  }

  std::mt19937_64 random_;
  double fault_;
  TokenLimits limits_;
  const absl::Time start_ = absl::UnixEpoch();
  absl::Time now_ = start_;
  uint64_t next_event_ = 0;
  std::priority_queue<Event> events_;

  std::unique_ptr<TokenTable> table_;
  int life_ = 0;
  std::deque<PersistGrant> unwritten_;
  absl::Time disk_free_at_;
  uint64_t disk_epoch_ = 0;
  Holder disk_holder_;
  uint64_t journal_epoch_ = 0;

  std::vector<Node> nodes_;
  RequestId next_request_ = 1;
  std::map<RequestId, size_t> owners_;
  uint64_t highest_ = 0;
  int served_ = 0;
  bool settled_ = false;
  std::vector<size_t> asked_;
  std::vector<size_t> granted_;
};

std::vector<uint64_t> Seeds(uint64_t count) {
  if (const char* one = std::getenv("TOKEN_SEED")) return {std::strtoull(one, nullptr, 10)};
  std::vector<uint64_t> seeds;
  for (uint64_t seed = 1; seed <= count; ++seed) seeds.push_back(seed);
  return seeds;
}

TEST(TokenTablePropertyTest, OneHolderAndNoLostWaiterInALossyWorld) {
  int served = 0;
  for (uint64_t seed : Seeds(300)) {
    SCOPED_TRACE(absl::StrCat("TOKEN_SEED=", seed));
    World world(seed, 0.01 * (1 + seed % 15), 2 + static_cast<int>(seed % 5));
    world.RunUntil(absl::Seconds(60));
    world.Calm();
    world.RunUntil(absl::Seconds(90));
    const int before = world.served();
    world.RunUntil(absl::Seconds(120));
    EXPECT_GT(world.served(), before);
    world.Settle();
    world.RunUntil(absl::Seconds(200));
    EXPECT_EQ(world.waiting(), 0);
    served += world.served();
    if (HasFailure()) return;
  }
  RecordProperty("grants", served);
  EXPECT_GT(served, 1000);
}

TEST(TokenTablePropertyTest, ServesInTheOrderOfAsking) {
  for (uint64_t seed : Seeds(100)) {
    SCOPED_TRACE(absl::StrCat("TOKEN_SEED=", seed));
    World world(seed, 0, 6);
    world.RunUntil(absl::Seconds(60));
    world.Settle();
    world.RunUntil(absl::Seconds(120));
    EXPECT_EQ(world.order_granted(), world.order_asked());
    EXPECT_GT(world.served(), 50);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace intermezzo::token
