// Goal: each line of the table in services/adr/0003-keep-both.md, on real trees: both sides write
// while A is away, A comes back, both trees are equal and hold what the table says.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "tests/contract/reconcile_world.h"
#include "tests/support/record_chain.h"
#include "tests/support/tree_digest.h"

namespace intermezzo::sidecar {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::UnorderedElementsAre;
using tests::CompareTrees;
using tests::TableOf;
using tests::TestNode;

class ReconcileTest : public testing::Test {
 protected:
  TestNode& a() { return world_.a(); }
  TestNode& b() { return world_.b(); }

  void File(TestNode& node, const std::string& path, const std::string& content) {
    ASSERT_EQ(node.Create(path, 0644), 0) << path;
    if (content.empty()) return;
    ASSERT_EQ(node.Write(path, 0, content), 0) << path;
  }
  void CutOff() { ASSERT_TRUE(world_.CutOff().ok()); }
  void Reconnect() {
    const absl::Status status = world_.Reconnect();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_THAT(CompareTrees(a().lower_path(), b().lower_path()), IsEmpty());
    EXPECT_EQ(TableOf(a().replica()), TableOf(b().replica()));
    EXPECT_EQ(a().replica().pending_records(), 0u);
    EXPECT_EQ(a().replica().settled_origin_seq(), a().replica().last_origin_seq());
    EXPECT_THAT(a().replica().db().NoteNames(""), IsEmpty());
  }
  std::string Read(const std::string& path) {
    std::ifstream file(b().Path(path), std::ios::binary);
    std::stringstream bytes;
    bytes << file.rdbuf();
    return bytes.str();
  }
  // Names in a directory; the number in a conflict name becomes N.
  std::vector<std::string> Names(const std::string& path = "") {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(b().Path(path))) {
      std::string name = entry.path().filename().string();
      if (size_t at = name.find(".conflict-node3-"); at != std::string::npos) {
        name = name.substr(0, at + 16) + "N";
      }
      names.push_back(std::move(name));
    }
    return names;
  }
  // The conflict copy of `name`.
  std::string Copy(const std::string& dir, const std::string& name) {
    for (const auto& entry : std::filesystem::directory_iterator(b().Path(dir))) {
      const std::string found = entry.path().filename().string();
      if (found.starts_with(name + ".conflict-node3-")) {
        return dir.empty() ? found : dir + "/" + found;
      }
    }
    return "no-such-copy";
  }
  mode_t Mode(const std::string& path) {
    struct stat st;
    return lstat(b().Path(path).c_str(), &st) == 0 ? st.st_mode & 07777 : 0xffff;
  }

  tests::ReconcileWorld world_;
};

// ---- write, truncate, attributes ---------------------------------------------------------------

TEST_F(ReconcileTest, BothWrite) {
  File(a(), "f", "old");
  CutOff();
  a().Write("f", 0, "from a");
  b().Write("f", 0, "from b");
  Reconnect();
  EXPECT_THAT(Names(), UnorderedElementsAre("f", "f.conflict-node3-N"));
  EXPECT_EQ(Read("f"), "from b");
  EXPECT_EQ(Read(Copy("", "f")), "from a");
  EXPECT_THAT(world_.conflicts(), ElementsAre("update/update"));
}

TEST_F(ReconcileTest, ManyWritesMakeOneCopy) {
  File(a(), "f", "old");
  CutOff();
  a().Write("f", 0, "one");
  a().Chmod("f", 0600);
  a().Truncate("f", 1);
  a().Write("f", 70'000, "end");
  b().Write("f", 0, "from b");
  Reconnect();
  EXPECT_THAT(Names(), UnorderedElementsAre("f", "f.conflict-node3-N"));
  EXPECT_EQ(Read(Copy("", "f")), "o" + std::string(69'999, '\0') + "end");
}

TEST_F(ReconcileTest, TruncateMeetsWrite) {
  File(a(), "f", "old content");
  CutOff();
  a().Truncate("f", 3);
  b().Write("f", 11, " and more");
  Reconnect();
  EXPECT_EQ(Read("f"), "old content and more");
  EXPECT_EQ(Read(Copy("", "f")), "old");
}

TEST_F(ReconcileTest, DataHereAttributesThereAreNoConflict) {
  File(a(), "f", "old");
  CutOff();
  a().Write("f", 0, "from a");
  b().Chmod("f", 0600);
  Reconnect();
  EXPECT_THAT(Names(), ElementsAre("f"));
  EXPECT_EQ(Read("f"), "from a");
  EXPECT_EQ(Mode("f"), 0600u);
}

TEST_F(ReconcileTest, AttributesOfAFileMakeACopy) {
  File(a(), "f", "old");
  CutOff();
  a().Chmod("f", 0640);
  a().Setxattr("f", "user.here", "a");
  b().Chmod("f", 0600);
  Reconnect();
  EXPECT_EQ(Mode("f"), 0600u);
  EXPECT_EQ(Mode(Copy("", "f")), 0640u);
  char value[10];
  EXPECT_EQ(getxattr(b().Path(Copy("", "f")).c_str(), "user.here", value, 10), 1);
  EXPECT_EQ(Read(Copy("", "f")), "old");
}

// The copy has both, and the file has the server's bytes again.
TEST_F(ReconcileTest, AttributesInConflictTakeTheDataAlong) {
  File(a(), "f", "old");
  CutOff();
  a().Chmod("f", 0640);
  a().Write("f", 0, "new from a");
  b().Chmod("f", 0600);
  Reconnect();
  EXPECT_EQ(Read("f"), "old");
  EXPECT_EQ(Read(Copy("", "f")), "new from a");
}

TEST_F(ReconcileTest, AttributesOfADirectoryStayTheServers) {
  a().Mkdir("d", 0755);
  CutOff();
  a().Chmod("d", 0700);
  b().Chmod("d", 0711);
  Reconnect();
  EXPECT_THAT(Names(), ElementsAre("d"));
  EXPECT_EQ(Mode("d"), 0711u);
  EXPECT_THAT(world_.conflicts(), ElementsAre("attributes"));
}

TEST_F(ReconcileTest, EqualAttributesAreNoConflict) {
  File(a(), "f", "old");
  const timespec at = {1234, 5};
  CutOff();
  a().Utimens("f", at, at);
  b().Utimens("f", at, at);
  Reconnect();
  EXPECT_THAT(Names(), ElementsAre("f"));
  EXPECT_THAT(world_.conflicts(), IsEmpty());
}

TEST_F(ReconcileTest, WrittenHereRemovedThere) {
  a().Mkdir("d", 0755);
  File(a(), "d/f", "old");
  CutOff();
  a().Write("d/f", 0, "from a");
  b().Unlink("d/f");
  Reconnect();
  EXPECT_THAT(Names("d"), ElementsAre("f.conflict-node3-N"));
  EXPECT_EQ(Read(Copy("d", "f")), "from a");
}

TEST_F(ReconcileTest, WrittenHereRemovedThereWithItsDirectories) {
  a().Mkdir("d", 0755);
  a().Mkdir("d/e", 0755);
  File(a(), "d/e/f", "old");
  CutOff();
  a().Write("d/e/f", 0, "from a");
  b().Unlink("d/e/f");
  b().Rmdir("d/e");
  b().Rmdir("d");
  Reconnect();
  EXPECT_THAT(Names(), ElementsAre("d.conflict-node3-N"));
  const std::string dir = Copy("", "d");
  const std::string inner = Copy(dir, "e");
  EXPECT_EQ(Read(Copy(inner, "f")), "from a");
}

// ---- names -------------------------------------------------------------------------------------

TEST_F(ReconcileTest, BothMakeAFileOfOneName) {
  CutOff();
  File(a(), "f", "from a");
  a().Chmod("f", 0600);
  File(b(), "f", "from b");
  a().Write("f", 6, ", more");
  Reconnect();
  EXPECT_THAT(Names(), UnorderedElementsAre("f", "f.conflict-node3-N"));
  EXPECT_EQ(Read("f"), "from b");
  EXPECT_EQ(Read(Copy("", "f")), "from a, more");
  EXPECT_EQ(Mode(Copy("", "f")), 0600u);
}

TEST_F(ReconcileTest, BothMakeADirectoryOfOneName) {
  CutOff();
  a().Mkdir("d", 0755);
  File(a(), "d/a", "from a");
  File(a(), "d/both", "from a");
  b().Mkdir("d", 0700);
  File(b(), "d/b", "from b");
  File(b(), "d/both", "from b");
  Reconnect();
  EXPECT_THAT(Names(), ElementsAre("d"));
  EXPECT_THAT(Names("d"), UnorderedElementsAre("a", "b", "both", "both.conflict-node3-N"));
  EXPECT_EQ(Read("d/both"), "from b");
  EXPECT_EQ(Read(Copy("d", "both")), "from a");
}

TEST_F(ReconcileTest, MadeInADirectoryThatIsGone) {
  a().Mkdir("d", 0755);
  CutOff();
  File(a(), "d/f", "from a");
  File(a(), "d/g", "more");
  b().Rmdir("d");
  Reconnect();
  EXPECT_THAT(Names(), ElementsAre("d.conflict-node3-N"));
  const std::string dir = Copy("", "d");
  EXPECT_EQ(Read(dir + "/f"), "from a");
  EXPECT_EQ(Read(dir + "/g"), "more");
}

TEST_F(ReconcileTest, ADirectoryMeetsAFile) {
  CutOff();
  a().Mkdir("x", 0755);
  File(a(), "x/f", "from a");
  File(b(), "x", "from b");
  Reconnect();
  EXPECT_EQ(Read("x"), "from b");
  EXPECT_EQ(Read(Copy("", "x") + "/f"), "from a");
}

TEST_F(ReconcileTest, TheConflictNameIsUsedOnByTheQueue) {
  CutOff();
  File(a(), "f", "one");
  a().Rename("f", "g");
  File(a(), "f", "two");
  a().Link("f", "h");
  File(b(), "f", "from b");
  Reconnect();
  EXPECT_THAT(Names(), UnorderedElementsAre("f", "f.conflict-node3-N", "g", "h"));
  EXPECT_EQ(Read("g"), "one");
  EXPECT_EQ(Read("h"), "two");
  EXPECT_EQ(Read(Copy("", "f")), "two");
  EXPECT_EQ(Read("f"), "from b");
}

// ---- remove ------------------------------------------------------------------------------------

TEST_F(ReconcileTest, RemovedHereWrittenThere) {
  File(a(), "f", "old");
  CutOff();
  a().Unlink("f");
  b().Write("f", 0, "from b");
  Reconnect();
  EXPECT_THAT(Names(), ElementsAre("f"));
  EXPECT_EQ(Read("f"), "from b");
  EXPECT_THAT(world_.conflicts(), ElementsAre("remove/update"));
}

TEST_F(ReconcileTest, RemovedHereAndMadeAnewThere) {
  File(a(), "f", "old");
  CutOff();
  a().Unlink("f");
  b().Unlink("f");
  File(b(), "f", "from b");
  Reconnect();
  EXPECT_EQ(Read("f"), "from b");
}

TEST_F(ReconcileTest, RemovedOnBothSides) {
  File(a(), "f", "old");
  CutOff();
  a().Unlink("f");
  b().Unlink("f");
  Reconnect();
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_THAT(world_.conflicts(), IsEmpty());
}

TEST_F(ReconcileTest, RmdirOfWhatIsNotEmptyThere) {
  a().Mkdir("d", 0755);
  CutOff();
  a().Rmdir("d");
  File(b(), "d/f", "from b");
  Reconnect();
  EXPECT_EQ(Read("d/f"), "from b");
  EXPECT_THAT(world_.conflicts(), ElementsAre("rmdir"));
}

// ---- rename ------------------------------------------------------------------------------------

TEST_F(ReconcileTest, RenamedOnBothSides) {
  File(a(), "f", "old");
  CutOff();
  a().Rename("f", "a");
  b().Rename("f", "b");
  Reconnect();
  EXPECT_THAT(Names(), ElementsAre("b"));
  EXPECT_THAT(world_.conflicts(), ElementsAre("rename/rename"));
}

TEST_F(ReconcileTest, RenamedAndWrittenHereRemovedThere) {
  File(a(), "f", "old");
  CutOff();
  a().Rename("f", "g");
  a().Write("g", 0, "from a");
  b().Unlink("f");
  Reconnect();
  EXPECT_EQ(Read(Copy("", "g")), "from a");
}

TEST_F(ReconcileTest, RenamedHereWrittenThere) {
  File(a(), "f", "old");
  CutOff();
  a().Rename("f", "g");
  b().Write("f", 0, "from b");
  Reconnect();
  EXPECT_THAT(Names(), ElementsAre("g"));
  EXPECT_EQ(Read("g"), "from b");
}

TEST_F(ReconcileTest, WrittenAndRenamedHereWrittenThere) {
  File(a(), "f", "old");
  CutOff();
  a().Write("f", 0, "from a");
  a().Rename("f", "g");
  b().Write("f", 0, "from b");
  Reconnect();
  EXPECT_THAT(Names(), UnorderedElementsAre("g", "g.conflict-node3-N"));
  EXPECT_EQ(Read("g"), "from b");
  EXPECT_EQ(Read(Copy("", "g")), "from a");
}

TEST_F(ReconcileTest, TheTargetIsTaken) {
  File(a(), "f", "old");
  CutOff();
  a().Rename("f", "g");
  File(b(), "g", "from b");
  Reconnect();
  EXPECT_THAT(Names(), UnorderedElementsAre("g", "g.conflict-node3-N"));
  EXPECT_EQ(Read("g"), "from b");
  EXPECT_EQ(Read(Copy("", "g")), "old");
}

TEST_F(ReconcileTest, TheOverwrittenTargetWasChanged) {
  File(a(), "f", "new version");
  File(a(), "g", "old version");
  CutOff();
  a().Rename("f", "g");
  b().Write("g", 0, "from b");
  Reconnect();
  EXPECT_EQ(Read("g"), "from brsion");
  EXPECT_EQ(Read(Copy("", "g")), "new version");
  EXPECT_THAT(world_.conflicts(), ElementsAre("overwritten rename target"));
}

// What editors do on both sides.
TEST_F(ReconcileTest, BothReplaceByRename) {
  File(a(), "page", "old");
  CutOff();
  File(a(), "page.tmp", "from a");
  a().Rename("page.tmp", "page");
  File(b(), "page.tmp", "from b");
  b().Rename("page.tmp", "page");
  Reconnect();
  EXPECT_EQ(Read("page"), "from b");
  EXPECT_EQ(Read(Copy("", "page")), "from a");
}

TEST_F(ReconcileTest, DirectoriesIntoEachOther) {
  a().Mkdir("c", 0755);
  a().Mkdir("d", 0755);
  File(a(), "c/f", "f");
  File(a(), "d/g", "g");
  CutOff();
  a().Rename("c", "d/c");
  File(a(), "d/c/h", "from a");
  b().Rename("d", "c/d");
  Reconnect();
  EXPECT_THAT(Names(), ElementsAre("c"));
  EXPECT_EQ(Read("c/f"), "f");
  EXPECT_EQ(Read("c/d/g"), "g");
  EXPECT_EQ(Read("c/h"), "from a");
  EXPECT_THAT(world_.conflicts(), ElementsAre("rename cycle"));
}

TEST_F(ReconcileTest, ADirectoryMovedOnBothSides) {
  for (const char* dir : {"d", "x", "y"}) a().Mkdir(dir, 0755);
  File(a(), "d/f", "f");
  CutOff();
  a().Rename("d", "x/d");
  a().Write("x/d/f", 0, "from a");
  b().Rename("d", "y/d");
  Reconnect();
  EXPECT_EQ(Read("y/d/f"), "from a");
  EXPECT_THAT(Names("x"), IsEmpty());
}

TEST_F(ReconcileTest, ExchangedOnOneSide) {
  File(a(), "f", "f");
  File(a(), "g", "g");
  File(a(), "z", "z");
  CutOff();
  a().Rename("f", "g", RENAME_EXCHANGE);
  a().Write("z", 0, "a");
  b().Write("z", 0, "b");
  Reconnect();
  EXPECT_EQ(Read("f"), "g");
  EXPECT_EQ(Read("g"), "f");
}

// ---- other kinds of content --------------------------------------------------------------------

TEST_F(ReconcileTest, HardLinks) {
  File(a(), "f", "old");
  a().Link("f", "g");
  CutOff();
  a().Write("g", 0, "from a");
  a().Unlink("f");
  a().Link("g", "h");
  b().Write("f", 0, "from b");
  Reconnect();
  EXPECT_EQ(Read("g"), "from b");
  EXPECT_EQ(Read("h"), "from b");
  EXPECT_THAT(Names(), UnorderedElementsAre("g", "g.conflict-node3-N", "h"));
  EXPECT_EQ(Read(Copy("", "g")), "from a");
}

TEST_F(ReconcileTest, HolesStayHoles) {
  File(a(), "f", "old");
  CutOff();
  a().Write("f", 4 << 20, "from a");
  a().Truncate("f", 8 << 20);
  b().Write("f", 0, "from b");
  Reconnect();
  struct stat st;
  ASSERT_EQ(stat(b().Path(Copy("", "f")).c_str(), &st), 0);
  EXPECT_EQ(st.st_size, 8 << 20);
  EXPECT_LT(st.st_blocks, 1000);
}

TEST_F(ReconcileTest, RangesMovedWithinAFile) {
  File(a(), "f", std::string(4096, '1') + std::string(4096, '2') + std::string(4096, '3'));
  File(a(), "z", "z");
  CutOff();
  const int inserted = a().Fallocate("f", FALLOC_FL_INSERT_RANGE, 0, 4096);
  const int collapsed = a().Fallocate("f", FALLOC_FL_COLLAPSE_RANGE, 8192, 4096);
  a().Write("z", 0, "a");
  b().Write("z", 0, "b");
  Reconnect();
  if (inserted != 0 || collapsed != 0) GTEST_SKIP() << "not on this file system";
  EXPECT_EQ(Read("f"), std::string(4096, '\0') + std::string(4096, '1') + std::string(4096, '3'));
}

TEST_F(ReconcileTest, SymbolicLinksAndDevices) {
  CutOff();
  a().Symlink("to a", "l");
  a().Mknod("p", S_IFIFO | 0600, 0);
  b().Symlink("to b", "l");
  b().Mknod("p", S_IFIFO | 0640, 0);
  b().Mknod("n", S_IFCHR | 0600, makedev(3000, 70'000));
  Reconnect();
  EXPECT_EQ(std::filesystem::read_symlink(b().Path("l")), "to b");
  EXPECT_EQ(std::filesystem::read_symlink(b().Path(Copy("", "l"))), "to a");
  EXPECT_EQ(Mode("p"), 0640u);
  EXPECT_EQ(Mode(Copy("", "p")), 0600u);
}

TEST_F(ReconcileTest, ALongNameIsCut) {
  const std::string name(255, 'n');
  CutOff();
  File(a(), name, "from a");
  File(b(), name, "from b");
  Reconnect();
  EXPECT_THAT(Names(), testing::SizeIs(2));
  EXPECT_EQ(Read(name), "from b");
}

// Found by the random test: a pending link does not hold back the time of a forwarded write.
TEST_F(ReconcileTest, ALinkSetsNoTimeOfItsObject) {
  File(a(), "f", "old");
  CutOff();
  a().Link("f", "g");
  b().Write("f", 0, "from b");
  Reconnect();
  EXPECT_EQ(Read("g"), "from b");
  EXPECT_THAT(world_.conflicts(), IsEmpty());
}

TEST_F(ReconcileTest, AHalfDoneQueueIsNotSentAndNotSettled) {
  File(a(), "f", "old");
  CutOff();
  a().Write("f", 0, "from a");
  b().Write("f", 0, "from b");
  ASSERT_TRUE(world_.Push(b()).ok());
  ASSERT_TRUE(a().replica().CutAll().ok());
  const uint64_t last = a().replica().last_origin_seq();
  // The node dies when the reset begins.
  world_.after_table() = [&] { a().commit_failure() = absl::UnavailableError("crashed"); };
  EXPECT_FALSE(world_.Feed(a()).ok());
  world_.after_table() = nullptr;
  a().commit_failure() = absl::OkStatus();
  a().Reopen();
  EXPECT_EQ(a().replica().replay_through(), last);
  EXPECT_EQ(a().replica().settled_origin_seq(), last - 1);
  EXPECT_EQ(a().replica().pending_records(), 1u);  // it is still to be replayed
  ASSERT_TRUE(world_.Resume().ok());
  EXPECT_EQ(a().replica().replay_through(), 0u);
  EXPECT_EQ(a().replica().settled_origin_seq(), last);  // what replaced it is pending
  EXPECT_GT(a().replica().pending_records(), 0u);
  Reconnect();
  EXPECT_EQ(Read(Copy("", "f")), "from a");
}

TEST_F(ReconcileTest, WhatWaitsForReplayIsPending) {
  File(a(), "f", "old");
  a().Mkdir("d", 0755);
  CutOff();
  a().Chmod("d", 0700);  // comes to nothing
  a().Write("f", 0, "from a");
  a().Create("new", 0644);
  b().Chmod("d", 0711);
  b().Write("f", 0, "from b");
  ASSERT_TRUE(world_.Push(b()).ok());
  ASSERT_TRUE(a().replica().CutAll().ok());
  ASSERT_EQ(a().replica().pending_records(), 3u);
  // At every step it is what lies in the local journal.
  const auto check = [&] {
    EXPECT_EQ(a().replica().pending_records(),
              a().replica().db().ReadLocal(0, 100, 1 << 20).size());
  };
  a().before_commit() = check;
  ASSERT_TRUE(world_.Feed(a()).ok());
  a().before_commit() = nullptr;
  check();
  Reconnect();
}

// The journal never gets the numbers of records that came to nothing.
TEST_F(ReconcileTest, SettledThoughNothingIsSent) {
  a().Mkdir("d", 0755);
  CutOff();
  a().Chmod("d", 0700);
  b().Chmod("d", 0711);
  Reconnect();
  EXPECT_LT(a().replica().confirmed_origin_seq(), a().replica().last_origin_seq());
  EXPECT_EQ(a().replica().settled_origin_seq(), a().replica().last_origin_seq());
  a().Reopen();
  EXPECT_EQ(a().replica().settled_origin_seq(), a().replica().last_origin_seq());
  File(a(), "d/f", "goes on");
  Reconnect();
  EXPECT_EQ(Read("d/f"), "goes on");
}

// ---- the journal does not reach back to the cursor ----------------------------------------------

TEST_F(ReconcileTest, AStateInPlaceOfTheEntriesMissed) {
  File(a(), "f", "old");
  File(a(), "gone", "old");
  CutOff();
  File(a(), "mine", "made alone");
  a().Write("f", 0, "from a");
  b().Write("f", 0, "from b");
  b().Unlink("gone");
  b().Mkdir("d", 0755);
  File(b(), "d/new", "new");
  ASSERT_TRUE(world_.Push(b()).ok());
  const absl::Status status = world_.ReplaceHistory();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(a().replica().cursor(), b().replica().cursor());
  Reconnect();
  EXPECT_THAT(Names(), UnorderedElementsAre("d", "f", "f.conflict-node3-N", "mine"));
  EXPECT_EQ(Read("mine"), "made alone");
  EXPECT_EQ(Read(Copy("", "f")), "from a");
}

// Its answer was lost, and the entries that would have told of it are trimmed.
TEST_F(ReconcileTest, WhatTheJournalHasIsNotReplayed) {
  File(a(), "f", "old");
  File(a(), "h", "old");
  CutOff();
  File(a(), "sent", "sent");   // two records
  a().Rename("h", "renamed");  // the third
  ASSERT_TRUE(a().replica().CutAll().ok());
  a().Write("sent", 0, "again");  // not sent
  a().Write("renamed", 0, "mine");
  ASSERT_TRUE(a().replica().CutAll().ok());
  ASSERT_EQ(a().replica().pending_records(), 5u);
  ASSERT_TRUE(world_.Send(a(), 3).ok());
  ASSERT_TRUE(world_.Feed(b()).ok());
  EXPECT_EQ(Read("sent"), "sent");
  b().Write("f", 0, "from b");
  b().Write("renamed", 0, "theirs");
  ASSERT_TRUE(world_.Push(b()).ok());
  const absl::Status status = world_.ReplaceHistory();
  ASSERT_TRUE(status.ok()) << status;
  Reconnect();
  EXPECT_THAT(Names(), UnorderedElementsAre("f", "sent", "renamed", "renamed.conflict-node3-N"));
  EXPECT_THAT(world_.conflicts(), ElementsAre("update/update"));
  EXPECT_EQ(Read("sent"), "again");
  EXPECT_EQ(Read(Copy("", "renamed")), "mine");
  // And it goes on from there.
  File(a(), "next", "next");
  Reconnect();
}

TEST_F(ReconcileTest, WhatReachesTheJournalWhileTheStateIsFetched) {
  File(a(), "f", "old");
  CutOff();
  File(a(), "late", "late");
  b().Write("f", 0, "from b");
  ASSERT_TRUE(world_.Push(b()).ok());
  ASSERT_TRUE(a().replica().CutAll().ok());
  int tables = 0;
  world_.after_table() = [&] {
    if (++tables > 1) return;
    ASSERT_TRUE(world_.Send(a(), 1).ok());
    ASSERT_TRUE(world_.Feed(b()).ok());
  };
  const absl::Status status = world_.ReplaceHistory();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(tables, 2);
  Reconnect();
  EXPECT_THAT(Names(), UnorderedElementsAre("f", "late"));
  EXPECT_EQ(Read("late"), "late");
  EXPECT_THAT(world_.conflicts(), IsEmpty());
}

// A node that never wrote has no record to mark its queue with; a restart goes on all the same.
TEST_F(ReconcileTest, AReaderThatDiesWhileItGetsTheState) {
  File(b(), "f", "content");
  CutOff();
  ASSERT_EQ(a().replica().last_origin_seq(), 0u);
  b().Write("f", 0, "changed");
  File(b(), "g", "new");
  ASSERT_TRUE(world_.Push(b()).ok());
  int commits = 0;
  a().before_commit() = [&] {
    if (++commits == 3) a().commit_failure() = absl::UnavailableError("crashed");
  };
  EXPECT_FALSE(world_.ReplaceHistory().ok());
  a().before_commit() = nullptr;
  a().commit_failure() = absl::OkStatus();
  a().Reopen();
  EXPECT_NE(a().replica().replay_through(), 0u);
  ASSERT_TRUE(world_.Resume().ok());
  EXPECT_EQ(a().replica().cursor(), b().replica().cursor());
  File(a(), "mine", "first record");
  Reconnect();
  EXPECT_THAT(Names(), UnorderedElementsAre("f", "g", "mine"));
}

TEST_F(ReconcileTest, AnOldImageIsNoticed) {
  CutOff();
  File(a(), "f", "sent");
  ASSERT_TRUE(a().replica().CutAll().ok());
  ASSERT_TRUE(world_.Send(a(), 2).ok());
  TestNode restored(3);  // as it was before, and something else made since
  File(restored, "other", "kept");
  ASSERT_EQ(restored.Chmod("other", 0600), 0);
  const absl::Status status =
      world_.resolver().Resolve(Seq(1), absl::OutOfRangeError("trimmed"), restored.replica());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_NE(std::string(status.message()).find("old image"), std::string::npos) << status;
  EXPECT_EQ(restored.replica().pending_records(), 3u);
  EXPECT_TRUE(std::filesystem::exists(restored.Path("other")));
}

// ---- around the reconciliation -----------------------------------------------------------------

TEST_F(ReconcileTest, TwiceTheSameFile) {
  File(a(), "f", "old");
  for (const char* text : {"one", "two"}) {
    CutOff();
    a().Write("f", 0, absl::StrCat("a ", text));
    b().Write("f", 0, absl::StrCat("b ", text));
    Reconnect();
  }
  std::vector<std::string> contents;
  for (const auto& entry : std::filesystem::directory_iterator(b().lower_path())) {
    contents.push_back(Read(entry.path().filename()));
  }
  EXPECT_THAT(contents, UnorderedElementsAre("b two", "a one", "a two"));
}

TEST_F(ReconcileTest, NoLiveReplicaForAWhile) {
  File(a(), "f", "old");
  CutOff();
  a().Write("f", 0, "from a");
  b().Write("f", 0, "from b");
  world_.failures() = 3;
  Reconnect();
  EXPECT_EQ(world_.failures(), 0);
  EXPECT_EQ(Read(Copy("", "f")), "from a");
  EXPECT_TRUE(a().replica().gate().is_open());
}

}  // namespace
}  // namespace intermezzo::sidecar
