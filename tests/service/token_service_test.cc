// TokenService over gRPC, with a fake journal: grants, fences, queue, recalls, restarts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/eventually.h"
#include "tests/support/token_cluster.h"

namespace intermezzo {
namespace {

using ::testing::ElementsAre;
using tests::TokenCluster;

// The recalls of one node.
class RecallWatch {
 public:
  RecallWatch(TokenCluster& cluster, const std::string& node) {
    token::v1::WatchRecallsRequest request;
    request.mutable_holder()->set_node(node);
    request.mutable_holder()->set_instance(node + "-1");
    TokenCluster::Bound(context_);
    reader_ = cluster.tokens().WatchRecalls(&context_, request);
  }
  ~RecallWatch() {
    context_.TryCancel();
    reader_->Finish();
  }
  bool Next(token::v1::WatchRecallsResponse& recall) { return reader_->Read(&recall); }
  grpc::Status Finish() { return reader_->Finish(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<token::v1::WatchRecallsResponse>> reader_;
};

class TokenServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(cluster_.Create("www").ok());
    for (const char* node : {"a", "b", "c"}) cluster_.Join("www", node);
  }

  TokenCluster cluster_;
};

TEST_F(TokenServiceTest, GrantFencesFirstAndStatesTheHead) {
  cluster_.journal().SetHead("www", 42);
  cluster_.journal().HoldFences(true);
  token::v1::AcquireResponse grant;
  std::atomic<bool> answered = false;
  std::thread caller([&] {
    EXPECT_TRUE(cluster_.Acquire("www", "a", &grant).ok());
    answered = true;
  });
  cluster_.journal().AwaitHeldFence();
  EXPECT_FALSE(answered);
  EXPECT_EQ(cluster_.Token("www").holder(), "");
  EXPECT_THAT(cluster_.Token("www").queue(), ElementsAre("a"));
  cluster_.journal().HoldFences(false);
  caller.join();
  EXPECT_EQ(grant.epoch(), 1u);
  EXPECT_EQ(grant.head_seq(), 42u);
  EXPECT_EQ(grant.lease().seconds(), 30);
  EXPECT_EQ(cluster_.journal().epoch("www"), 1u);
  EXPECT_EQ(cluster_.Token("www").holder(), "a");

  // A lost answer: the same grant again, without another fence.
  token::v1::AcquireResponse again;
  ASSERT_TRUE(cluster_.Acquire("www", "a", &again).ok());
  EXPECT_EQ(again.epoch(), 1u);
  EXPECT_EQ(again.head_seq(), 42u);
  EXPECT_THAT(cluster_.journal().log(), ElementsAre("create www 1", "fence www 1"));
}

TEST_F(TokenServiceTest, SixteenAcquirersEachGetItInTurn) {
  constexpr int kNodes = 16;
  for (int i = 0; i < kNodes; ++i) cluster_.Join("www", absl::StrCat("n", i));
  std::atomic<int> inside = 0;
  std::atomic<int> most = 0;
  std::atomic<int> served = 0;
  std::vector<std::thread> nodes;
  for (int i = 0; i < kNodes; ++i) {
    nodes.emplace_back([&, node = absl::StrCat("n", i)] {
      RecallWatch recalls(cluster_, node);
      token::v1::AcquireResponse grant;
      const grpc::Status status = cluster_.Acquire("www", node, &grant);
      ASSERT_TRUE(status.ok()) << status.error_message();
      most = std::max(most.load(), ++inside);
      ++served;
      // Keeps it until somebody wants it; the last is wanted by nobody.
      token::v1::WatchRecallsResponse recall;
      if (served < kNodes) {
        EXPECT_TRUE(recalls.Next(recall));
      }
      --inside;
      EXPECT_TRUE(cluster_.Release("www", node, grant.epoch()).ok());
    });
  }
  for (std::thread& node : nodes) node.join();
  EXPECT_EQ(served, kNodes);
  EXPECT_EQ(most, 1);
  EXPECT_EQ(cluster_.journal().epoch("www"), uint64_t{kNodes});
}

TEST_F(TokenServiceTest, CancelledAndTimedOutAcquirersGiveUpTheirPlaces) {
  token::v1::AcquireResponse first;
  ASSERT_TRUE(cluster_.Acquire("www", "a", &first).ok());

  grpc::ClientContext cancelled;
  std::thread b([&] {
    token::v1::AcquireResponse grant;
    EXPECT_EQ(cluster_.Acquire("www", "b", &grant, &cancelled).error_code(), grpc::CANCELLED);
  });
  EXPECT_TRUE(tests::Eventually([&] { return cluster_.Token("www").queue_size() == 1; }));
  cancelled.TryCancel();
  b.join();
  EXPECT_TRUE(tests::Eventually([&] { return cluster_.Token("www").queue_size() == 0; }));

  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  token::v1::AcquireResponse grant;
  EXPECT_EQ(cluster_.Acquire("www", "b", &grant, &late).error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_TRUE(tests::Eventually([&] { return cluster_.Token("www").queue_size() == 0; }));

  // Nobody is left in the way.
  ASSERT_TRUE(cluster_.Release("www", "a", first.epoch()).ok());
  ASSERT_TRUE(cluster_.Acquire("www", "c", &grant).ok());
  EXPECT_EQ(grant.epoch(), 2u);
}

TEST_F(TokenServiceTest, RecallReachesTheHolderAlsoAfterItsStreamBroke) {
  token::v1::AcquireResponse grant;
  ASSERT_TRUE(cluster_.Acquire("www", "a", &grant).ok());
  std::thread b([&] {
    token::v1::AcquireResponse second;
    EXPECT_TRUE(cluster_.Acquire("www", "b", &second).ok());
    EXPECT_EQ(second.epoch(), 2u);
  });
  // Nobody watches when the recall is sent: Renew says it, and so does a new stream.
  EXPECT_TRUE(tests::Eventually([&] { return cluster_.Token("www").recalling(); }));
  token::v1::RenewResponse renewed;
  ASSERT_TRUE(cluster_.Renew("www", "a", 1, &renewed).ok());
  EXPECT_TRUE(renewed.recalled());
  EXPECT_EQ(renewed.lease().seconds(), 30);
  for (int subscription = 0; subscription < 2; ++subscription) {
    RecallWatch recalls(cluster_, "a");
    token::v1::WatchRecallsResponse recall;
    ASSERT_TRUE(recalls.Next(recall));
    EXPECT_EQ(recall.collection(), "www");
    EXPECT_EQ(recall.epoch(), 1u);
    EXPECT_LE(recall.deadline().seconds(), 15);
  }
  ASSERT_TRUE(cluster_.Release("www", "a", 1).ok());
  b.join();
  // Repeated, it is still right; what is stale is refused.
  EXPECT_TRUE(cluster_.Release("www", "a", 1).ok());
  EXPECT_EQ(cluster_.Renew("www", "a", 1, &renewed).error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_EQ(cluster_.Release("www", "b", 1).error_code(), grpc::FAILED_PRECONDITION);
}

TEST_F(TokenServiceTest, ForcedRecallFencesTheHolder) {
  token::v1::AcquireResponse grant;
  ASSERT_TRUE(cluster_.Acquire("www", "a", &grant).ok());
  EXPECT_EQ(cluster_.Recall("www", true, "r0").error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(cluster_.Recall("www", true, "r0", 2).error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_EQ(cluster_.Token("www").holder(), "a");
  ASSERT_TRUE(cluster_.Recall("www", true, "r1", 1).ok());
  EXPECT_EQ(cluster_.journal().epoch("www"), 2u);
  token::v1::RenewResponse renewed;
  EXPECT_EQ(cluster_.Renew("www", "a", 1, &renewed).error_code(), grpc::FAILED_PRECONDITION);
  ASSERT_TRUE(cluster_.Acquire("www", "b", &grant).ok());
  EXPECT_EQ(grant.epoch(), 3u);
  // The same request again does not hit the next holder.
  ASSERT_TRUE(cluster_.Recall("www", true, "r1", 1).ok());
  EXPECT_EQ(cluster_.Token("www").holder(), "b");
  // Nor when the service has forgotten it.
  cluster_.Restart();
  ASSERT_TRUE(cluster_.Recall("www", true, "r1", 1).ok());
  ASSERT_TRUE(cluster_.Recall("www", false, "r1", 1).ok());
  EXPECT_EQ(cluster_.Token("www").holder(), "b");
  EXPECT_FALSE(cluster_.Token("www").recalling());
  EXPECT_TRUE(cluster_.Renew("www", "b", 3, &renewed).ok());
  EXPECT_FALSE(renewed.recalled());
}

TEST_F(TokenServiceTest, RefusesWhomItDoesNotKnow) {
  token::v1::AcquireResponse grant;
  EXPECT_EQ(cluster_.Acquire("nothing", "a", &grant).error_code(), grpc::NOT_FOUND);
  EXPECT_EQ(cluster_.Acquire("www", "stranger", &grant).error_code(), grpc::FAILED_PRECONDITION);
  ASSERT_TRUE(cluster_.Register("d", "d-1").ok());
  EXPECT_EQ(cluster_.Acquire("www", "d", &grant).error_code(), grpc::PERMISSION_DENIED);
  ASSERT_TRUE(cluster_.Register("e", "e-2").ok());
  EXPECT_EQ(cluster_.Acquire("www", "e", &grant).error_code(), grpc::FAILED_PRECONDITION);
  RecallWatch recalls(cluster_, "stranger");
  token::v1::WatchRecallsResponse recall;
  EXPECT_FALSE(recalls.Next(recall));
  EXPECT_EQ(cluster_.Recall("nothing", false).error_code(), grpc::NOT_FOUND);
}

TEST_F(TokenServiceTest, RestartHonoursTheHolder) {
  token::v1::AcquireResponse grant;
  ASSERT_TRUE(cluster_.Acquire("www", "a", &grant).ok());
  cluster_.Restart();
  EXPECT_EQ(cluster_.Token("www").holder(), "a");
  token::v1::RenewResponse renewed;
  ASSERT_TRUE(cluster_.Renew("www", "a", 1, &renewed).ok());

  // The holder that lost its answer gets the same epoch, with the journal's head of now.
  cluster_.journal().SetHead("www", 7);
  token::v1::AcquireResponse again;
  ASSERT_TRUE(cluster_.Acquire("www", "a", &again).ok());
  EXPECT_EQ(again.epoch(), 1u);
  EXPECT_EQ(again.head_seq(), 7u);

  std::thread b([&] {
    token::v1::AcquireResponse second;
    EXPECT_TRUE(cluster_.Acquire("www", "b", &second).ok());
    EXPECT_EQ(second.epoch(), 2u);
  });
  EXPECT_TRUE(tests::Eventually([&] { return cluster_.Token("www").recalling(); }));
  EXPECT_EQ(cluster_.journal().epoch("www"), 1u);
  ASSERT_TRUE(cluster_.Release("www", "a", 1).ok());
  b.join();

  // What was released needs no waiting after a restart.
  ASSERT_TRUE(cluster_.Release("www", "b", 2).ok());
  cluster_.Restart();
  ASSERT_TRUE(cluster_.Acquire("www", "c", &grant).ok());
  EXPECT_EQ(grant.epoch(), 3u);
}

TEST_F(TokenServiceTest, GoesOnAboveAnEpochThatOnlyTheJournalKnows) {
  cluster_.journal().SetEpoch("www", 9);
  token::v1::AcquireResponse grant;
  ASSERT_TRUE(cluster_.Acquire("www", "a", &grant).ok());
  EXPECT_EQ(grant.epoch(), 10u);
}

TEST_F(TokenServiceTest, JournalThatRefusesIsAnErrorAndNoGrant) {
  cluster_.journal().FailWith(grpc::RESOURCE_EXHAUSTED);
  token::v1::AcquireResponse grant;
  EXPECT_EQ(cluster_.Acquire("www", "a", &grant).error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(cluster_.Token("www").holder(), "");
  cluster_.journal().FailWith(grpc::OK);
  ASSERT_TRUE(cluster_.Acquire("www", "a", &grant).ok());
  EXPECT_EQ(grant.epoch(), 2u);
}

TEST_F(TokenServiceTest, DrainAnswersWaitersAndEndsStreams) {
  token::v1::AcquireResponse grant;
  ASSERT_TRUE(cluster_.Acquire("www", "a", &grant).ok());
  std::thread b([&] {
    token::v1::AcquireResponse second;
    EXPECT_EQ(cluster_.Acquire("www", "b", &second).error_code(), grpc::UNAVAILABLE);
  });
  EXPECT_TRUE(tests::Eventually([&] { return cluster_.Token("www").queue_size() == 1; }));
  RecallWatch recalls(cluster_, "c");
  cluster_.Stop();
  token::v1::WatchRecallsResponse recall;
  EXPECT_FALSE(recalls.Next(recall));
  b.join();
}

TEST(TokenServiceLeaseTest, SilentHolderIsExpired) {
  TokenCluster cluster(absl::Milliseconds(300));
  ASSERT_TRUE(cluster.Create("www").ok());
  cluster.Join("www", "a");
  cluster.Join("www", "b");
  token::v1::AcquireResponse grant;
  const absl::Time before = absl::Now();
  ASSERT_TRUE(cluster.Acquire("www", "a", &grant).ok());
  ASSERT_TRUE(cluster.Acquire("www", "b", &grant).ok());
  EXPECT_EQ(grant.epoch(), 2u);
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(300));
  token::v1::RenewResponse renewed;
  EXPECT_EQ(cluster.Renew("www", "a", 1, &renewed).error_code(), grpc::FAILED_PRECONDITION);
}

TEST(TokenServiceLeaseTest, NobodyElseIsGrantedWithinALeaseOfARestart) {
  TokenCluster cluster(absl::Milliseconds(500));
  ASSERT_TRUE(cluster.Create("www").ok());
  cluster.Join("www", "a");
  cluster.Join("www", "b");
  token::v1::AcquireResponse grant;
  ASSERT_TRUE(cluster.Acquire("www", "a", &grant).ok());
  // A shorter lease in the new configuration does not shorten what was promised.
  *cluster.config().mutable_lease() = ToProto(absl::Milliseconds(100));
  cluster.Stop();
  const absl::Time before = absl::Now();
  cluster.Start();
  ASSERT_TRUE(cluster.Acquire("www", "b", &grant).ok());
  EXPECT_EQ(grant.epoch(), 2u);
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(500));
}

}  // namespace
}  // namespace intermezzo
