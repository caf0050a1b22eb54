// The node's database: reopening, atomic batches, the local journal, views, format.
#include "services/sidecar/node_db/node_db.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include "absl/strings/escaping.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::sidecar {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

storage::v1::ObjectRow FileRow(uint64_t inode) {
  storage::v1::ObjectRow row;
  row.set_kind(record::v1::OBJECT_KIND_FILE);
  row.set_handle_type(1);
  row.set_handle("\x01\x02\x03\x04\x05\x06\x07\x08");
  row.set_inode(inode);
  row.set_data_version(0x1000000002a);
  row.set_attributes_version(0x1000000002a);
  auto* link = row.add_links();
  link->set_parent(1);
  link->set_name("a");
  return row;
}

record::v1::Entry LocalEntry(const std::string& record) {
  record::v1::Entry entry;
  entry.set_record(record);
  return entry;
}

std::unique_ptr<NodeDb> OpenDb(const std::string& dir) {
  auto db = NodeDb::Open(dir);
  EXPECT_TRUE(db.ok()) << db.status();
  return db.ok() ? *std::move(db) : nullptr;
}

std::vector<uint64_t> LocalSeqs(const NodeDb& db, uint64_t after = 0, size_t records = 1000,
                                size_t bytes = 1 << 20) {
  std::vector<uint64_t> seqs;
  for (const auto& [seq, entry] : db.ReadLocal(after, records, bytes)) seqs.push_back(seq);
  return seqs;
}

class NodeDbTest : public ::testing::Test {
 protected:
  void Commit(NodeDb& db, const std::function<void(NodeDb::Batch&)>& fill) {
    auto batch = db.NewBatch();
    fill(*batch);
    ASSERT_TRUE(db.Commit(std::move(batch), false).ok());
  }

  const tests::TempDir dir_;
  const std::string path_ = dir_.path() + "/db";
};

TEST_F(NodeDbTest, KeepsEverythingOverAReopen) {
  Commit(*OpenDb(path_), [](NodeDb::Batch& batch) {
    batch.PutObject(ObjectId(5), FileRow(77));
    storage::v1::EntryRow entry;
    entry.set_object(5);
    entry.set_version(42);
    batch.PutEntry(kRootObject, "a", entry);
    batch.AppendLocal(1, LocalEntry("first"));
    storage::v1::ReplicaRow state;
    state.set_format(1);
    state.set_cursor(9);
    batch.PutState(state);
  });
  auto db = OpenDb(path_);
  ASSERT_TRUE(db->Object(ObjectId(5)).has_value());
  EXPECT_EQ(db->Object(ObjectId(5))->SerializeAsString(), FileRow(77).SerializeAsString());
  EXPECT_EQ(db->ByInode(77), ObjectId(5));
  EXPECT_EQ(db->ByInode(78), ObjectId());
  EXPECT_EQ(db->Entry(kRootObject, "a")->version(), 42u);
  EXPECT_FALSE(db->Entry(kRootObject, "b").has_value());
  EXPECT_TRUE(db->HasEntries(kRootObject));
  EXPECT_FALSE(db->HasEntries(ObjectId(2)));
  EXPECT_EQ(db->State().cursor(), 9u);
  EXPECT_THAT(LocalSeqs(*db), ElementsAre(1));
}

TEST_F(NodeDbTest, RemovedObjectKeepsTheInodeOfItsSuccessor) {
  auto db = OpenDb(path_);
  Commit(*db, [](NodeDb::Batch& batch) { batch.PutObject(ObjectId(5), FileRow(77)); });
  Commit(*db, [](NodeDb::Batch& batch) { batch.PutObject(ObjectId(6), FileRow(77)); });
  Commit(*db, [](NodeDb::Batch& batch) { batch.RemoveObject(ObjectId(5), FileRow(77)); });
  EXPECT_FALSE(db->Object(ObjectId(5)).has_value());
  EXPECT_EQ(db->ByInode(77), ObjectId(6));
}

TEST_F(NodeDbTest, LocalJournalReadsInOrderAndDropsFromTheFront) {
  auto db = OpenDb(path_);
  for (uint64_t seq = 1; seq <= 300; ++seq) {
    Commit(*db, [&](NodeDb::Batch& b) { b.AppendLocal(seq, LocalEntry(std::string(100, 'x'))); });
  }
  EXPECT_THAT(LocalSeqs(*db, 0, 3), ElementsAre(1, 2, 3));
  EXPECT_THAT(LocalSeqs(*db, 254, 2), ElementsAre(255, 256));
  EXPECT_THAT(LocalSeqs(*db, 10, 100, 1), ElementsAre(11)) << "at least one, over the limit too";
  Commit(*db, [](NodeDb::Batch& batch) {
    batch.DropLocalThrough(256);
    batch.DropLocal(258);
  });
  EXPECT_THAT(LocalSeqs(*db, 0, 2), ElementsAre(257, 259));
  Commit(*db, [](NodeDb::Batch& batch) {
    batch.DropLocalThrough(256);  // again: nothing
    batch.DropLocalThrough(5000);
  });
  EXPECT_THAT(LocalSeqs(*db), ElementsAre());
}

TEST_F(NodeDbTest, DroppingALongRunDropsItWholly) {
  auto db = OpenDb(path_);
  Commit(*db, [](NodeDb::Batch& batch) {
    for (uint64_t seq = 1; seq <= 3000; ++seq) batch.AppendLocal(seq, LocalEntry("x"));
  });
  Commit(*db, [](NodeDb::Batch& batch) { batch.DropLocalThrough(2999); });
  EXPECT_THAT(LocalSeqs(*db), ElementsAre(3000));
  db.reset();
  EXPECT_THAT(LocalSeqs(*OpenDb(path_)), ElementsAre(3000));
}

TEST_F(NodeDbTest, ViewDoesNotMove) {
  auto db = OpenDb(path_);
  Commit(*db, [](NodeDb::Batch& batch) {
    batch.PutObject(ObjectId(5), FileRow(77));
    batch.PutObject(ObjectId(0x100000000000001), FileRow(78));
    storage::v1::EntryRow entry;
    entry.set_object(5);
    batch.PutEntry(kRootObject, "a", entry);
  });
  auto view = db->NewView();
  Commit(*db, [](NodeDb::Batch& batch) {
    batch.RemoveObject(ObjectId(5), FileRow(77));
    batch.RemoveEntry(kRootObject, "a");
    batch.PutObject(ObjectId(6), FileRow(79));
  });
  std::vector<uint64_t> ids;
  auto visit = [&](ObjectId id, const storage::v1::ObjectRow&) {
    ids.push_back(id.value());
    return true;
  };
  ASSERT_TRUE(view->ForEachObject(visit).ok());
  EXPECT_THAT(ids, ElementsAre(5, 0x100000000000001));
  EXPECT_TRUE(view->Entry(kRootObject, "a").has_value());
}

TEST_F(NodeDbTest, RefusesAnotherFormat) {
  Commit(*OpenDb(path_), [](NodeDb::Batch& batch) {
    storage::v1::ReplicaRow state;
    state.set_format(2);
    batch.PutState(state);
  });
  EXPECT_EQ(NodeDb::Open(path_).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(NodeDbTest, RefusesASecondProcessAndABadPlace) {
  auto db = OpenDb(path_);
  EXPECT_EQ(NodeDb::Open(path_).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(NodeDb::Open("/proc/no/such").status().code(), absl::StatusCode::kFailedPrecondition);
}

// The bytes on disk, as FORMAT.md shows them.
TEST_F(NodeDbTest, GoldenBytes) {
  Commit(*OpenDb(path_), [](NodeDb::Batch& batch) {
    batch.PutObject(ObjectId(Ordinal(1), 2), FileRow(77));
    storage::v1::EntryRow entry;
    entry.set_object(ObjectId(Ordinal(1), 2).value());
    entry.set_version(0x1000000002a);
    batch.PutEntry(kRootObject, "a", entry);
    batch.AppendLocal(42, LocalEntry("record"));
    storage::v1::ReplicaRow state;
    state.set_format(1);
    state.set_collection_uid(7);
    state.set_instance("i");
    state.set_cursor(3);
    state.set_chain("0123456789abcdef");
    state.set_last_origin_seq(42);
    state.set_ordinal(1);
    state.set_joined(true);
    batch.PutState(state);
  });
  std::vector<rocksdb::ColumnFamilyHandle*> families;
  rocksdb::DB* db = nullptr;
  ASSERT_TRUE(
      rocksdb::DB::OpenForReadOnly({}, path_, {{"default", {}}, {"local", {}}}, &families, &db)
          .ok());
  std::vector<std::pair<std::string, std::string>> rows;
  for (rocksdb::ColumnFamilyHandle* family : families) {
    std::unique_ptr<rocksdb::Iterator> it(db->NewIterator({}, family));
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      rows.emplace_back(absl::BytesToHexString(it->key().ToString()),
                        absl::BytesToHexString(it->value().ToString()));
    }
  }
  for (auto* family : families) db->DestroyColumnFamilyHandle(family);
  delete db;
  EXPECT_THAT(
      rows, ElementsAre(
                Pair("65000000000000000161", "0882808080802010aa8080808020"),
                Pair("69000000000000004d", "0000010000000002"),
                Pair("6d7374617465",
                     "080110071a016920032a1030313233343536373839616263646566302a48015801"),
                Pair("6f0000010000000002",
                     "080110011a080102030405060708204d28aa808080802030aa80808080203a050801120161"),
                Pair("6c000000000000002a", "12067265636f7264")));
}

}  // namespace
}  // namespace intermezzo::sidecar
