// Random operations on one replica, applied on another, writers taking turns, with crashes between
// effect and commit: trees and tables stay the same. INTERMEZZO_SEED=N runs one seed,
// INTERMEZZO_SEEDS=N runs so many.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/support/random_operations.h"
#include "tests/support/record_chain.h"
#include "tests/support/test_node.h"
#include "tests/support/tree_digest.h"

namespace intermezzo::sidecar {
namespace {

using ::testing::IsEmpty;
using tests::CompareTrees;
using tests::FromEnvironment;
using tests::TableOf;
using tests::TestNode;

class Scenario {
 public:
  explicit Scenario(uint64_t seed) : generator_(seed) {}

  void Go(int operations) {
    for (int i = 0; i < operations && !::testing::Test::HasFailure(); ++i) {
      TestNode& writer = *nodes_[writer_];
      std::string what;
      const int error = generator_.Step(writer, what);
      history_.push_back(absl::StrCat("node ", writer_, ": ", what,
                                      error == 0 ? "" : absl::StrCat(" failed: ", error)));
      ASSERT_TRUE(writer.replica().failure().ok())
          << writer.replica().failure() << " after " << history_.back();
      done_ += error == 0;
      if (generator_.Below(20) == 0) Sync();
    }
    Sync();
    EXPECT_GT(done_, operations / 4) << "most operations failed: the test tests nothing";
  }

 private:
  void Sync() {
    chain_.Pull(nodes_[writer_]->replica());
    for (TestNode& node : {std::ref(a_), std::ref(b_)}) Feed(node);
    ASSERT_THAT(CompareTrees(a_.lower_path(), b_.lower_path()), IsEmpty()) << LastSteps();
    ASSERT_EQ(TableOf(a_.replica()), TableOf(b_.replica())) << LastSteps();
    ASSERT_EQ(a_.replica().pending_records() + b_.replica().pending_records(), 0u);
    writer_ = generator_.Below(2);
  }

  void Feed(TestNode& node) {
    while (auto entry = chain_.NextFor(node.replica())) {
      if (generator_.Below(40) == 0) {
        node.commit_failure() = absl::UnavailableError("crashed");
        EXPECT_FALSE(node.replica().Apply(*entry).ok());
        node.commit_failure() = absl::OkStatus();
        node.Reopen();
      }
      const absl::Status status = node.replica().Apply(*entry);
      ASSERT_TRUE(status.ok()) << "entry " << entry->seq() << ": " << status << LastSteps();
    }
  }

  std::string LastSteps() const {
    std::string text = "\nlast steps:";
    for (size_t i = history_.size() < 25 ? 0 : history_.size() - 25; i < history_.size(); ++i) {
      absl::StrAppend(&text, "\n  ", history_[i]);
    }
    return text;
  }

  tests::RandomOperations generator_;
  TestNode a_{3};
  TestNode b_{4};
  TestNode* const nodes_[2] = {&a_, &b_};
  size_t writer_ = 0;
  tests::RecordChain chain_;
  std::vector<std::string> history_;
  int done_ = 0;
};

TEST(ReplicaRandomTest, ReplicasStayTheSame) {
  const uint64_t only = FromEnvironment("INTERMEZZO_SEED", 0);
  const uint64_t seeds = FromEnvironment("INTERMEZZO_SEEDS", 5);
  for (uint64_t seed = only != 0 ? only : 1; seed <= (only != 0 ? only : seeds); ++seed) {
    SCOPED_TRACE(absl::StrCat("INTERMEZZO_SEED=", seed));
    Scenario(seed).Go(400);
    if (HasFailure()) return;
  }
}

// Bytes are read back for records while the file is written, truncated and punched.
TEST(ReplicaRandomTest, CuttingMeetsTruncations) {
  TestNode origin(3);
  TestNode copy(4);
  for (int round = 0; round < 150; ++round) {
    const std::string name = absl::StrCat("f", round);
    ASSERT_EQ(origin.Create(name, 0644), 0);
    std::atomic<int> working{2};
    std::thread writer([&] {
      std::mt19937_64 random(round);
      for (int i = 0; i < 8; ++i) {
        const std::string bytes(1 + random() % 200'000, static_cast<char>('a' + i));
        EXPECT_EQ(origin.Write(name, random() % 300'000, bytes), 0);
      }
      --working;
    });
    std::thread changer([&] {
      std::mt19937_64 random(~round);
      for (int i = 0; i < 8; ++i) {
        const uint64_t at = random() % 400'000;
        const int error = i % 2 == 0
                              ? origin.Truncate(name, at)
                              : origin.Fallocate(name, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                                 at, 1 + random() % 100'000);
        EXPECT_EQ(error, 0);
      }
      --working;
    });
    while (working > 0) EXPECT_TRUE(origin.replica().CutAll().ok());
    writer.join();
    changer.join();
  }
  tests::RecordChain chain;
  chain.Pull(origin.replica());
  const absl::Status fed = chain.Feed(copy.replica());
  ASSERT_TRUE(fed.ok()) << fed;
  EXPECT_THAT(CompareTrees(origin.lower_path(), copy.lower_path(), {.holes = false}), IsEmpty());
}

}  // namespace
}  // namespace intermezzo::sidecar
