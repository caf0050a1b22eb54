// All replicas of a collection together.
#include "services/forwarder-service/core/collection_progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace intermezzo::forwarder {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class CollectionProgressTest : public ::testing::Test {
 protected:
  void Connect(const std::string& node, StreamId stream, uint64_t cursor) {
    ASSERT_TRUE(collection_.Find(node)->Connected(stream, Seq(cursor), now_));
  }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  CollectionProgress collection_{{.bytes = 1000, .records = 8}, absl::Seconds(10)};
};

TEST_F(CollectionProgressTest, UnheardReplicasHoldBackEverything) {
  collection_.SetReplicas({"a", "b"});
  Connect("a", 1, 7);
  EXPECT_THAT(collection_.Cursors(), ElementsAre(Pair("a", Seq(7)), Pair("b", Seq(0))));
  EXPECT_EQ(collection_.AppliedByAll(), Seq(0));
  Connect("b", 2, 5);
  EXPECT_EQ(collection_.AppliedByAll(), Seq(5));
}

TEST_F(CollectionProgressTest, RemovedReplicasNoLongerCountAndAreForgotten) {
  collection_.SetReplicas({"a", "b"});
  Connect("a", 1, 7);
  Connect("b", 2, 3);
  EXPECT_THAT(collection_.SetReplicas({"a"}), ElementsAre("b"));
  EXPECT_EQ(collection_.AppliedByAll(), Seq(7));
  EXPECT_EQ(collection_.Find("b"), nullptr);
  EXPECT_THAT(collection_.SetReplicas({"a", "b"}), IsEmpty());
  EXPECT_FALSE(collection_.Find("b")->heard());
  collection_.SetReplicas({});
  EXPECT_EQ(collection_.AppliedByAll(), std::nullopt);
}

TEST_F(CollectionProgressTest, ReplicasThatComeLaterKnowTheHead) {
  collection_.HeadSeen({Seq(4), 400});
  collection_.SetReplicas({"a"});
  EXPECT_EQ(collection_.Find("a")->head(), Seq(4));
  collection_.HeadSeen({Seq(3), 300});
  EXPECT_EQ(collection_.head(), Seq(4));
}

TEST_F(CollectionProgressTest, SnapshotSourcesAreLiveAndFurthestAheadFirst) {
  collection_.SetReplicas({"a", "b", "c", "d", "e"});
  collection_.HeadSeen({Seq(9), 900});
  auto live_at = [&](const std::string& node, StreamId stream, uint64_t cursor) {
    Connect(node, stream, cursor);
    std::vector<EntryRead> rest;
    for (uint64_t seq = cursor + 1; seq <= 9; ++seq) rest.push_back({Seq(seq), 10, 100, now_});
    ASSERT_TRUE(collection_.Find(node)->EntriesRead(stream, rest).ok());
    collection_.Find(node)->Sent(stream, Seq(9));
  };
  live_at("a", 1, 5);
  live_at("b", 2, 9);
  live_at("c", 3, 7);
  Connect("d", 4, 8);  // has not got everything yet
  EXPECT_THAT(collection_.SnapshotSources("e"), ElementsAre("b", "c", "a"));
  EXPECT_THAT(collection_.SnapshotSources("b"), ElementsAre("c", "a"));
  collection_.Find("c")->Disconnected(3);
  EXPECT_THAT(collection_.SnapshotSources("e"), ElementsAre("b", "a"));
}

TEST_F(CollectionProgressTest, SaysWhoseCommitTimeIsMissing) {
  collection_.SetReplicas({"a", "b"});
  collection_.HeadSeen({Seq(9), 900});
  Connect("a", 1, 9);
  EXPECT_THAT(collection_.WantedCommitTimes(), ElementsAre(Pair("b", Seq(1))));
  collection_.HeadSeen({Seq(12), 1200});
  EXPECT_THAT(collection_.WantedCommitTimes(), ElementsAre(Pair("a", Seq(10)), Pair("b", Seq(1))));
}

}  // namespace
}  // namespace intermezzo::forwarder
