// The journal database's bytes: golden files, so that a change of the format is seen and decided.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "services/journal-service/core/admission.h"
#include "services/journal-service/rocksdb/format.h"
#include "services/journal-service/rocksdb/rocksdb_journal_store.h"
#include "tests/support/record_maker.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::journal {
namespace {

using tests::RecordMaker;

std::string Hex(const rocksdb::Slice& bytes) {
  return absl::BytesToHexString(absl::string_view(bytes.data(), bytes.size()));
}

// Every row of every family: family, key and value in hex.
std::string Dump(const Database& database) {
  std::string out;
  for (size_t i = 0; i < kFamilyNames.size(); ++i) {
    std::unique_ptr<rocksdb::Iterator> rows(
        database.db().NewIterator(rocksdb::ReadOptions(), database.family(static_cast<Family>(i))));
    for (rows->SeekToFirst(); rows->Valid(); rows->Next()) {
      absl::StrAppend(&out, kFamilyNames[i], " ", Hex(rows->key()), " ", Hex(rows->value()), "\n");
    }
  }
  return out;
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

void AppendTo(Journal& journal, uint64_t previous, std::vector<record::v1::Entry> entries) {
  auto batch = PrepareBatch(Ordinal(3), Epoch(5), previous, std::move(entries));
  ASSERT_TRUE(batch.ok()) << batch.status();
  absl::Notification finished;
  journal.Append(*std::move(batch), [&](absl::StatusOr<Confirmation> result) {
    EXPECT_TRUE(result.ok()) << result.status();
    finished.Notify();
  });
  finished.WaitForNotification();
}

// A small journal: a directory with a file and its content, a name that went, a cursor, a trim.
TEST(JournalFormatTest, DatabaseIsAsTheGoldenFileSays) {
  tests::TempDir dir;
  RocksDbJournalStore::Options options;
  options.database.dir = dir.path();
  absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  options.clock = [&now] { return now; };
  options.maintenance_interval = absl::InfiniteDuration();
  auto store = RocksDbJournalStore::Open(std::move(options));
  ASSERT_TRUE(store.ok()) << store.status();
  const auto name = *CollectionName::Parse("www");
  ASSERT_TRUE((*store)->Create(name, 0x0102030405060708, absl::ZeroDuration()).ok());
  auto journal = *(*store)->Find(name);

  RecordMaker node(3);
  const uint64_t dir_id = node.NewObject(), file = node.NewObject(), gone = node.NewObject();
  AppendTo(*journal, 0,
           {RecordMaker::Seal(node.Mkdir(1, "dir", dir_id)),
            RecordMaker::Seal(node.Create(dir_id, "file", file)),
            RecordMaker::Seal(node.Create(1, "gone", gone)),
            RecordMaker::Seal(node.Remove(1, "gone", gone)),
            RecordMaker::Seal(node.Write(file, 0, 5), "hello")});
  now += absl::Seconds(1);
  ASSERT_TRUE(journal->SetCursors({{"n1", Seq(2)}}).ok());
  ASSERT_EQ(*journal->Trim(), 2u);

  const std::string path = INTERMEZZO_GOLDEN_DIR "/journal_db.txt";
  const std::string dump = Dump((*store)->database());
  EXPECT_EQ(dump, ReadFile(path)) << "if the change is meant: a new format version, and " << path;
}

TEST(JournalFormatTest, RowsComeBack) {
  const ObjectState object{record::v1::OBJECT_KIND_DIRECTORY,
                           Version(Ordinal(3), 1),
                           Version(Ordinal(4), 2),
                           ObjectId(Ordinal(5), 3),
                           1,
                           77};
  EXPECT_EQ(*format::DecodeObject(format::EncodeObject(object)), object);
  const EntryState entry{Version(Ordinal(3), 1), ObjectId(Ordinal(5), 3)};
  EXPECT_EQ(*format::DecodeEntry(format::EncodeEntry(entry)), entry);
  const OriginState origin{12, Seq(34), std::string(16, 'h')};
  EXPECT_EQ(*format::DecodeOrigin(format::EncodeOrigin(origin)), origin);
  EXPECT_EQ(*format::SeqOfEntryKey(format::EntryKey(7, Seq(99))), Seq(99));
}

TEST(JournalFormatTest, BrokenRowsAreDataLoss) {
  const std::string object = format::EncodeObject(FreshRoot());
  const std::string entry = format::EncodeEntry({kInitialVersion, kRootObject});
  const std::string origin = format::EncodeOrigin({1, Seq(1), std::string(16, 'h')});
  for (size_t cut = 0; cut < object.size(); ++cut) {
    EXPECT_TRUE(absl::IsDataLoss(format::DecodeObject(object.substr(0, cut)).status()));
  }
  for (size_t cut = 0; cut < entry.size(); ++cut) {
    EXPECT_TRUE(absl::IsDataLoss(format::DecodeEntry(entry.substr(0, cut)).status()));
  }
  for (size_t cut = 0; cut < origin.size(); ++cut) {
    EXPECT_TRUE(absl::IsDataLoss(format::DecodeOrigin(origin.substr(0, cut)).status()));
  }
  EXPECT_TRUE(absl::IsDataLoss(format::DecodeObject(object + "x").status()));
  EXPECT_TRUE(absl::IsDataLoss(format::DecodeJournal("nonsense").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(format::CheckFormatValue(std::string("\0\0\0\2", 4))));
}

TEST(JournalFormatTest, KeysSortAsTheirNumbers) {
  EXPECT_LT(format::EntryKey(1, Seq(255)), format::EntryKey(1, Seq(256)));
  EXPECT_LT(format::EntryKey(1, Seq(~0ull)), format::UidEnd(1));
  EXPECT_LT(format::UidEnd(1), format::UidBegin(2));
  EXPECT_LT(format::NameKey(1, ~0ull, std::string(255, '\xff')), format::UidEnd(1));
}

}  // namespace
}  // namespace intermezzo::journal
