// The token-service's database: reopening, atomic changes, format.
#include "services/token-service/store/token_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <fstream>

#include "absl/strings/escaping.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::token {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class TokenStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<TokenStore> Open() {
    auto store = TokenStore::Open(path_);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
  // Every row, keys and values in hexadecimal.
  std::vector<std::pair<std::string, std::string>> Bytes() {
    rocksdb::DB* raw = nullptr;
    EXPECT_TRUE(rocksdb::DB::OpenForReadOnly(rocksdb::Options(), path_, &raw).ok());
    std::unique_ptr<rocksdb::DB> db(raw);
    std::vector<std::pair<std::string, std::string>> rows;
    std::unique_ptr<rocksdb::Iterator> it(db->NewIterator(rocksdb::ReadOptions()));
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      rows.emplace_back(absl::BytesToHexString(it->key().ToString()),
                        absl::BytesToHexString(it->value().ToString()));
    }
    return rows;
  }

  const tests::TempDir dir_;
  const std::string path_ = dir_.path() + "/token";
};

// The example of FORMAT.md.
StoreChange Example() {
  StoreChange change;
  change.state.emplace();
  change.state->set_format(1);
  change.state->set_last_ordinal(1);
  change.state->set_last_collection_uid(7);
  change.state->set_last_request(1);
  registry::v1::Node& node = change.nodes.emplace_back();
  node.set_name("web1");
  node.set_instance("a");
  node.set_ordinal(1);
  storage::v1::CollectionRow& collection = change.collections.emplace_back();
  collection.mutable_collection()->set_name("www");
  collection.mutable_collection()->set_uid(7);
  collection.set_phase(storage::v1::COLLECTION_PHASE_READY);
  registry::v1::Replica& replica = change.replicas.emplace_back();
  replica.set_collection("www");
  replica.set_node("web1");
  replica.set_collection_uid(7);
  auto& [number, request] = change.requests.emplace_back();
  number = 1;
  request.set_request_id("x");
  request.set_fingerprint("y");
  return change;
}

GrantRow Grant(uint64_t epoch, const std::string& node) {
  return GrantRow{7, Epoch(epoch), Holder{node, node.empty() ? "" : "a"}, absl::Seconds(10)};
}

TEST_F(TokenStoreTest, ReopensWithEverything) {
  {
    auto store = Open();
    ASSERT_TRUE(store->Commit(Example()).ok());
    ASSERT_TRUE(store->WriteGrants({Grant(2, "web2"), Grant(3, "web1")}).ok());
  }
  auto contents = Open()->Load();
  ASSERT_TRUE(contents.ok()) << contents.status();
  EXPECT_EQ(contents->state.last_ordinal(), 1u);
  EXPECT_THAT(contents->incarnations, ElementsAre(Pair(Pair("web1", "a"), 1)));
  ASSERT_EQ(contents->nodes.size(), 1u);
  ASSERT_EQ(contents->collections.size(), 1u);
  EXPECT_EQ(contents->collections[0].collection().uid(), 7u);
  ASSERT_EQ(contents->replicas.size(), 1u);
  ASSERT_EQ(contents->grants.size(), 1u);
  EXPECT_EQ(contents->grants[7].epoch, Epoch(3));
  EXPECT_EQ(contents->grants[7].holder, (Holder{"web1", "a"}));
  EXPECT_EQ(contents->grants[7].lease, absl::Seconds(10));
  EXPECT_EQ(contents->requests[1].request_id(), "x");
}

TEST_F(TokenStoreTest, DropsRowsButNeverIncarnations) {
  auto store = Open();
  ASSERT_TRUE(store->Commit(Example()).ok());
  ASSERT_TRUE(store->WriteGrants({Grant(3, "web1")}).ok());
  StoreChange change;
  change.dropped_collections = {"www"};
  change.dropped_replicas = {{"www", "web1"}};
  change.dropped_grants = {7};
  change.dropped_requests = {1};
  registry::v1::Node& node = change.nodes.emplace_back();
  node.set_name("web1");
  node.set_instance("b");
  node.set_ordinal(2);
  ASSERT_TRUE(store->Commit(change).ok());
  auto contents = store->Load();
  ASSERT_TRUE(contents.ok());
  EXPECT_THAT(contents->collections, IsEmpty());
  EXPECT_THAT(contents->replicas, IsEmpty());
  EXPECT_THAT(contents->grants, IsEmpty());
  EXPECT_THAT(contents->requests, IsEmpty());
  EXPECT_THAT(contents->incarnations,
              ElementsAre(Pair(Pair("web1", "a"), 1), Pair(Pair("web1", "b"), 2)));
}

TEST_F(TokenStoreTest, GoldenBytes) {
  {
    auto store = Open();
    ASSERT_TRUE(store->Commit(Example()).ok());
    ASSERT_TRUE(store->WriteGrants({Grant(3, "web1")}).ok());
  }
  EXPECT_THAT(Bytes(),
              ElementsAre(Pair("63777777", "0a070a0377777710071002"),
                          Pair("670000000000000007",
                               "080312047765623"
                               "11a01612080c8afa025"),
                          Pair("69776562312f61", "0801"), Pair("6d7374617465", "0801100118072001"),
                          Pair("6e77656231", "0a04776562311201611801"),
                          Pair("710000000000000001", "0a0178120179"),
                          Pair("727777772f77656231",
                               "0a0377777712047765623"
                               "11807")));
}

TEST_F(TokenStoreTest, RefusesAnotherFormatAndASecondProcess) {
  auto store = Open();
  auto second = TokenStore::Open(path_);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  StoreChange change;
  change.state.emplace();
  change.state->set_format(2);
  ASSERT_TRUE(store->Commit(change).ok());
  store.reset();
  auto other = TokenStore::Open(path_);
  EXPECT_TRUE(absl::IsFailedPrecondition(other.status())) << other.status();
}

TEST_F(TokenStoreTest, DamagedRowIsAnError) {
  Open();
  {
    rocksdb::DB* raw = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(rocksdb::Options(), path_, &raw).ok());
    std::unique_ptr<rocksdb::DB> db(raw);
    ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), "cwww", "\xff").ok());
  }
  EXPECT_TRUE(absl::IsDataLoss(Open()->Load().status()));
}

TEST_F(TokenStoreTest, DirectoryThatCannotBeMadeIsAnError) {
  std::ofstream(dir_.path() + "/file") << "x";
  EXPECT_TRUE(absl::IsFailedPrecondition(TokenStore::Open(dir_.path() + "/file/db").status()));
}

}  // namespace
}  // namespace intermezzo::token
