// What ListDigests is made of: byte order of whole paths, and everything that replicas compare.
#include "services/sidecar/node_service/digest_walk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <map>
#include <vector>

#include "services/common/record/codec.h"
#include "tests/support/test_node.h"

namespace intermezzo::sidecar {
namespace {

std::vector<node::v1::Digest> Walk(Replica& replica) {
  std::vector<node::v1::Digest> digests;
  const absl::Status status = WalkDigests(replica, [&](node::v1::Digest digest) {
    digests.push_back(std::move(digest));
    return true;
  });
  EXPECT_TRUE(status.ok()) << status;
  return digests;
}

TEST(DigestWalkTest, ByteOrderOfThePath) {
  tests::TestNode node(1);
  // '-' and '.' sort before '/', digits and letters after it.
  for (const char* dir : {"a", "a-b", "a.b", "a0", "ab"}) {
    ASSERT_EQ(node.Mkdir(dir, 0755), 0);
    ASSERT_EQ(node.Create(std::string(dir) + "/x", 0644), 0);
  }
  ASSERT_EQ(node.Create("a\xff", 0644), 0);
  std::vector<std::string> paths;
  for (const auto& digest : Walk(node.replica())) paths.push_back(digest.path());
  EXPECT_EQ(paths.size(), 12u);
  EXPECT_EQ(paths.front(), "");
  std::vector<std::string> sorted = paths;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(paths, sorted);
}

TEST(DigestWalkTest, SaysWhatAnObjectIs) {
  tests::TestNode node(1);
  ASSERT_EQ(node.Create("file", 0640), 0);
  ASSERT_EQ(node.Write("file", 0, "content"), 0);
  ASSERT_EQ(node.Setxattr("file", "user.b", "2"), 0);
  ASSERT_EQ(node.Setxattr("file", "user.a", "1"), 0);
  ASSERT_EQ(node.Symlink("over/there", "link"), 0);
  ASSERT_EQ(node.Mknod("device", S_IFCHR | 0600, makedev(1, 3)), 0);
  std::map<std::string, node::v1::Digest> digests;
  for (auto& digest : Walk(node.replica())) digests[digest.path()] = digest;
  const auto& file = digests["file"];
  EXPECT_EQ(file.kind(), record::v1::OBJECT_KIND_FILE);
  EXPECT_EQ(file.size(), 7u);
  EXPECT_EQ(file.content_xxh3(), Xxh3("content"));
  EXPECT_EQ(file.attributes().mode(), 0640u);
  EXPECT_EQ(file.object(), node.IdOf("file").value());
  ASSERT_EQ(file.xattrs_size(), 2);
  EXPECT_EQ(file.xattrs(0).name(), "user.a");
  EXPECT_EQ(digests["link"].symlink_target(), "over/there");
  EXPECT_EQ(digests["device"].rdev(), EncodeDevice(makedev(1, 3)));
  EXPECT_EQ(digests[""].object(), kRootObject.value());
}

TEST(DigestWalkTest, HolesCount) {
  tests::TestNode node(1);
  ASSERT_EQ(node.Create("dense", 0644), 0);
  ASSERT_EQ(node.Write("dense", 0, std::string(1 << 20, '\0')), 0);
  ASSERT_EQ(node.Create("sparse", 0644), 0);
  ASSERT_EQ(node.Truncate("sparse", 1 << 20), 0);
  std::map<std::string, node::v1::Digest> digests;
  for (auto& digest : Walk(node.replica())) digests[digest.path()] = digest;
  EXPECT_EQ(digests["dense"].content_xxh3(), digests["sparse"].content_xxh3());
  EXPECT_NE(digests["dense"].holes_xxh3(), digests["sparse"].holes_xxh3());
}

TEST(DigestWalkTest, NamesOfOneObjectShareItsFirstPath) {
  tests::TestNode node(1);
  ASSERT_EQ(node.Mkdir("b", 0755), 0);
  ASSERT_EQ(node.Mkdir("a", 0755), 0);
  ASSERT_EQ(node.Create("b/one", 0644), 0);
  ASSERT_EQ(node.Link("b/one", "a/two"), 0);
  ASSERT_EQ(node.Create("alone", 0644), 0);
  for (const auto& digest : Walk(node.replica())) {
    const bool linked = digest.path() == "b/one" || digest.path() == "a/two";
    EXPECT_EQ(digest.link_group(), linked ? "a/two" : "") << digest.path();
  }
}

TEST(DigestWalkTest, EndsWhereTheCallerIsGone) {
  tests::TestNode node(1);
  ASSERT_EQ(node.Create("a", 0644), 0);
  int calls = 0;
  const absl::Status status = WalkDigests(node.replica(), [&](node::v1::Digest) {
    ++calls;
    return false;
  });
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace intermezzo::sidecar
