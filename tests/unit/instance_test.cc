// Who a node is, over restarts.
#include "services/sidecar/session/instance.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/support/temp_dir.h"

namespace intermezzo::sidecar {
namespace {

TEST(InstanceTest, IsMadeOnceAndStays) {
  tests::TempDir dir;
  const auto made = LoadOrMakeInstance(dir.path());
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->size(), 36u);
  EXPECT_EQ(*LoadOrMakeInstance(dir.path()), *made);
}

TEST(InstanceTest, AnotherDirectoryIsAnotherIncarnation) {
  tests::TempDir a, b;
  EXPECT_NE(*LoadOrMakeInstance(a.path()), *LoadOrMakeInstance(b.path()));
}

TEST(InstanceTest, GarbageIsRefusedNotReplaced) {
  tests::TempDir dir;
  std::ofstream(dir.path() + "/instance") << "not a uuid\n";
  EXPECT_TRUE(absl::IsDataLoss(LoadOrMakeInstance(dir.path()).status()));
  EXPECT_TRUE(absl::IsDataLoss(LoadOrMakeInstance(dir.path()).status()));
}

TEST(AssignmentTest, ComesBackAsItWasSaved) {
  tests::TempDir dir;
  EXPECT_EQ(LoadAssignment(dir.path())->replicas_size(), 0);
  storage::v1::Assignment assignment;
  assignment.set_ordinal(7);
  auto& replica = *assignment.add_replicas();
  replica.set_collection("www");
  replica.set_collection_uid(1ULL << 60);
  replica.set_lower_dir("/srv/www");
  replica.set_deny_offline_writes(true);
  ASSERT_TRUE(SaveAssignment(dir.path(), assignment).ok());
  const auto loaded = LoadAssignment(dir.path());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->SerializeAsString(), assignment.SerializeAsString());
}

TEST(AssignmentTest, GarbageIsRefused) {
  tests::TempDir dir;
  std::ofstream(dir.path() + "/assignment") << "{";
  EXPECT_TRUE(absl::IsDataLoss(LoadAssignment(dir.path()).status()));
}

TEST(MakeDirectoriesTest, MakesAllWithTheMode) {
  tests::TempDir dir;
  const std::string path = dir.path() + "/a/b/c";
  ASSERT_TRUE(MakeDirectories(path, 0755).ok());
  ASSERT_TRUE(MakeDirectories(path, 0755).ok());
  struct stat st;
  ASSERT_EQ(stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0755u);
  std::ofstream(dir.path() + "/file") << "x";
  EXPECT_FALSE(MakeDirectories(dir.path() + "/file/below", 0755).ok());
  EXPECT_FALSE(MakeDirectories(dir.path() + "/file", 0755).ok());
}

}  // namespace
}  // namespace intermezzo::sidecar
