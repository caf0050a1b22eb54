// Random operations on both sides of a cut, then reconciliation: trees and tables are equal, no
// content that was written alone is lost, the journal takes every record; also with crashes at any
// step, and with a source that writes on while it sends. INTERMEZZO_SEED=N runs one seed,
// INTERMEZZO_SEEDS=N runs so many.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"
#include "tests/contract/reconcile_world.h"
#include "tests/support/random_operations.h"
#include "tests/support/record_chain.h"
#include "tests/support/tree_digest.h"

namespace intermezzo::sidecar {
namespace {

using ::testing::IsEmpty;
using tests::CompareTrees;
using tests::FromEnvironment;
using tests::TableOf;
using tests::TestNode;

// Hashes of all files with content, and one path of each.
std::map<std::string, std::string> ContentsOf(const std::string& root) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.symlink_status().type() != std::filesystem::file_type::regular) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    std::stringstream bytes;
    bytes << file.rdbuf();
    if (!bytes.str().empty()) contents[Xxh3(bytes.str())] = entry.path().string();
  }
  return contents;
}

struct Hazards {
  bool crashes = false;
  bool busy_source = false;
  // The journal has some of what is pending, and no longer what was missed.
  bool trimmed = false;
};

class Scenario {
 public:
  Scenario(uint64_t seed, Hazards hazards) : random_(seed), hazards_(hazards) {}

  void Go() {
    Write(world_.a(), 30);
    for (int round = 0; round < 3 && !::testing::Test::HasFailure(); ++round) Round();
  }
  size_t conflicts() { return world_.conflicts().size(); }

 private:
  void Round() {
    ASSERT_TRUE(Ok(world_.CutOff()));
    history_.clear();
    auto before = ContentsOf(world_.a().lower_path());
    Write(world_.a(), 1 + random_.Below(40));
    ASSERT_TRUE(Ok(world_.a().replica().CutAll()));
    if (hazards_.trimmed) {
      const uint64_t pending = world_.a().replica().pending_records();
      const uint64_t sent = random_.Below(pending + 1);
      history_.push_back(absl::StrCat("a: sends ", sent, " of ", pending));
      if (sent > 0) {
        ASSERT_TRUE(Ok(world_.Send(world_.a(), sent)));
      }
      ASSERT_TRUE(Ok(world_.Feed(world_.b())));
      before.merge(ContentsOf(world_.b().lower_path()));  // who changes it has seen it
    }
    Write(world_.b(), 1 + random_.Below(40));
    const auto alone = ContentsOf(world_.a().lower_path());
    int busy = static_cast<int>(hazards_.busy_source ? random_.Below(3) : 0);
    world_.after_table() = [&, busy]() mutable {
      if (busy-- > 0) {
        Write(world_.b(), 10);
        ASSERT_TRUE(Ok(world_.Push(world_.b())));
      }
    };
    history_.push_back("a: comes back");
    if (hazards_.crashes) {
      Crash();
    } else {
      if (hazards_.trimmed) {
        ASSERT_TRUE(Ok(world_.Push(world_.b())));
        ASSERT_TRUE(Ok(world_.ReplaceHistory()));
      }
      ASSERT_TRUE(Ok(world_.Reconnect()));
    }
    world_.after_table() = nullptr;
    if (::testing::Test::HasFailure()) return;
    TestNode& a = world_.a();
    TestNode& b = world_.b();
    // Space allocated ahead does not travel with fetched content.
    ASSERT_THAT(CompareTrees(a.lower_path(), b.lower_path(), {.holes = false}), IsEmpty())
        << History();
    ASSERT_EQ(TableOf(a.replica()), TableOf(b.replica())) << History();
    ASSERT_EQ(a.replica().pending_records(), 0u);
    ASSERT_THAT(a.replica().db().NoteNames(""), IsEmpty());
    const auto after = ContentsOf(a.lower_path());
    for (const auto& [hash, path] : alone) {
      if (before.contains(hash)) continue;
      ASSERT_TRUE(after.contains(hash)) << "lost: " << path << History();
    }
  }

  // Commits stop at random moments, and each time the node starts anew.
  void Crash() {
    TestNode& a = world_.a();
    ASSERT_TRUE(Ok(world_.Push(world_.b())));
    const Seq needed = world_.b().replica().cursor();
    for (int crash = 0;; ++crash) {
      int left = crash > 20 ? 1 << 20 : static_cast<int>(random_.Below(60));
      a.before_commit() = [&a, &left] {
        if (left-- == 0) a.commit_failure() = absl::UnavailableError("crashed");
      };
      absl::Status status = world_.Resume();
      if (status.ok() && hazards_.trimmed && a.replica().cursor() < needed) {
        status = world_.ReplaceHistory();
      }
      if (status.ok()) status = world_.Feed(a);
      a.before_commit() = nullptr;
      if (a.commit_failure().ok()) {
        ASSERT_TRUE(Ok(status));
        break;
      }
      ASSERT_FALSE(status.ok());
      a.commit_failure() = absl::OkStatus();
      a.Reopen();
    }
    ASSERT_TRUE(Ok(world_.Reconnect()));
  }

  void Write(TestNode& node, uint64_t operations) {
    for (uint64_t i = 0; i < operations; ++i) {
      std::string what;
      const int error = random_.Step(node, what);
      if (error == 0) history_.push_back(absl::StrCat(&node == &world_.a() ? "a: " : "b: ", what));
      ASSERT_TRUE(node.replica().failure().ok()) << node.replica().failure() << History();
    }
  }

  testing::AssertionResult Ok(const absl::Status& status) {
    if (status.ok()) return testing::AssertionSuccess();
    return testing::AssertionFailure() << status << History();
  }

  std::string History() const {
    std::string text = "\nsteps:";
    for (const std::string& line : history_) absl::StrAppend(&text, "\n  ", line);
    return text;
  }

  tests::RandomOperations random_;
  const Hazards hazards_;
  tests::ReconcileWorld world_;
  std::vector<std::string> history_;
};

void RunSeeds(Hazards hazards) {
  const uint64_t only = FromEnvironment("INTERMEZZO_SEED", 0);
  const uint64_t seeds = FromEnvironment("INTERMEZZO_SEEDS", 8);
  size_t conflicts = 0;
  for (uint64_t seed = only != 0 ? only : 1; seed <= (only != 0 ? only : seeds); ++seed) {
    SCOPED_TRACE(absl::StrCat("INTERMEZZO_SEED=", seed));
    Scenario scenario(seed, hazards);
    scenario.Go();
    conflicts += scenario.conflicts();
    if (::testing::Test::HasFailure()) return;
  }
  if (only == 0) {
    EXPECT_GT(conflicts, seeds) << "hardly a conflict: the test tests nothing";
  }
}

TEST(ReconcileRandomTest, BothSidesSurvive) { RunSeeds({}); }
TEST(ReconcileRandomTest, CrashesAtAnyStep) { RunSeeds({.crashes = true}); }
TEST(ReconcileRandomTest, TheSourceWritesOn) { RunSeeds({.busy_source = true}); }
TEST(ReconcileRandomTest, CrashesWhileTheSourceWritesOn) {
  RunSeeds({.crashes = true, .busy_source = true});
}
TEST(ReconcileRandomTest, TheJournalDoesNotReachBack) { RunSeeds({.trimmed = true}); }
TEST(ReconcileRandomTest, CrashesWhereTheJournalDoesNotReachBack) {
  RunSeeds({.crashes = true, .trimmed = true});
}

}  // namespace
}  // namespace intermezzo::sidecar
