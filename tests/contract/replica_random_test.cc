// Random operations on one replica, applied on another, writers taking turns, with crashes between
// effect and commit: trees and tables stay the same. INTERMEZZO_SEED=N runs one seed,
// INTERMEZZO_SEEDS=N runs so many.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/support/record_chain.h"
#include "tests/support/test_node.h"
#include "tests/support/tree_digest.h"

namespace intermezzo::sidecar {
namespace {

using ::testing::IsEmpty;
using tests::CompareTrees;
using tests::TableOf;
using tests::TestNode;

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  uint64_t Below(uint64_t limit) { return random_() % limit; }

  // Mostly something that is there or would be new in a directory that is; few names, so that
  // operations meet.
  std::string Path(const TestNode& node) {
    std::vector<std::string> there;
    std::vector<std::string> directories = {""};
    const std::string& root = node.lower_path();
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      std::string path = entry.path().string().substr(root.size() + 1);
      if (entry.symlink_status().type() == std::filesystem::file_type::directory) {
        directories.push_back(path + "/");
      }
      there.push_back(std::move(path));
    }
    std::sort(there.begin(), there.end());
    std::sort(directories.begin(), directories.end());
    static const char* const kNames[] = {"a", "b", "c", "dir", "e f", "\xc3\xa9"};
    if (!there.empty() && Below(2) == 0) return there[Below(there.size())];
    return absl::StrCat(directories[Below(directories.size())], kNames[Below(6)]);
  }

  // Does something; returns 0 or an errno, in words in `what`.
  int Step(TestNode& node, std::string& what) {
    const std::string path = Path(node);
    const mode_t mode = static_cast<mode_t>(Below(010000));
    const uint64_t kind = Below(24);
    what = absl::StrCat("op ", kind, " on ", path);
    switch (kind) {
      case 0:
      case 1:
      case 2:
        return node.Create(path, mode);
      case 3:
      case 4:
      case 5:
        return node.Mkdir(path, mode);
      case 6:
        return node.Symlink(Path(node), path);
      case 7:
        // A major number that nothing has.
        return Below(2) == 0 ? node.Mknod(path, S_IFIFO | mode, 0)
                             : node.Mknod(path, S_IFCHR | mode, makedev(3000, Below(1 << 20)));
      case 8:
        return node.Link(Path(node), path);
      case 9:
        return node.Unlink(path);
      case 10:
        return node.Rmdir(path);
      case 11:
      case 12:
      case 13: {
        static const unsigned kFlags[] = {0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT};
        return node.Rename(path, Path(node), kFlags[Below(5)]);
      }
      case 14:
      case 15:
      case 16:
        return node.Write(path, Below(300'000),
                          std::string(1 + Below(Below(4) == 0 ? 200'000 : 50),
                                      static_cast<char>('a' + Below(26))));
      case 17:
        return node.Truncate(path, Below(400'000));
      case 18: {
        static const int kModes[] = {0, FALLOC_FL_KEEP_SIZE,
                                     FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     FALLOC_FL_ZERO_RANGE};
        return node.Fallocate(path, kModes[Below(4)], Below(200'000), 1 + Below(100'000));
      }
      case 19:
        return node.Chmod(path, mode);
      case 20:
        return node.Chown(path, static_cast<uid_t>(Below(70'000)), static_cast<gid_t>(Below(10)));
      case 21:
        return node.Utimens(path, {static_cast<time_t>(Below(1 << 30)), 7},
                            {static_cast<time_t>(Below(1 << 30)), static_cast<long>(Below(999))});
      case 22:
        return node.Setxattr(path, absl::StrCat(Below(2) == 0 ? "user.x" : "trusted.x", Below(3)),
                             std::string(Below(500), 'v'));
      default:
        return node.Removexattr(path, absl::StrCat("user.x", Below(3)));
    }
  }

 private:
  std::mt19937_64 random_;
};

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

  Generator generator_;
  TestNode a_{3};
  TestNode b_{4};
  TestNode* const nodes_[2] = {&a_, &b_};
  size_t writer_ = 0;
  tests::RecordChain chain_;
  std::vector<std::string> history_;
  int done_ = 0;
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  uint64_t value = 0;
  const char* text = std::getenv(name);
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

TEST(ReplicaRandomTest, ReplicasStayTheSame) {
  const uint64_t only = FromEnvironment("INTERMEZZO_SEED", 0);
  const uint64_t seeds = FromEnvironment("INTERMEZZO_SEEDS", 5);
  for (uint64_t seed = only != 0 ? only : 1; seed <= (only != 0 ? only : seeds); ++seed) {
    SCOPED_TRACE(absl::StrCat("INTERMEZZO_SEED=", seed));
    Scenario(seed).Go(400);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace intermezzo::sidecar
