// The comparison behind `mezzo verify` finds every kind of difference, and only on replicas that
// stood still.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "services/mezzo/digest_compare.h"

namespace intermezzo::mezzo {
namespace {

using node::v1::Digest;
using node::v1::ListDigestsResponse;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// A replica's answer, message by message.
class FakeStream : public DigestStream {
 public:
  explicit FakeStream(std::vector<ListDigestsResponse> messages,
                      absl::Status end = absl::OkStatus())
      : messages_(std::move(messages)), end_(std::move(end)) {}
  bool Next(ListDigestsResponse& response) override {
    if (at_ == messages_.size()) return false;
    response = messages_[at_++];
    return true;
  }
  absl::Status status() override { return end_; }

 private:
  const std::vector<ListDigestsResponse> messages_;
  const absl::Status end_;
  size_t at_ = 0;
};

ListDigestsResponse Cursor(uint64_t seq, bool pending = false) {
  ListDigestsResponse message;
  message.set_cursor(seq);
  message.set_pending(pending);
  return message;
}

Digest File(const std::string& path) {
  Digest digest;
  digest.set_path(path);
  digest.set_kind(record::v1::OBJECT_KIND_FILE);
  digest.mutable_attributes()->set_mode(0644);
  digest.mutable_attributes()->mutable_mtime()->set_seconds(1700000000);
  digest.set_size(3);
  digest.set_content_xxh3("0123456789abcdef");
  digest.set_holes_xxh3("holes");
  digest.set_object(7);
  return digest;
}

ListDigestsResponse Digests(const std::vector<Digest>& digests) {
  ListDigestsResponse message;
  for (const Digest& digest : digests) *message.add_digests() = digest;
  return message;
}

std::vector<ListDigestsResponse> Still(const std::vector<Digest>& digests, uint64_t seq = 5) {
  return {Cursor(seq), Digests(digests), Cursor(seq)};
}

absl::StatusOr<Comparison> Compare(FakeStream a, FakeStream b, size_t max_differences = 50) {
  return CompareReplicas({{"node-1", &a}, {"node-2", &b}}, max_differences, nullptr);
}

TEST(DigestCompareTest, SameReplicasHaveNoDifferences) {
  const std::vector<Digest> tree = {File(""), File("a"), File("b")};
  // The same digests, cut into messages differently.
  const auto result =
      Compare(FakeStream(Still(tree)),
              FakeStream({Cursor(5), Digests({tree[0]}), Digests({tree[1], tree[2]}), Cursor(5)}));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->differences, IsEmpty());
  EXPECT_EQ(result->unsteady, "");
  EXPECT_EQ(result->objects, 3u);
  EXPECT_EQ(result->bytes, 9u);
  EXPECT_EQ(result->seq, 5u);
}

TEST(DigestCompareTest, APathThatOneReplicaLacksIsNamed) {
  const auto result = Compare(FakeStream(Still({File("a"), File("b"), File("c")})),
                              FakeStream(Still({File("a"), File("c"), File("d")})));
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_THAT(result->differences, SizeIs(2));
  EXPECT_EQ(result->differences[0].path, "b");
  EXPECT_EQ(result->differences[0].values.at("node-1"), "file");
  EXPECT_EQ(result->differences[0].values.at("node-2"), "absent");
  EXPECT_EQ(result->differences[1].path, "d");
  EXPECT_EQ(result->differences[1].values.at("node-1"), "absent");
}

struct FieldCase {
  const char* field;
  std::function<void(Digest&)> change;
};

class DigestFieldTest : public testing::TestWithParam<FieldCase> {};

TEST_P(DigestFieldTest, ADifferenceInThisFieldAloneIsFound) {
  Digest changed = File("a");
  GetParam().change(changed);
  const auto result =
      Compare(FakeStream(Still({File("a")})), FakeStream(Still({std::move(changed)})));
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_THAT(result->differences, SizeIs(1));
  EXPECT_EQ(result->differences[0].field, GetParam().field);
  EXPECT_NE(result->differences[0].values.at("node-1"), result->differences[0].values.at("node-2"));
}

INSTANTIATE_TEST_SUITE_P(
    AllFields, DigestFieldTest,
    testing::Values(
        FieldCase{"presence", [](Digest& d) { d.set_kind(record::v1::OBJECT_KIND_FIFO); }},
        FieldCase{"object", [](Digest& d) { d.set_object(8); }},
        FieldCase{"size", [](Digest& d) { d.set_size(4); }},
        FieldCase{"content", [](Digest& d) { d.set_content_xxh3("x"); }},
        FieldCase{"holes", [](Digest& d) { d.set_holes_xxh3("x"); }},
        FieldCase{"target", [](Digest& d) { d.set_symlink_target("x"); }},
        FieldCase{"device", [](Digest& d) { d.set_rdev(0x103); }},
        FieldCase{"mode", [](Digest& d) { d.mutable_attributes()->set_mode(04644); }},
        FieldCase{"owner", [](Digest& d) { d.mutable_attributes()->set_uid(33); }},
        FieldCase{"group", [](Digest& d) { d.mutable_attributes()->set_gid(33); }},
        FieldCase{"mtime",
                  [](Digest& d) { d.mutable_attributes()->mutable_mtime()->set_nanos(1); }},
        FieldCase{"link group", [](Digest& d) { d.set_link_group("a"); }},
        FieldCase{"xattr user.x",
                  [](Digest& d) {
                    auto* xattr = d.add_xattrs();
                    xattr->set_name("user.x");
                    xattr->set_value(std::string("\0", 1));
                  }},
        FieldCase{"ACL system.posix_acl_access", [](Digest& d) {
                    auto* xattr = d.add_xattrs();
                    xattr->set_name("system.posix_acl_access");
                    xattr->set_value("acl");
                  }}));

TEST(DigestCompareTest, OnlyTheFirstDifferencesAreKeptAndAllAreCounted) {
  std::vector<Digest> tree;
  for (char c = 'a'; c <= 'z'; ++c) tree.push_back(File(std::string(1, c)));
  const auto result = Compare(FakeStream(Still(tree)), FakeStream(Still({})), 3);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->differences, SizeIs(3));
  EXPECT_EQ(result->difference_count, 26u);
}

TEST(DigestCompareTest, ReplicasAtDifferentSeqsAreNotCompared) {
  const auto result = Compare(FakeStream(Still({File("a")}, 5)), FakeStream(Still({File("b")}, 6)));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->unsteady, HasSubstr("node-2 at 6"));
  EXPECT_EQ(result->objects, 0u);
}

TEST(DigestCompareTest, AReplicaThatMovedMeanwhileIsNamed) {
  const auto result = Compare(FakeStream(Still({File("a")})),
                              FakeStream({Cursor(5), Digests({File("a")}), Cursor(6)}));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->unsteady, "node-2 moved from seq 5 to 6");
}

TEST(DigestCompareTest, UnsentUpdatesAtEitherEndMakeAReplicaUnsteady) {
  for (const bool at_the_end : {false, true}) {
    const auto result =
        Compare(FakeStream({Cursor(5, !at_the_end), Digests({File("a")}), Cursor(5, at_the_end)}),
                FakeStream(Still({File("a")})));
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_THAT(result->unsteady, HasSubstr("node-1 has updates"));
  }
}

TEST(DigestCompareTest, AStreamThatBreaksIsAnErrorAndNotADifference) {
  const auto result = Compare(
      FakeStream(Still({File("a"), File("b")})),
      FakeStream({Cursor(5), Digests({File("a")})}, absl::UnavailableError("sidecar went away")));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
}

TEST(DigestCompareTest, AStreamWithoutItsClosingCursorIsAnError) {
  const auto result =
      Compare(FakeStream(Still({File("a")})), FakeStream({Cursor(5), Digests({File("a")})}));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
}

TEST(DigestCompareTest, PathsOutOfOrderAreAnError) {
  const auto result =
      Compare(FakeStream(Still({File("a"), File("b")})), FakeStream(Still({File("b"), File("a")})));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("node-2 sent 'a' after 'b'"));
}

}  // namespace
}  // namespace intermezzo::mezzo
