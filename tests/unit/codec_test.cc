// Records and payloads as bytes: round trips, digests, touches.
#include "services/common/record/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "absl/strings/escaping.h"

namespace intermezzo {
namespace {

using record::v1::Entry;
using record::v1::Record;
using record::v1::Touch;
using ::testing::ElementsAre;

constexpr uint64_t kFile = (uint64_t{12} << kCounterBits) | 345;
constexpr uint64_t kOther = (uint64_t{12} << kCounterBits) | 346;
constexpr uint64_t kDirectory = (uint64_t{2} << kCounterBits) | 7;

std::string RandomBytes(size_t size) {
  std::mt19937_64 random(size);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

// A good record that writes `length` bytes at 8192 of kFile.
Record WriteRecord(uint64_t length) {
  Record record;
  record.set_version(Version(Ordinal(12), 9).value());
  record.set_epoch(3);
  record::v1::WriteOp& op = *record.mutable_write();
  op.set_object(kFile);
  op.add_extents()->set_offset(8192);
  op.mutable_extents(0)->set_length(length);
  op.set_size(8192 + length);
  op.mutable_mtime()->set_seconds(-5);
  for (Touch& touch : RequiredTouches(record)) *record.add_touches() = std::move(touch);
  record.mutable_touches(0)->set_against(Version(Ordinal(11), 4).value());
  return record;
}

TEST(CodecTest, PayloadComesBackWhateverItsSize) {
  for (size_t size : {size_t{1}, size_t{127}, size_t{128}, size_t{4096}, kMaxPayloadBytes}) {
    for (const std::string& payload : {std::string(size, 'a'), RandomBytes(size)}) {
      const Entry entry = SealEntry(WriteRecord(size), payload);
      EXPECT_EQ(entry.seq(), 0u);
      EXPECT_EQ(entry.payload_length(), entry.payload().size());
      const absl::StatusOr<Record> record = OpenRecord(entry);
      ASSERT_TRUE(record.ok()) << record.status();
      EXPECT_EQ(record->payload().length(), size);
      const absl::StatusOr<std::string> opened = OpenPayload(entry, *record);
      ASSERT_TRUE(opened.ok()) << opened.status();
      EXPECT_TRUE(*opened == payload);
    }
  }
}

TEST(CodecTest, CompressesOnlyWhereItPays) {
  const Entry zeros = SealEntry(WriteRecord(65536), std::string(65536, '\0'));
  EXPECT_EQ(zeros.codec(), record::v1::PAYLOAD_CODEC_ZSTD);
  EXPECT_LT(zeros.payload().size(), 200u);
  const Entry noise = SealEntry(WriteRecord(65536), RandomBytes(65536));
  EXPECT_EQ(noise.codec(), record::v1::PAYLOAD_CODEC_UNSPECIFIED);
  EXPECT_EQ(noise.payload().size(), 65536u);
  // Half noise: 65536 bytes come to about 60 000, less than an eighth saved.
  const Entry nearly = SealEntry(WriteRecord(65536), RandomBytes(60000) + std::string(5536, 'a'));
  EXPECT_EQ(nearly.codec(), record::v1::PAYLOAD_CODEC_UNSPECIFIED);
}

TEST(CodecTest, SealingTwiceGivesTheSameBytes) {
  const Entry a = SealEntry(WriteRecord(4), "abcd");
  const Entry b = SealEntry(WriteRecord(4), "abcd");
  EXPECT_EQ(a.SerializeAsString(), b.SerializeAsString());
}

TEST(CodecTest, EmptyPayloadLeavesNoDigest) {
  Record record = WriteRecord(4);
  record.mutable_payload()->set_length(77);  // stale
  const Entry entry = SealEntry(record, "");
  Record parsed;
  ASSERT_TRUE(parsed.ParseFromString(entry.record()));
  EXPECT_FALSE(parsed.has_payload());
  EXPECT_EQ(entry.payload_length(), 0u);
}

TEST(CodecTest, DamagedPayloadIsDataLoss) {
  const std::string text(4096, 'a');
  Record record = *OpenRecord(SealEntry(WriteRecord(4096), text));
  for (const bool compressed : {true, false}) {
    const std::string payload = compressed ? text : RandomBytes(4096);
    const Entry good = SealEntry(WriteRecord(4096), payload);
    record = *OpenRecord(good);
    for (size_t at = 0; at < good.payload().size(); at += compressed ? 1 : 97) {
      Entry bad = good;
      (*bad.mutable_payload())[at] ^= 0x10;
      const absl::StatusOr<std::string> opened = OpenPayload(bad, record);
      // A bit of a zstd frame may mean nothing; then the bytes are right all the same.
      if (opened.ok()) {
        EXPECT_TRUE(compressed);
        EXPECT_TRUE(*opened == payload);
      } else {
        EXPECT_EQ(opened.status().code(), absl::StatusCode::kDataLoss);
      }
    }
    for (size_t size : {size_t{0}, size_t{1}, good.payload().size() - 1}) {
      Entry bad = good;
      bad.mutable_payload()->resize(size);
      EXPECT_EQ(OpenPayload(bad, record).status().code(), absl::StatusCode::kDataLoss);
    }
    Entry longer = good;
    longer.mutable_payload()->append("x");
    EXPECT_EQ(OpenPayload(longer, record).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(CodecTest, LyingLengthIsDataLossWithoutAllocating) {
  Entry entry = SealEntry(WriteRecord(65536), std::string(65536, 'a'));
  Record record = *OpenRecord(entry);
  for (uint64_t length :
       {uint64_t{0}, uint64_t{1}, uint64_t{65535}, uint64_t{65537}, uint64_t{kMaxPayloadBytes},
        uint64_t{kMaxPayloadBytes} + 1, ~uint64_t{0}}) {
    record.mutable_payload()->set_length(length);
    EXPECT_EQ(OpenPayload(entry, record).status().code(), absl::StatusCode::kDataLoss) << length;
  }
}

TEST(CodecTest, UnknownCodecAndUnexpectedPayload) {
  Entry entry = SealEntry(WriteRecord(4), "abcd");
  Record record = *OpenRecord(entry);
  entry.set_codec(static_cast<record::v1::PayloadCodec>(9));
  EXPECT_EQ(OpenPayload(entry, record).status().code(), absl::StatusCode::kDataLoss);
  entry.set_codec(record::v1::PAYLOAD_CODEC_UNSPECIFIED);
  record.clear_payload();
  EXPECT_EQ(OpenPayload(entry, record).status().code(), absl::StatusCode::kDataLoss);
  entry.clear_payload();
  EXPECT_EQ(*OpenPayload(entry, record), "");
}

// Values of the published algorithm: they must never change, records on disk hold them.
TEST(CodecTest, HashesAreThePublishedOnes) {
  EXPECT_EQ(absl::BytesToHexString(Xxh3("")), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(Xxh3("abc").size(), 16u);
  EXPECT_NE(Xxh3("abc"), Xxh3("abd"));
}

TEST(CodecTest, ChainIsTheHashOfItsParts) {
  const std::string seq_bytes("\x01\x02\x03\x04\x05\x06\x07\x08", 8);
  EXPECT_EQ(ChainHash("0123456789abcdef", Seq(0x0102030405060708), "record"),
            Xxh3("0123456789abcdef" + seq_bytes + "record"));
  EXPECT_EQ(ChainHash("", Seq(1), ""), Xxh3(std::string("\0\0\0\0\0\0\0\x01", 8)));
  EXPECT_NE(ChainHash("", Seq(1), "a"), ChainHash("", Seq(2), "a"));
}

// "object/aspect" or "object/name".
std::vector<std::string> TouchList(const Record& record) {
  std::vector<std::string> list;
  for (const Touch& touch : RequiredTouches(record)) {
    EXPECT_EQ(touch.against(), 0u);
    const std::string object = touch.object() == kFile        ? "file"
                               : touch.object() == kOther     ? "other"
                               : touch.object() == kDirectory ? "directory"
                                                              : "root";
    list.push_back(object + (touch.aspect() == record::v1::ASPECT_ENTRY  ? "/" + touch.name()
                             : touch.aspect() == record::v1::ASPECT_DATA ? " data"
                                                                         : " attributes"));
  }
  return list;
}

TEST(RequiredTouchesTest, TableOfTheReadme) {
  Record record;
  record.mutable_create()->set_parent(kDirectory);
  record.mutable_create()->set_name("n");
  record.mutable_create()->set_object(kFile);
  EXPECT_THAT(TouchList(record), ElementsAre("directory/n", "file data", "file attributes"));

  record.mutable_link()->set_parent(kDirectory);
  record.mutable_link()->set_name("n");
  record.mutable_link()->set_object(kFile);
  EXPECT_THAT(TouchList(record), ElementsAre("directory/n", "file attributes"));

  record.mutable_remove()->set_parent(kDirectory);
  record.mutable_remove()->set_name("n");
  record.mutable_remove()->set_object(kFile);
  EXPECT_THAT(TouchList(record), ElementsAre("directory/n"));
  record.mutable_remove()->set_last(true);
  EXPECT_THAT(TouchList(record), ElementsAre("directory/n", "file data", "file attributes"));

  record::v1::RenameOp& rename = *record.mutable_rename();
  rename.set_object(kFile);
  rename.set_from_parent(kRootObject.value());
  rename.set_from_name("a");
  rename.set_to_parent(kDirectory);
  rename.set_to_name("b");
  EXPECT_THAT(TouchList(record), ElementsAre("root/a", "directory/b"));
  rename.set_replaced(kOther);
  EXPECT_THAT(TouchList(record), ElementsAre("root/a", "directory/b"));
  rename.set_replaced_last(true);
  EXPECT_THAT(TouchList(record),
              ElementsAre("root/a", "directory/b", "other data", "other attributes"));
  rename.clear_replaced();
  rename.clear_replaced_last();
  rename.set_whiteout(kOther);
  EXPECT_THAT(TouchList(record),
              ElementsAre("root/a", "directory/b", "other data", "other attributes"));

  record.mutable_write()->set_object(kFile);
  EXPECT_THAT(TouchList(record), ElementsAre("file data"));
  record.mutable_truncate()->set_object(kFile);
  EXPECT_THAT(TouchList(record), ElementsAre("file data"));
  record.mutable_allocate()->set_object(kFile);
  EXPECT_THAT(TouchList(record), ElementsAre("file data"));
  record.mutable_set_attributes()->set_object(kFile);
  EXPECT_THAT(TouchList(record), ElementsAre("file attributes"));
  record.mutable_set_xattr()->set_object(kFile);
  EXPECT_THAT(TouchList(record), ElementsAre("file attributes"));
  record.mutable_remove_xattr()->set_object(kFile);
  EXPECT_THAT(TouchList(record), ElementsAre("file attributes"));
  record.clear_op();
  EXPECT_THAT(TouchList(record), ElementsAre());
}

TEST(DescribeTest, SaysWhatHappened) {
  Record record = WriteRecord(4096);
  EXPECT_EQ(Describe(record), "write 4096 B at 8192 of 12:345");
  record.mutable_remove()->set_parent(1);
  record.mutable_remove()->set_name("a\n");
  record.mutable_remove()->set_object(kFile);
  record.mutable_remove()->set_last(true);
  EXPECT_EQ(Describe(record), "unlink \"a\\n\" in root (12:345, last name)");
  record.clear_op();
  EXPECT_EQ(Describe(record), "record without an op");
}

}  // namespace
}  // namespace intermezzo
