// Names that cannot be invalid, and stamps.
#include "services/common/types/names.h"

#include <gtest/gtest.h>

#include "services/common/types/numbers.h"

namespace intermezzo {
namespace {

using std::string_literals::operator""s;

TEST(NamesTest, CollectionsAndNodesAreDnsLabels) {
  for (const std::string& good : {"a"s, "www"s, "web-1"s, "0"s, std::string(63, 'a')}) {
    EXPECT_TRUE(CollectionName::Parse(good).ok()) << good;
    EXPECT_TRUE(NodeName::Parse(good).ok()) << good;
  }
  for (const std::string& bad : {""s, "-a"s, "a-"s, "-"s, "Www"s, "a.b"s, "a/b"s, "a b"s, "a\0b"s,
                                 "ä"s, std::string(64, 'a')}) {
    EXPECT_EQ(CollectionName::Parse(bad).status().code(), absl::StatusCode::kInvalidArgument)
        << bad;
    EXPECT_EQ(NodeName::Parse(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(NamesTest, EntriesAreWhatADirectoryHolds) {
  for (const std::string& good :
       {"a"s, "..."s, ".a"s, "a b"s, "\xff\x01\n"s, "-"s, "\\"s, std::string(255, '\xfe')}) {
    const auto name = EntryName::Parse(good);
    ASSERT_TRUE(name.ok()) << name.status();
    EXPECT_EQ(name->str(), good);
  }
  for (const std::string& bad : {""s, "."s, ".."s, "a/b"s, "/"s, "a\0"s, std::string(256, 'a')}) {
    EXPECT_EQ(EntryName::Parse(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(NamesTest, MessageShowsTheNameEscaped) {
  EXPECT_NE(EntryName::Parse("a/\n").status().message().find("\"a/\\n\""), std::string::npos);
}

TEST(NumbersTest, StampHoldsOrdinalAndCounter) {
  const ObjectId id(Ordinal(12), 345);
  EXPECT_EQ(id.value(), (uint64_t{12} << 40) | 345);
  EXPECT_EQ(id.ordinal(), Ordinal(12));
  EXPECT_EQ(id.counter(), 345u);
  const Version last(Ordinal(kMaxOrdinal), kMaxCounter);
  EXPECT_EQ(last.value(), ~uint64_t{0});
  EXPECT_EQ(last.ordinal().value(), kMaxOrdinal);
  EXPECT_EQ(last.counter(), kMaxCounter);
  EXPECT_EQ(kRootObject.ordinal(), Ordinal());
}

}  // namespace
}  // namespace intermezzo
