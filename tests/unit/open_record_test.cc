// OpenRecord: a good record of each op passes, and each single thing that can be wrong is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "services/common/record/codec.h"

namespace intermezzo {
namespace {

using record::v1::Entry;
using record::v1::Record;
using record::v1::Touch;
using std::string_literals::operator""s;
using ::testing::HasSubstr;

constexpr uint64_t Id(uint64_t counter) { return (uint64_t{12} << kCounterBits) | counter; }
constexpr uint64_t kMaxOffset = (uint64_t{1} << 63) - 1;

void FillTouches(Record& record) {
  record.clear_touches();
  for (Touch& touch : RequiredTouches(record)) *record.add_touches() = std::move(touch);
}

Record Base() {
  Record record;
  record.set_version(Version(Ordinal(12), 9).value());
  record.mutable_time()->set_nanos(999'999'999);
  return record;
}

Record Create() {
  Record record = Base();
  record::v1::CreateOp& op = *record.mutable_create();
  op.set_parent(kRootObject.value());
  op.set_name("\xff name");
  op.set_object(Id(1));
  op.set_kind(record::v1::OBJECT_KIND_FILE);
  op.mutable_attributes()->set_mode(07777);
  op.mutable_attributes()->mutable_mtime()->set_seconds(-1);
  op.mutable_parent_mtime();
  op.add_xattrs()->set_name("user.a");
  FillTouches(record);
  return record;
}

Record CreateSymlink() {
  Record record = Create();
  record.mutable_create()->set_kind(record::v1::OBJECT_KIND_SYMLINK);
  record.mutable_create()->set_symlink_target(std::string(4095, '/'));
  return record;
}

Record CreateDevice() {
  Record record = Create();
  record.mutable_create()->set_kind(record::v1::OBJECT_KIND_BLOCK_DEVICE);
  record.mutable_create()->set_rdev(0x801);
  return record;
}

Record Link() {
  Record record = Base();
  record.mutable_link()->set_object(Id(1));
  record.mutable_link()->set_parent(Id(2));
  record.mutable_link()->set_name("n");
  FillTouches(record);
  return record;
}

Record Remove() {
  Record record = Base();
  record.mutable_remove()->set_object(Id(1));
  record.mutable_remove()->set_parent(Id(2));
  record.mutable_remove()->set_name("n");
  record.mutable_remove()->set_directory(true);
  record.mutable_remove()->set_last(true);
  FillTouches(record);
  return record;
}

Record Rename() {
  Record record = Base();
  record::v1::RenameOp& op = *record.mutable_rename();
  op.set_object(Id(1));
  op.set_from_parent(Id(2));
  op.set_from_name("a");
  op.set_to_parent(Id(2));
  op.set_to_name("b");
  op.set_replaced(Id(3));
  op.set_replaced_last(true);
  op.set_whiteout(Id(4));
  FillTouches(record);
  return record;
}

Record Exchange() {
  Record record = Rename();
  record.mutable_rename()->clear_whiteout();
  record.mutable_rename()->clear_replaced_last();
  record.mutable_rename()->set_exchange(true);
  FillTouches(record);
  return record;
}

// Ten bytes in two extents, the second ending at the last byte that a file can have.
Record Write() {
  Record record = Base();
  record::v1::WriteOp& op = *record.mutable_write();
  op.set_object(Id(1));
  op.add_extents()->set_length(4);
  op.add_extents()->set_offset(kMaxOffset - 6);
  op.mutable_extents(1)->set_length(6);
  op.set_size(kMaxOffset);
  op.mutable_mtime();
  FillTouches(record);
  return record;
}

Record Truncate() {
  Record record = Base();
  record.mutable_truncate()->set_object(Id(1));
  record.mutable_truncate()->set_size(kMaxOffset);
  FillTouches(record);
  return record;
}

Record Allocate() {
  Record record = Base();
  record.mutable_allocate()->set_object(Id(1));
  record.mutable_allocate()->set_mode(0x03);
  record.mutable_allocate()->mutable_extent()->set_length(1);
  FillTouches(record);
  return record;
}

Record SetAttributes() {
  Record record = Base();
  record.mutable_set_attributes()->set_object(kRootObject.value());
  record.mutable_set_attributes()->mutable_attributes();
  record.mutable_set_attributes()->mutable_atime();
  FillTouches(record);
  return record;
}

Record SetXattr() {
  Record record = Base();
  record.mutable_set_xattr()->set_object(Id(1));
  record.mutable_set_xattr()->mutable_xattr()->set_name(std::string(255, 'a'));
  record.mutable_set_xattr()->mutable_xattr()->set_value(std::string(65536, '\0'));
  record.mutable_set_xattr()->mutable_attributes();
  FillTouches(record);
  return record;
}

Record RemoveXattr() {
  Record record = Base();
  record.mutable_remove_xattr()->set_object(Id(1));
  record.mutable_remove_xattr()->set_name("user.a");
  record.mutable_remove_xattr()->mutable_attributes();
  FillTouches(record);
  return record;
}

Entry Seal(const Record& record) {
  return SealEntry(record, record.has_write() ? "0123456789" : "");
}

using Make = Record (*)();
constexpr Make kGood[] = {Create,        CreateSymlink, CreateDevice, Link,     Remove,
                          Rename,        Exchange,      Write,        Truncate, Allocate,
                          SetAttributes, SetXattr,      RemoveXattr};

TEST(OpenRecordTest, GoodRecordOfEachOp) {
  for (Make make : kGood) {
    const Entry entry = Seal(make());
    const absl::StatusOr<Record> record = OpenRecord(entry);
    ASSERT_TRUE(record.ok()) << Describe(make()) << ": " << record.status();
    EXPECT_EQ(record->SerializeAsString(), entry.record());
  }
}

struct Mistake {
  Make make;
  std::function<void(Record&)> break_it;
  const char* message;
};

TEST(OpenRecordTest, EachMistakeOfARecordIsRefused) {
  using R = Record&;
  const Mistake mistakes[] = {
      {Create, [](R r) { r.set_version(0); }, "version: 0 has no ordinal or no counter"},
      {Create, [](R r) { r.set_version(5); }, "version: 5 has no ordinal"},
      {Create, [](R r) { r.set_version(uint64_t{3} << kCounterBits); }, "no counter"},
      {Create, [](R r) { r.mutable_time()->set_nanos(1'000'000'000); }, "time.nanos"},
      {Create, [](R r) { r.clear_op(); }, "op: is not set"},
      {Create, [](R r) { r.mutable_create()->set_parent(0); }, "create.parent"},
      {Create, [](R r) { r.mutable_create()->set_parent(2); }, "create.parent"},
      {Create, [](R r) { r.mutable_create()->set_name(""); }, "create.name"},
      {Create, [](R r) { r.mutable_create()->set_name(".."); }, "create.name"},
      {Create, [](R r) { r.mutable_create()->set_name("../../etc/passwd"); }, "create.name"},
      {Create, [](R r) { r.mutable_create()->set_name("a\0b"s); }, "create.name"},
      {Create, [](R r) { r.mutable_create()->set_name(std::string(256, 'a')); }, "create.name"},
      {Create, [](R r) { r.mutable_create()->set_object(0); }, "create.object"},
      {Create, [](R r) { r.mutable_create()->set_object(1); }, "create.object"},
      {Create, [](R r) { r.mutable_create()->set_parent(Id(1)); }, "its own parent"},
      {Create, [](R r) { r.mutable_create()->clear_kind(); }, "create.kind"},
      {Create, [](R r) { r.mutable_create()->set_kind(static_cast<record::v1::ObjectKind>(8)); },
       "create.kind: 8"},
      {Create, [](R r) { r.mutable_create()->clear_attributes(); },
       "create.attributes: is not set"},
      {Create, [](R r) { r.mutable_create()->mutable_attributes()->set_mode(0100644); }, "mode"},
      {Create,
       [](R r) {
         r.mutable_create()->mutable_attributes()->mutable_mtime()->set_nanos(1'000'000'000);
       },
       "create.attributes"},
      {Create, [](R r) { r.mutable_create()->mutable_parent_mtime()->set_nanos(~0u); },
       "create.parent_mtime.nanos"},
      {Create, [](R r) { r.mutable_create()->set_rdev(1); }, "create.rdev"},
      {Create, [](R r) { r.mutable_create()->set_symlink_target("x"); }, "create.symlink_target"},
      {Create, [](R r) { *r.mutable_create()->add_xattrs() = r.create().xattrs(0); }, "twice"},
      {Create, [](R r) { r.mutable_create()->mutable_xattrs(0)->set_name(""); }, "create.xattrs"},
      {CreateSymlink, [](R r) { r.mutable_create()->clear_symlink_target(); }, "symlink_target"},
      {CreateSymlink, [](R r) { r.mutable_create()->mutable_symlink_target()->append("a"); },
       "symlink_target: has 4096"},
      {CreateSymlink, [](R r) { r.mutable_create()->set_symlink_target("a\0"s); }, "NUL"},
      {Link, [](R r) { r.mutable_link()->set_object(1); }, "link.object"},
      {Link, [](R r) { r.mutable_link()->set_parent(0); }, "link.parent"},
      {Link, [](R r) { r.mutable_link()->set_parent(Id(1)); }, "link.object"},
      {Link, [](R r) { r.mutable_link()->set_name("a/b"); }, "link.name"},
      {Link, [](R r) { r.mutable_link()->mutable_parent_mtime()->set_nanos(~0u); }, "parent_mtime"},
      {Remove, [](R r) { r.mutable_remove()->set_object(1); }, "remove.object"},
      {Remove, [](R r) { r.mutable_remove()->set_parent(0); }, "remove.parent"},
      {Remove, [](R r) { r.mutable_remove()->set_parent(Id(1)); }, "remove.object"},
      {Remove, [](R r) { r.mutable_remove()->set_name("."); }, "remove.name"},
      {Remove, [](R r) { r.mutable_remove()->set_last(false); }, "remove.last"},
      {Remove, [](R r) { r.mutable_remove()->mutable_parent_mtime()->set_nanos(~0u); }, "mtime"},
      {Rename, [](R r) { r.mutable_rename()->set_object(1); }, "rename.object"},
      {Rename, [](R r) { r.mutable_rename()->set_from_parent(0); }, "rename.from_parent"},
      {Rename, [](R r) { r.mutable_rename()->set_to_parent(0); }, "rename.to_parent"},
      {Rename, [](R r) { r.mutable_rename()->set_to_parent(Id(1)); }, "its own parent"},
      {Rename, [](R r) { r.mutable_rename()->set_from_name(".."); }, "rename.from_name"},
      {Rename, [](R r) { r.mutable_rename()->set_to_name(""); }, "rename.to_name"},
      {Rename, [](R r) { r.mutable_rename()->set_to_name("a"); }, "is the name it has"},
      {Rename, [](R r) { r.mutable_rename()->set_replaced(1); }, "rename.replaced"},
      {Rename, [](R r) { r.mutable_rename()->set_replaced(Id(1)); }, "the object that moves"},
      {Rename, [](R r) { r.mutable_rename()->set_replaced(0); }, "nothing is replaced"},
      {Rename, [](R r) { r.mutable_rename()->set_whiteout(1); }, "rename.whiteout"},
      {Rename, [](R r) { r.mutable_rename()->set_whiteout(Id(1)); }, "not a new object"},
      {Rename, [](R r) { r.mutable_rename()->set_whiteout(Id(2)); }, "not a new object"},
      {Rename, [](R r) { r.mutable_rename()->set_whiteout(Id(3)); }, "not a new object"},
      {Rename, [](R r) { r.mutable_rename()->mutable_from_parent_mtime()->set_nanos(~0u); },
       "from_parent_mtime"},
      {Rename, [](R r) { r.mutable_rename()->mutable_to_parent_mtime()->set_nanos(~0u); },
       "to_parent_mtime"},
      {Rename, [](R r) { r.mutable_rename()->mutable_object_mtime(); }, "rename.object_mtime"},
      {Exchange, [](R r) { r.mutable_rename()->mutable_replaced_mtime(); }, "no parents change"},
      {Exchange,
       [](R r) {
         r.mutable_rename()->set_to_parent(Id(5));
         r.mutable_rename()->mutable_object_mtime()->set_nanos(~0u);
       },
       "rename.object_mtime.nanos"},
      {Exchange, [](R r) { r.mutable_rename()->set_replaced(0); }, "rename.replaced"},
      {Exchange, [](R r) { r.mutable_rename()->set_replaced_last(true); }, "replaced_last"},
      {Exchange, [](R r) { r.mutable_rename()->set_whiteout(Id(4)); }, "rename.whiteout"},
      {Write, [](R r) { r.mutable_write()->set_object(1); }, "write.object"},
      {Write, [](R r) { r.mutable_write()->clear_extents(); }, "write.extents: there is none"},
      {Write, [](R r) { r.mutable_write()->mutable_extents(0)->set_length(0); }, "length: is 0"},
      {Write, [](R r) { r.mutable_write()->mutable_extents(0)->set_length(5); }, "hold 11 bytes"},
      {Write, [](R r) { r.mutable_write()->mutable_extents(0)->set_length(3); }, "hold 9 bytes"},
      {Write, [](R r) { r.mutable_write()->mutable_extents(1)->set_offset(3); }, "begins before 4"},
      {Write, [](R r) { r.mutable_write()->mutable_extents()->SwapElements(0, 1); },
       "begins before"},
      {Write, [](R r) { r.mutable_write()->mutable_extents(1)->set_offset(kMaxOffset - 5); },
       "over 2^63"},
      {Write, [](R r) { r.mutable_write()->mutable_extents(1)->set_offset(~uint64_t{0} - 2); },
       "over 2^63"},
      {Write, [](R r) { r.mutable_write()->mutable_extents(0)->set_length(~uint64_t{0}); },
       "over 2^63"},
      {Write, [](R r) { r.mutable_write()->set_size(kMaxOffset - 1); }, "write.size"},
      {Write, [](R r) { r.mutable_write()->set_size(kMaxOffset + 1); }, "write.size"},
      {Write, [](R r) { r.mutable_write()->mutable_mtime()->set_nanos(~0u); }, "write.mtime"},
      {Truncate, [](R r) { r.mutable_truncate()->set_object(0); }, "truncate.object"},
      {Truncate, [](R r) { r.mutable_truncate()->set_size(kMaxOffset + 1); }, "truncate.size"},
      {Truncate, [](R r) { r.mutable_truncate()->mutable_mtime()->set_nanos(~0u); }, "mtime"},
      {Allocate, [](R r) { r.mutable_allocate()->set_object(0); }, "allocate.object"},
      {Allocate, [](R r) { r.mutable_allocate()->set_mode(0x04); }, "allocate.mode"},
      {Allocate, [](R r) { r.mutable_allocate()->set_mode(0x80); }, "allocate.mode"},
      {Allocate, [](R r) { r.mutable_allocate()->clear_extent(); }, "allocate.extent"},
      {Allocate, [](R r) { r.mutable_allocate()->mutable_extent()->set_length(0); }, "length"},
      {Allocate, [](R r) { r.mutable_allocate()->mutable_extent()->set_offset(kMaxOffset); },
       "over 2^63"},
      {Allocate, [](R r) { r.mutable_allocate()->set_size(~uint64_t{0}); }, "allocate.size"},
      {Allocate, [](R r) { r.mutable_allocate()->mutable_mtime()->set_nanos(~0u); }, "mtime"},
      {SetAttributes, [](R r) { r.mutable_set_attributes()->set_object(0); }, "object"},
      {SetAttributes, [](R r) { r.mutable_set_attributes()->clear_attributes(); }, "is not set"},
      {SetAttributes, [](R r) { r.mutable_set_attributes()->mutable_atime()->set_nanos(~0u); },
       "set_attributes.atime"},
      {SetXattr, [](R r) { r.mutable_set_xattr()->set_object(0); }, "set_xattr.object"},
      {SetXattr, [](R r) { r.mutable_set_xattr()->clear_xattr(); }, "set_xattr.xattr"},
      {SetXattr, [](R r) { r.mutable_set_xattr()->mutable_xattr()->mutable_name()->append("a"); },
       "1 to 255 bytes"},
      {SetXattr, [](R r) { r.mutable_set_xattr()->mutable_xattr()->set_name("a\0b"s); }, "NUL"},
      {SetXattr, [](R r) { r.mutable_set_xattr()->mutable_xattr()->mutable_value()->append("a"); },
       "over 65536"},
      {SetXattr, [](R r) { r.mutable_set_xattr()->clear_attributes(); }, "is not set"},
      {RemoveXattr, [](R r) { r.mutable_remove_xattr()->set_object(0); }, "remove_xattr.object"},
      {RemoveXattr, [](R r) { r.mutable_remove_xattr()->set_name(""); }, "remove_xattr.name"},
      {RemoveXattr, [](R r) { r.mutable_remove_xattr()->clear_attributes(); }, "is not set"},
  };
  for (const Mistake& mistake : mistakes) {
    Record record = mistake.make();
    mistake.break_it(record);
    FillTouches(record);
    const absl::Status status = OpenRecord(Seal(record)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << Describe(record);
    EXPECT_THAT(std::string(status.message()), HasSubstr(mistake.message)) << Describe(record);
  }
}

TEST(OpenRecordTest, TouchesMustBeThoseOfTheOp) {
  using R = Record&;
  const Mistake mistakes[] = {
      {Create, [](R r) { r.clear_touches(); }, "touches: there are 0, the op has 3"},
      {Create, [](R r) { r.mutable_touches()->RemoveLast(); }, "there are 2, the op has 3"},
      {Create, [](R r) { *r.add_touches() = r.touches(2); }, "there are 4, the op has 3"},
      {Create, [](R r) { r.mutable_touches()->SwapElements(1, 2); }, "touches[1]"},
      {Create, [](R r) { r.mutable_touches(0)->set_name("other"); }, "touches[0]"},
      {Create, [](R r) { r.mutable_touches(0)->set_name(".."); }, "touches.name"},
      {Create, [](R r) { r.mutable_touches(0)->set_object(Id(77)); }, "touches[0]"},
      {Create, [](R r) { r.mutable_touches(1)->set_object(Id(77)); }, "touches[1]"},
      {Create, [](R r) { r.mutable_touches(1)->set_name("n"); }, "touches[1]"},
      {Create, [](R r) { r.mutable_touches(1)->clear_aspect(); }, "touches[1]"},
      {Create, [](R r) { r.mutable_touches(1)->set_against(5); }, "for a new object"},
      {Rename, [](R r) { r.mutable_touches(4)->set_against(5); }, "for a new object"},
      {Write, [](R r) { r.mutable_touches(0)->set_aspect(record::v1::ASPECT_ATTRIBUTES); },
       "touches[0]"},
      {Write,
       [](R r) {
         for (int i = 0; i < kMaxRecordTouches; ++i) *r.add_touches() = r.touches(0);
       },
       "are over 16"},
  };
  for (const Mistake& mistake : mistakes) {
    Record record = mistake.make();
    mistake.break_it(record);
    const absl::Status status = OpenRecord(Seal(record)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << mistake.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(mistake.message));
  }
  // Any version may be stated for what was there before.
  Record record = Rename();
  for (int i : {0, 1, 2, 3}) record.mutable_touches(i)->set_against(Id(5));
  EXPECT_TRUE(OpenRecord(Seal(record)).ok());
}

TEST(OpenRecordTest, EachMistakeOfAnEntryIsRefused) {
  const std::pair<std::function<void(Entry&)>, const char*> mistakes[] = {
      {[](Entry& e) { e.clear_record(); }, "entry.record: has 0 bytes"},
      {[](Entry& e) { e.mutable_record()->resize(kMaxRecordBytes + 1); },
       "entry.record: has 262145"},
      {[](Entry& e) { e.set_record("\xff\xff\xff"); }, "not a serialized record"},
      {[](Entry& e) { e.mutable_record()->pop_back(); }, "not a serialized record"},
      {[](Entry& e) { e.mutable_record()->append("\xf8\x07\x01"); }, "later version"},
      {[](Entry& e) { e.set_chain("short"); }, "entry.chain"},
      {[](Entry& e) { e.set_codec(static_cast<record::v1::PayloadCodec>(7)); }, "entry.codec: 7"},
      {[](Entry& e) { e.mutable_payload()->append("x"); }, "entry.payload: has 11"},
      {[](Entry& e) { e.set_payload(std::string(kMaxPayloadBytes + 1, 'x')); }, "entry.payload"},
      {[](Entry& e) { e.set_payload_length(0); }, "entry.payload_length: 0"},
      {[](Entry& e) { e.set_payload_length(kMaxPayloadBytes + 1); }, "entry.payload_length"},
  };
  for (const auto& [break_it, message] : mistakes) {
    Entry entry = Seal(Write());
    break_it(entry);
    const absl::Status status = OpenRecord(entry).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(OpenRecordTest, PayloadAndDigestGoTogether) {
  // Bytes beside a record that has none.
  Entry entry = Seal(Truncate());
  entry.set_payload("x");
  EXPECT_EQ(OpenRecord(entry).status().code(), absl::StatusCode::kInvalidArgument);
  entry.clear_payload();
  entry.set_payload_length(1);
  EXPECT_EQ(OpenRecord(entry).status().code(), absl::StatusCode::kInvalidArgument);
  // A truncate with a payload; a write without; a digest of the wrong length.
  EXPECT_EQ(OpenRecord(SealEntry(Truncate(), "x")).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenRecord(SealEntry(Write(), "")).status().code(), absl::StatusCode::kInvalidArgument);
  Record record = *OpenRecord(Seal(Write()));
  record.mutable_payload()->set_xxh3("x");
  entry = Seal(Write());
  record.SerializeToString(entry.mutable_record());
  EXPECT_THAT(std::string(OpenRecord(entry).status().message()), HasSubstr("payload.xxh3"));
}

TEST(OpenRecordTest, PayloadMayBeLeftOut) {
  Entry entry = Seal(Write());
  entry.clear_payload();
  EXPECT_TRUE(OpenRecord(entry).ok());
}

TEST(OpenRecordTest, UnknownFieldsDeepInsideAreRefused) {
  Record record = Write();
  record.mutable_write()
      ->mutable_extents(1)
      ->GetReflection()
      ->MutableUnknownFields(record.mutable_write()->mutable_extents(1))
      ->AddVarint(99, 1);
  EXPECT_THAT(std::string(OpenRecord(Seal(record)).status().message()), HasSubstr("later version"));
}

// Whatever a peer sends, the answer is a status: no crash, and what passes is described and hashed.
TEST(OpenRecordTest, DamagedBytesNeverCrash) {
  std::mt19937_64 random(2);
  for (Make make : kGood) {
    const Entry good = Seal(make());
    for (int round = 0; round < 300; ++round) {
      Entry entry = good;
      std::string& bytes = *entry.mutable_record();
      bytes[random() % std::min<size_t>(bytes.size(), 200)] = static_cast<char>(random());
      const absl::StatusOr<Record> record = OpenRecord(entry);
      if (!record.ok()) {
        EXPECT_EQ(record.status().code(), absl::StatusCode::kInvalidArgument);
        continue;
      }
      Describe(*record);
      OpenPayload(entry, *record).status().IgnoreError();
    }
  }
}

}  // namespace
}  // namespace intermezzo
